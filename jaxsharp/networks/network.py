"""What the rest of the package sees of a network: pure functions, whatever library made them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsharp.core.chunks import mean_over_chunks


class Network(NamedTuple):
    """A network as pure functions of its parameters and BatchNorm statistics.

    ``init(key) -> (params, stats)``; ``apply(params, stats, images, train) -> (logits, stats)``,
    where evaluation mode (``train=False``) normalizes by ``stats`` and returns them unchanged;
    ``moments(params, stats, images) -> stats`` returns, in evaluation mode, the moments of the
    inputs of every BatchNorm layer about its running mean (see ``recompute_statistics``).
    """

    init: Callable
    apply: Callable
    moments: Callable


def recompute_statistics(network: Network, params, stats, images, *, chunk_size: int | None):
    """BatchNorm statistics that are the exact mean and biased variance over ``images``.

    Layer by layer: with the statistics of the first j layers exact, one pass makes those of layer
    j + 1 exact, so that as many passes over the data as there are BatchNorm layers are made, in
    evaluation mode and in chunks.
    """

    def is_layer(node):
        return isinstance(node, dict) and set(node) == {"mean", "var"}

    def update(old, new):
        return {"mean": old["mean"] + new["mean"], "var": new["var"] - jnp.square(new["mean"])}

    for _ in range(len(jax.tree.leaves(stats, is_leaf=is_layer))):
        collected = mean_over_chunks(
            lambda chunk, stats=stats: network.moments(params, stats, chunk), images, chunk_size
        )
        stats = jax.tree.map(update, stats, collected, is_leaf=is_layer)
    return stats
