"""Losses over a whole batch, as contrastive ones are, on the fixed batches that data are cut into.

    L(theta) = (1/K) sum_k l(outputs of batch k, targets of batch k)

A fixed batch has ``batch_size`` examples that follow each other in the stored order, K is how many
there are, and the examples that do not fill one are left out. So L is a mean again, of batches in
the place of examples, and all that streams means over examples streams it, a batch at a time.
"""

from collections.abc import Callable
from functools import lru_cache
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxsharp.core.choices import LARGEST, shown
from jaxsharp.core.chunks import num_examples
from jaxsharp.core.streaming import streams
from jaxsharp.core.trees import widen
from jaxsharp.networks.checks import check_enough
from jaxsharp.networks.losses import Loss, name_of, shown_shapes
from jaxsharp.networks.network import Network


@lru_cache(maxsize=32)  # so that one function is one static argument of compiled programs
def whole_batch(loss: Callable, batch_size: Any, accuracy: Callable | None = None) -> Loss:
    """The loss of a batch that is no mean over its examples: NT-Xent, CLIP's, VICReg's.

    ``loss(outputs, targets)``, and ``accuracy`` likewise, returns one number of a batch of any
    size. A step of training descends it on the batch of the step. The losses of a run, the rules
    that stop it, and measures have its mean over fixed batches of ``batch_size`` (`in_batches`).
    Raises ValueError for a ``batch_size`` that is no whole number from 2.
    """
    if not isinstance(batch_size, Integral) or not 2 <= batch_size <= LARGEST:
        raise ValueError(
            f"batch_size is {shown(batch_size)}; it must be a whole number from 2 to {LARGEST}"
        )
    kinds = (None if fn is None else of_batch(fn) for fn in (loss, accuracy))
    return Loss(name_of(loss), *kinds, whole=loss, batch_size=int(batch_size))


def of_batch(fn: Callable) -> Callable:
    """A function of a batch, in at least float32; ValueError unless it returns one number."""

    def number(outputs, targets):
        found = fn(outputs, targets)
        shapes = shown_shapes(found)
        if shapes != "()" or not jnp.issubdtype(jnp.result_type(found), jnp.floating):
            raise ValueError(
                f"{name_of(fn)} returns shape {shapes} for a batch; it must return one number, "
                "shape (), as floating point"
            )
        return widen(found)

    return number


@jax.transfer_guard("allow")
def in_batches(network: Network, batch: PyTree) -> tuple[Network, PyTree]:
    """A network and data whose examples are the fixed batches of its loss; others as they are.

    Of the data, arrays of shape (n, ...), the first n - n % batch_size examples are taken, as
    arrays of shape (K, batch_size, ...). The network takes these: its loss is the mean over the K
    batches, its outputs have their two axes, and K = 1 is a loss on one fixed batch. ValueError for
    data of fewer examples than a batch has, and for inputs that are streamed.
    """
    loss = network.loss
    if not is_cut(loss):
        return network, batch
    total = num_examples(batch)
    check_enough(loss, total)
    if streams(batch):
        raise ValueError(
            f"loss {loss.name} is one over whole batches, and the inputs do not fit the device and "
            "are streamed; such a loss takes inputs that the device holds"
        )
    used, size = loss.used(total), loss.batch_size
    cut = lambda leaf: leaf[:used].reshape(used // size, size, *leaf.shape[1:])  # noqa: E731
    return of_batches(network), jax.tree.map(cut, batch)


def is_cut(loss: Loss) -> bool:
    """Whether the data of a loss are yet to be cut into its batches."""
    return loss.batch_size is not None and not loss.stacked


@lru_cache(maxsize=32)  # so that one network is one static argument of compiled programs
def of_batches(network: Network) -> Network:
    """The network that takes the fixed batches of its loss along a leading axis; others as is."""
    if not is_cut(network.loss):
        return network

    def over(outputs, inputs):
        return outputs.reshape(*inputs.shape[:2], *outputs.shape[1:])

    def flat(inputs):
        return inputs.reshape(-1, *inputs.shape[2:])

    def apply(params, stats, inputs, train):
        outputs, stats = network.apply(params, stats, flat(inputs), train)
        return over(outputs, inputs), stats

    def random_apply(params, stats, inputs, train, key):
        outputs, stats = network.apply(params, stats, flat(inputs), train, key)
        return over(outputs, inputs), stats

    def moments(params, stats, centers, inputs):
        return network.moments(params, stats, centers, flat(inputs))

    return network._replace(
        apply=random_apply if network.is_random else apply,
        moments=None if network.moments is None else moments,
        loss=stacked(network.loss),
    )


@lru_cache(maxsize=32)
def stacked(loss: Loss) -> Loss:
    """The mean of a loss over batches along a leading axis."""

    def mean(fn):
        return None if fn is None else lambda *batches: jax.vmap(fn)(*batches).mean()

    return loss._replace(mean=mean(loss.mean), accuracy=mean(loss.accuracy), stacked=True)
