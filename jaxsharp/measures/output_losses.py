"""The losses that networks' outputs may have been trained with, for measures that must know it."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, PyTree

from jaxsharp.core.choices import known
from jaxsharp.curvature.likelihoods import sigmoid_factors, softmax_factors, squared_factors
from jaxsharp.networks.network import Network


class OutputLoss(NamedTuple):
    """Factors of an output loss's Hessian, and what outputs and targets must be."""

    factors: Callable
    check: Callable


def _check_classes(outputs: tuple[int, ...], targets: np.ndarray) -> str | None:
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        return (
            f"targets of shape {targets.shape} and {targets.dtype}; it takes one class an example"
        )
    if targets.size and not 0 <= targets.min() <= targets.max() < outputs[1]:
        return f"targets from {targets.min()} to {targets.max()}; classes are 0 to {outputs[1] - 1}"
    return None


def _check_shares(outputs: tuple[int, ...], targets: np.ndarray) -> str | None:
    if targets.shape != outputs and targets.shape != outputs[: 2 - (outputs[1] == 1)]:
        return f"targets of shape {targets.shape}; it takes one an output, {outputs}"
    if targets.size and not 0 <= targets.min() <= targets.max() <= 1:
        return f"targets from {targets.min()} to {targets.max()}; they must lie from 0 to 1"
    return None


def _check_numbers(outputs: tuple[int, ...], targets: np.ndarray) -> str | None:
    if targets.shape != outputs and targets.shape != outputs[: 2 - (outputs[1] == 1)]:
        return f"targets of shape {targets.shape}; it takes one an output, {outputs}"
    return None


# The loss of an example, summed over its outputs f: -log softmax(f)[y]; the binary cross-entropy of
# sigmoid(f) and y; (f - y)^2.
OUTPUT_LOSSES = {
    "cross_entropy": OutputLoss(softmax_factors, _check_classes),
    "binary_cross_entropy": OutputLoss(sigmoid_factors, _check_shares),
    "squared_error": OutputLoss(squared_factors, _check_numbers),
}


def check_fit(
    network: Network,
    params: PyTree,
    stats: PyTree,
    images: ArrayLike,
    targets: ArrayLike,
    loss: str,
) -> None:
    """Raise ValueError unless outputs and targets are such as an output loss takes.

    Of targets that are traced, shape and type alone are seen.
    """
    kind = OUTPUT_LOSSES[known("output loss", loss, OUTPUT_LOSSES)]
    outputs, _ = jax.eval_shape(partial(network.apply, train=False), params, stats, images)
    if outputs.ndim != 2 or (loss == "cross_entropy" and outputs.shape[1] < 2):
        raise ValueError(
            f"the network has outputs of shape {outputs.shape}; {loss} takes (examples, outputs)"
            + (", and 2 outputs or more" if loss == "cross_entropy" else "")
        )
    if isinstance(targets, jax.core.Tracer):
        targets = np.broadcast_to(np.zeros((), targets.dtype), targets.shape)
    if wrong := kind.check(outputs.shape, np.asarray(targets)):
        raise ValueError(f"{loss} does not fit {wrong}")
