"""Output losses whose second derivatives are known, for measures that must know them."""

from collections.abc import Callable

import jax
from jaxtyping import ArrayLike, PyTree

from jaxsharp.curvature.likelihoods import (
    combined_sigmoid,
    combined_softmax,
    combined_squared,
    sigmoid_factors,
    softmax_factors,
    squared_factors,
)
from jaxsharp.networks.checks import check_alone, check_fit
from jaxsharp.networks.losses import LOSSES, Loss
from jaxsharp.networks.network import Network

# Factors of the Hessian of the loss of an example, summed over its outputs f: -log softmax(f)[y];
# the binary cross-entropy of sigmoid(f) and y; (f - y)^2.
OUTPUT_LOSSES = {
    "cross_entropy": softmax_factors,
    "binary_cross_entropy": sigmoid_factors,
    "squared_error": squared_factors,
}
# Combinations of these factors, by weights.
COMBINED = {
    "cross_entropy": combined_softmax,
    "binary_cross_entropy": combined_sigmoid,
    "squared_error": combined_squared,
}


def factors_of(loss: Loss) -> Callable:
    """The factors of a network's loss; ValueError for one of which nothing is known."""
    if loss.name not in OUTPUT_LOSSES or LOSSES[loss.name] != loss:
        raise ValueError(
            f"the second derivatives of loss {loss.name} are not known; valid are "
            f"{', '.join(OUTPUT_LOSSES)}"
        )
    return OUTPUT_LOSSES[loss.name]


def check_known(
    network: Network, params: PyTree, stats: PyTree, inputs: ArrayLike, targets: ArrayLike
) -> None:
    """Raise ValueError unless the network's loss is known, and fits its outputs and the targets.

    Of targets that are traced, shape and type alone are seen.
    """
    factors_of(network.loss)
    outputs = jax.eval_shape(network.evaluate, params, stats, inputs)
    if outputs.ndim != 2:
        raise ValueError(f"outputs have shape {outputs.shape}; valid is (examples, outputs)")
    check_fit(network.loss, outputs, targets)
    check_alone(network, params, stats, inputs)
