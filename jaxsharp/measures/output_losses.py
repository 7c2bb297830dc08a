"""The losses that networks' outputs may have been trained with, for measures that must know it."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, PyTree

from jaxsharp.core.choices import known, known_classes
from jaxsharp.curvature.likelihoods import sigmoid_factors, softmax_factors, squared_factors
from jaxsharp.networks.network import Network


class OutputLoss(NamedTuple):
    """Factors of an output loss's Hessian, and what outputs and targets must be."""

    factors: Callable
    check: Callable


def _classes(outputs: tuple[int, ...], targets: ArrayLike) -> None:
    if outputs[1] < 2:
        raise ValueError(f"outputs have shape {outputs}; of one output softmax is constant")
    known_classes(targets, outputs[:1], outputs[1])


def _numbers(outputs: tuple[int, ...], targets: ArrayLike) -> None:
    shape, column = np.shape(targets), outputs[1] == 1
    if shape != outputs and not (column and shape == outputs[:1]):
        raise ValueError(
            f"targets have shape {shape}; they must have that of the outputs, {outputs}"
        )


def _shares(outputs: tuple[int, ...], targets: ArrayLike) -> None:
    _numbers(outputs, targets)
    if not isinstance(targets, jax.core.Tracer) and np.size(targets):
        low, high = np.min(targets), np.max(targets)
        if not 0 <= low <= high <= 1:
            raise ValueError(f"targets lie from {low} to {high}; they must lie from 0 to 1")


# The loss of an example, summed over its outputs f: -log softmax(f)[y]; the binary cross-entropy of
# sigmoid(f) and y; (f - y)^2.
OUTPUT_LOSSES = {
    "cross_entropy": OutputLoss(softmax_factors, _classes),
    "binary_cross_entropy": OutputLoss(sigmoid_factors, _shares),
    "squared_error": OutputLoss(squared_factors, _numbers),
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
    if outputs.ndim != 2:
        raise ValueError(f"outputs have shape {outputs.shape}; valid is (examples, outputs)")
    try:
        kind.check(outputs.shape, targets)
    except ValueError as reason:
        raise ValueError(f"{loss} does not fit: {reason}") from None
