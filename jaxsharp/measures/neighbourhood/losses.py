"""The loss over all examples, and its gradient, as functions of the parameters alone."""

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxsharp.core.chunks import mean_over_chunks
from jaxsharp.core.memory import Budget, affordable_chunk
from jaxsharp.core.trees import widen
from jaxsharp.networks.losses import CROSS_ENTROPY, Loss
from jaxsharp.networks.network import Network, recompute_statistics

VMAPPED = 8  # points at a time where a device works on them side by side


def side_by_side(vmapped: int | None, memory: Budget) -> int:
    """Points at a time: as given, or 1 on the CPU and 8 elsewhere, as ``memory`` says."""
    if vmapped is not None:
        return vmapped
    return VMAPPED if memory.vmapped else 1


def loss_around(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    memory: Budget,
    *,
    recompute: bool = False,
    chunk_size: int | None = None,
) -> Callable[[PyTree], Float[Array, ""]]:
    """Return L(theta), the mean loss over ``batch`` at any parameters like ``params``.

    With ``recompute`` BatchNorm statistics are made anew over ``batch`` at every point. Streams
    ``chunk_size`` examples at a time, None as ``memory`` allows.
    """
    if chunk_size is None:
        frozen = partial(network.frozen_loss(stats, batch[1]), params)
        chunk_size = affordable_chunk(frozen, batch, memory)

    def loss(params):
        at = stats
        if recompute:
            at = recompute_statistics(network, params, stats, batch[0], chunk_size=chunk_size)
        frozen = partial(network.frozen_loss(at, batch[1]), params)
        return mean_over_chunks(frozen, batch, chunk_size)

    return loss


def value_and_grad_around(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    memory: Budget,
    *,
    chunk_size: int | None = None,
) -> Callable[[PyTree], tuple[Float[Array, ""], PyTree]]:
    """Return L(theta) and its gradient, BatchNorm frozen, in chunks as `loss_around`."""
    of_chunk = jax.value_and_grad(network.frozen_loss(stats, batch[1]))
    if chunk_size is None:
        chunk_size = affordable_chunk(partial(of_chunk, params), batch, memory)
    return lambda params: mean_over_chunks(partial(of_chunk, params), batch, chunk_size)


@lru_cache(maxsize=32)  # so that one loss is one static argument of compiled programs
def of_normalized(loss: Loss) -> Loss:
    """Cross-entropy of logits with mean 0 and norm 1; ValueError for another loss."""
    if loss != CROSS_ENTROPY:
        raise ValueError(f"logits are normalized for cross_entropy; the loss is {loss.name}")

    def mean(logits, labels):
        centered = widen(logits) - jnp.mean(widen(logits), -1, keepdims=True)
        # The gradient of a norm at zero is NaN: equal logits stay zero, with zero gradient.
        squares = jnp.sum(jnp.square(centered), -1, keepdims=True)
        length = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
        return loss.mean(centered / length, labels)

    return Loss("normalized_cross_entropy", mean, loss.accuracy)


def with_normalized_logits(network: Network) -> Network:
    """The same network with the loss of its normalized logits."""
    return network._replace(loss=of_normalized(network.loss))
