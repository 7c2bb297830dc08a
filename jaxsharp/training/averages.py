"""Averages of the parameters over training, which are what is then evaluated and measured."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from jaxsharp.core.memory import Budget, affordable_chunk
from jaxsharp.networks.network import Network, recompute_statistics

AVERAGES = ("none", "ema", "swa")


class Averaging(NamedTuple):
    """Which average of the parameters is the result of a run; training itself does not see it.

    With t the parameters and a their average, which is t up to the end of epoch ``after``:

    ema   a <- decay * a + (1 - decay) * t in every step (Polyak and Juditsky 1992)
    swa   a <- a + (t - a) / k at the end of epoch after + k, the mean of the k latest ends of
          epochs (Izmailov et al. 2018, arXiv 1803.05407, algorithm 1, one epoch a cycle)

    The first parameters that count are copied, as PyTorch's ``AveragedModel`` does: the
    initialization is in no average.
    """

    kind: str = "none"
    decay: float = 0.999
    after: int = 0

    @property
    def is_on(self) -> bool:
        """Whether there is an average."""
        return self.kind != "none"

    def has_begun(self, epoch: Int[Array, ""]) -> Array | bool:
        """Whether the end of this epoch, counted from 1, is in the average."""
        return epoch > self.after if self.is_on else True


def after_step(
    averaging: Averaging, average: PyTree, params: PyTree, step: Array, steps: int
) -> PyTree:
    """The average after a step, counted from 0 over all epochs, of ``steps`` an epoch."""
    if averaging.kind != "ema":
        return average
    first = step <= averaging.after * steps
    return jax.tree.map(
        lambda a, t: jnp.where(first, t, averaging.decay * a + (1 - averaging.decay) * t),
        *(average, params),
    )


def after_epoch(
    averaging: Averaging, average: PyTree, params: PyTree, epoch: Int[Array, ""]
) -> PyTree:
    """The average at the end of an epoch, counted from 1."""
    if averaging.kind != "swa":
        return average
    count = epoch - averaging.after
    return jax.tree.map(
        lambda a, t: jnp.where(count <= 1, t, a + (t - a) / jnp.maximum(count, 1).astype(t.dtype)),
        *(average, params),
    )


def own_statistics(
    network: Network, average: PyTree, stats: PyTree, inputs: PyTree, memory: Budget
) -> PyTree:
    """Statistics of an average, exact over ``inputs``; ``stats`` are those of the trajectory."""
    chunk_size = affordable_chunk(
        lambda chunk: network.evaluate(average, stats, chunk), inputs, memory
    )
    return recompute_statistics(network, average, stats, inputs, chunk_size=chunk_size)


def check_averaging(averaging: Averaging, network: Network, inputs: PyTree) -> None:
    """Raise ValueError for a network whose statistics cannot be made anew for an average.

    Seen on a few inputs, before anything is trained. So for one with parameters of 16 bits: a decay
    of 0.999 is 1 in bfloat16, and what a step adds to an average is lost in its rounding.
    """
    if not averaging.is_on:
        return
    params, stats = jax.eval_shape(network.init, jax.eval_shape(lambda: jax.random.key(0)))
    narrow = [str(leaf.dtype) for leaf in jax.tree.leaves(params) if leaf.dtype.itemsize < 4]
    if narrow:
        raise ValueError(
            f"average is {averaging.kind}; it must be none for parameters in {narrow[0]}, which "
            "cannot hold an average; with compute bfloat16 training alone is in it"
        )
    if network.moments is None and jax.tree.leaves(stats):
        raise ValueError(
            f"average is {averaging.kind}; it must be none for a network that has statistics and "
            "no moments of them, as they cannot be recomputed (networks.Network)"
        )
    try:
        jax.eval_shape(network.moments or (lambda *_: ()), params, stats, stats, inputs)
    except ValueError as reason:
        raise ValueError(f"average is {averaging.kind}; it must be none: {reason}") from None
