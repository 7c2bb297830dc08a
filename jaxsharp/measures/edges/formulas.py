"""The curvature at which the steps of an optimizer on a quadratic become unstable.

Along an eigenvector of H with eigenvalue h (of D^(-1/2) H D^(-1/2) where steps are scaled by
D^(-1)), with momentum b,

    buf' = b buf + (h + weight_decay) x,    x' = a x - r buf',    a = 1 - lr decoupled_weight_decay

is stable for h + weight_decay < (1 + a) (1 + b) / r, where its characteristic polynomial
z^2 - (a + b - r (h + weight_decay)) z + a b has a root at -1. D is held fixed.

Python numbers give Python's, arrays arrays, inside jit too. Rates are those of the present step.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import ScalarLike

from jaxsharp.optimizers.arguments import (
    check_count,
    check_decay,
    check_non_negative,
    check_positive,
)


class BatchEdges(NamedTuple):
    """Of the batch sharpness of small and of large batches; without momentum the same."""

    small: ScalarLike
    large: ScalarLike


def heavy_ball_edge(
    learning_rate: ScalarLike,
    *,
    momentum: ScalarLike = 0.0,
    weight_decay: ScalarLike = 0.0,
    decoupled_weight_decay: ScalarLike = 0.0,
) -> ScalarLike:
    """Edge of the largest eigenvalue for full-batch heavy ball; without momentum gradient descent.

        (1 + momentum) (2 / learning_rate - decoupled_weight_decay) - weight_decay

    2/lr, and (2 + 2 b)/lr, without decay. The eigenvalue is that of the loss without the decay.
    Adagrad has the same edge, without momentum, for the eigenvalue preconditioned by its D.

    Cohen et al. 2021 (arXiv 2103.00065); decay is ours. Raises ValueError for a rate
    that is not positive, decay that is negative, a momentum outside of [0, 1).
    """
    check_positive(learning_rate=learning_rate)
    check_decay(momentum=momentum)
    check_non_negative(weight_decay=weight_decay, decoupled_weight_decay=decoupled_weight_decay)
    return (1 + momentum) * (2 / learning_rate - decoupled_weight_decay) - weight_decay


def adam_edge(
    learning_rate: ScalarLike,
    *,
    b1: ScalarLike = 0.9,
    count: ScalarLike | None = None,
    decoupled_weight_decay: ScalarLike = 0.0,
) -> ScalarLike:
    """Edge of the largest eigenvalue preconditioned by the D of full-batch Adam, or AdaBound.

        (1 + b1) (2 / learning_rate - decoupled_weight_decay) / (1 - b1)

    38/lr for b1 = 0.9 without decay. In Adam's first steps, after ``count`` of them, the corrected
    moment is m / (1 - b1^count), and the edge that part of this; None: later. AdaBound's D has the
    correction already. Coupled decay enters the gradients that make D, and has no such edge.

    Cohen et al. 2022 (arXiv 2207.14484); decay is ours. Raises ValueError for a rate that is not
    positive, decay that is negative, and a b1 outside of [0, 1).
    """
    check_decay(b1=b1)
    plain = heavy_ball_edge(
        learning_rate, momentum=b1, decoupled_weight_decay=decoupled_weight_decay
    )
    return plain / (1 - b1) if count is None else plain / (1 - b1) * (1 - b1**count)


def adashift_edge(learning_rate: ScalarLike, *, b1: float = 0.9, window: int = 10) -> ScalarLike:
    """Edge of the largest eigenvalue preconditioned by the D of full-batch AdaShift.

    Its first moment is a mean over a window, so that a step is

        x' = x - lr h sum_i w_i x_{t-i},    w_i = b1^i / sum_j b1^j,    i, j < window

    whose characteristic polynomial has a root z on the unit circle at lr h = (1 - z) / W(z), W(z) =
    sum_i w_i z^(-i). The edge is the smallest such number that is real and positive, found along
    the circle in float64. Raises ValueError for a b1 outside of [0, 1) or a window below 1.
    """
    check_positive(learning_rate=learning_rate)
    return edge_of_window(b1, window) / learning_rate


@lru_cache(maxsize=64)
def edge_of_window(b1: float, window: int) -> float:
    """lr h at the edge of AdaShift, for its momentum and window."""
    check_decay(b1=b1)
    check_count(window=window)
    weights = b1 ** np.arange(window)
    weights = weights / weights.sum()

    def found(angle):
        z = np.exp(1j * np.atleast_1d(angle))
        return (1 - z) / np.polyval(weights[::-1], 1 / z)

    # The last point, z = -1, is real by symmetry. Between others the imaginary part changes sign.
    grid = np.linspace(0, np.pi, 256 * window + 1)[1:]
    sides = np.sign(found(grid).imag)
    low, high = (part[:-1][sides[:-1] * sides[1:] < 0] for part in (grid, np.roll(grid, -1)))
    for _ in range(60 if len(low) else 0):
        middle = (low + high) / 2
        same = np.sign(found(middle).imag) == np.sign(found(low).imag)
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    values = found(np.append(low, np.pi)).real
    return float(values[values > 0].min())


def sam_edge(
    learning_rate: ScalarLike, *, rho: ScalarLike, gradient_norm: ScalarLike
) -> ScalarLike:
    """Edge of the largest eigenvalue for full-batch SAM over gradient descent.

        |g| / (2 rho) (sqrt(1 + 8 rho / (lr |g|)) - 1) = 4 / (lr (1 + sqrt(1 + 8 rho / (lr |g|))))

    At it lr h (1 + rho h / |g|) = 2. It lies below 2/lr, which it is for rho = 0, and nears 0 with
    the gradient.

    Long and Bartlett 2023 (arXiv 2309.12488). Raises ValueError for a rate that is not
    positive and a negative rho.
    """
    check_positive(learning_rate=learning_rate)
    check_non_negative(rho=rho)
    return 4 / (learning_rate * (1 + (1 + 8 * rho / (learning_rate * gradient_norm)) ** 0.5))


def batch_edges(learning_rate: ScalarLike, *, momentum: ScalarLike = 0.0) -> BatchEdges:
    """Where the batch sharpness of SGD comes to, with momentum that of small and large batches.

        2 (1 - momentum) / learning_rate,    2 (1 + momentum) / learning_rate

    arXiv 2412.20553 for 2/lr, arXiv 2604.14108 for momentum; what a small batch is they leave to
    observation. Raises ValueError for a momentum outside of [0, 1) and a rate that is not positive.
    """
    check_positive(learning_rate=learning_rate)
    check_decay(momentum=momentum)
    return BatchEdges(2 * (1 - momentum) / learning_rate, 2 * (1 + momentum) / learning_rate)
