"""What the rest of the package sees of a network: pure functions, whatever library made them."""

import inspect
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PyTree

from jaxsharp.core.choices import hashable
from jaxsharp.core.chunks import mean_over_chunks
from jaxsharp.core.convolutions import as_matrix_products, fast_in_loops
from jaxsharp.core.streaming import each
from jaxsharp.networks.losses import CROSS_ENTROPY, Loss

# Examples whose mean is the center about which moments are taken.
CENTERING = 32


class Network(NamedTuple):
    """A network as pure functions of its parameters and BatchNorm statistics.

    ``init(key) -> (params, stats)``; ``apply(params, stats, inputs, train) -> (outputs, stats)``,
    where evaluation mode (``train=False``) normalizes by ``stats`` and returns them unchanged.
    A network that draws random numbers in training, as dropout does, has a fifth argument ``key``:
    ``apply(params, stats, inputs, train, key)``, which is None in evaluation. ``stats`` is an
    empty dict where there are none.

    ``moments(params, stats, centers, inputs) -> stats`` returns, in evaluation mode, the mean and
    the mean square of the inputs of every BatchNorm layer about the ``mean`` that ``centers``, a
    tree like ``stats``, has for it. A network without ``moments`` has no statistics that
    `recompute_statistics` could make anew.

    ``loss`` is what the outputs are trained for, by which they are measured too. ``transposed``
    names the kernels of transposed convolutions of Flax, each with its ``transpose_kernel``
    (`weights`).
    """

    init: Callable
    apply: Callable
    moments: Callable | None = None
    loss: Loss = CROSS_ENTROPY
    transposed: tuple[tuple[str, bool], ...] = ()

    @property
    def is_random(self) -> bool:
        """Whether training draws random numbers."""
        return "key" in inspect.signature(self.apply).parameters

    def forward(self, params: PyTree, stats: PyTree, inputs: PyTree, key: Array | None) -> tuple:
        """Outputs and new statistics in training mode, random numbers by ``key``."""
        extra = (key,) if self.is_random else ()
        return self.apply(params, stats, inputs, True, *extra)

    def evaluate(self, params: PyTree, stats: PyTree, inputs: PyTree) -> PyTree:
        """Outputs in evaluation mode."""
        extra = (None,) if self.is_random else ()
        return self.apply(params, stats, inputs, False, *extra)[0]

    def frozen_loss(self, stats: PyTree, targets: ArrayLike | None = None) -> Callable:
        """Return ``f(params, (inputs, targets))``: the mean loss in evaluation mode, a scalar.

        The data loss alone, no weight decay. A loss by weights (`losses.by_weights`) needs the
        ``targets`` of all data, so that f may be averaged over chunks of them; ValueError without.
        So is one over whole batches, which is no mean over examples (`batches.in_batches`).
        """
        if self.loss.batch_size is not None and not self.loss.stacked:
            raise ValueError(
                f"loss {self.loss.name} is over whole batches of {self.loss.batch_size}, and no "
                "mean over examples; take networks.in_batches(network, batch) first"
            )
        if self.loss.weights is not None and targets is None:
            raise ValueError(
                f"loss {self.loss.name} has weights; give the targets of all data, "
                "frozen_loss(stats, targets), so that chunks of them count as they should"
            )
        total = None if targets is None else self.loss.total(targets)
        mean = self.loss.in_parts(self.loss.mean, total)
        return lambda params, batch: mean(self.evaluate(params, stats, batch[0]), batch[1])


@lru_cache(maxsize=32)  # so that one network is one static argument of compiled programs
def without_convolutions(network: Network) -> Network:
    """The same network to rounding, its convolutions as matrix products (`core.convolutions`)."""

    def apply(params, stats, inputs, train):
        at_mode = as_matrix_products(partial(network.apply, train=train))
        return at_mode(params, stats, inputs)

    def random_apply(params, stats, inputs, train, key):
        def at_mode(params, stats, inputs, key=None):
            return network.apply(params, stats, inputs, train, key)

        return as_matrix_products(at_mode)(params, stats, inputs, *((key,) if train else ()))

    # `recompute_statistics` does the same for the moments.
    return network._replace(apply=random_apply if network.is_random else apply)


def fast_here(network: Network) -> Network:
    """A network in the form that loops on this platform are fast with.

    Raises ValueError for one whose functions have no hash, which programs cannot be known by.
    """
    for name, part in network._asdict().items():
        hashable(f"{name} of the network", part)
    return without_convolutions(network) if jax.default_backend() == "cpu" else network


def is_layer(node) -> bool:
    """Whether a part of a tree of statistics is that of one BatchNorm layer."""
    return isinstance(node, dict) and set(node) == {"mean", "var"}


def recompute_statistics(
    network: Network,
    params: PyTree,
    stats: PyTree,
    images: PyTree,
    *,
    chunk_size: int | None = None,
) -> PyTree:
    """BatchNorm statistics that are the exact mean and biased variance over ``images``.

    Layer by layer: with the statistics of the first j layers exact, one pass makes those of layer
    j + 1 exact, so that as many passes over the data as there are BatchNorm layers are made, in
    evaluation mode and in chunks. Moments are taken about the mean of the first examples, so that
    nothing cancels where the running mean is far off, or the mean large beside the deviation.

    Raises ValueError for statistics of which the network does not say how they are made.
    """
    layers = jax.tree.leaves(stats, is_leaf=is_layer)
    if not layers:
        return stats
    if network.moments is None:
        raise ValueError(
            "statistics cannot be recomputed: the network has some, and no moments of them; valid "
            "are networks.from_nnx of modules with nnx.BatchNorm, or none recomputed"
        )
    moments = fast_in_loops(network.moments)
    few = each(lambda x: x[: min(CENTERING, chunk_size or CENTERING)], images)
    # A layer that is stacked, as by nnx.scan, stands for as many as its leading axes have.
    depth = sum(layer["mean"][..., 0].size for layer in layers if is_layer(layer))

    def one_more(_, stats):
        shifts = moments(params, stats, stats, few)
        centers = jax.tree.map(shifted, stats, shifts, is_leaf=is_layer)
        collected = mean_over_chunks(
            lambda chunk: moments(params, stats, centers, chunk), images, chunk_size
        )
        return jax.tree.map(shifted, centers, collected, is_leaf=is_layer)

    return jax.lax.fori_loop(0, max(1, depth), one_more, stats)


def shifted(center: dict, moments: dict) -> dict:
    """Mean and variance of a layer's input from its moments about a center."""
    offset = moments["mean"]
    variance = jnp.maximum(moments["var"] - jnp.square(offset), 0)  # a zero may round below it
    return {"mean": center["mean"] + offset, "var": variance}
