"""The scale problem: a sum of traces, minimized over all rescalings of the parameters.

With t_j >= 0 the trace of group j and a_j the exponents of its rescalings,

    min_v  sum_j t_j exp(-2 <a_j, v>),     v in R^K.

The logarithm of the objective is convex in v (a geometric program). Solved by damped Newton steps
in float64 until the gradient vanishes to rounding, with a lower bound by duality.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import ArrayLike, Float

GRADIENT_TOL = 1e-12
MAX_ITERATIONS = 200
# Exponents are degenerate to ROUNDING or by at least RESOLUTION, relative to the largest of them.
ROUNDING, RESOLUTION = 1e-10, 1e-6


class ScaleMinimum(NamedTuple):
    """Solution of the scale problem with its certificate.

    ``value``: minimum, or infimum where not ``attained``; ``log_scales`` (K,): the minimizing v
    (where not attained, the minimizer over the terms that do not vanish); ``gradient_norm``:
    norm of the gradient of log(objective) at v, zero at the minimum; ``error``: value minus a
    lower bound of the minimum by duality (see ``duality_gap``), exact up to rounding, for the
    traces as they are: what is wrong with these is not in it;
    ``iterations``: accepted and rejected Newton steps.
    """

    value: float
    log_scales: Float[np.ndarray, " K"]
    gradient_norm: float
    error: float
    iterations: int
    attained: bool


def chain_exponents(num_layers: int, biases: bool = True) -> Float[np.ndarray, "J K"]:
    """Exponents (J, D - 1) of a chain of D affine layers whose scales alpha_l multiply to one.

    Rows: weight 1, bias 1, weight 2, bias 2, ... (weights alone without ``biases``). With
    u_k = log alpha_k, k < D: weight l is scaled by alpha_l, a = e_l; bias l by the product of the
    scales so far, a = e_1 + ... + e_l; the last weight by the inverse of all others; the last bias
    not at all.
    """
    if num_layers < 1:
        raise ValueError(f"num_layers is {num_layers}; a chain has at least 1 layer")
    eye = np.eye(num_layers - 1)
    weights = np.vstack([eye, -np.ones((1, num_layers - 1))])
    if not biases:
        return weights
    return np.stack([weights, np.cumsum(weights, axis=0)], axis=1).reshape(2 * num_layers, -1)


def minimize_over_scales(
    traces: ArrayLike | Sequence, exponents: ArrayLike | Sequence
) -> ScaleMinimum:
    """Minimize sum_j t_j exp(-2 <a_j, v>) over v in R^K, in float64.

    ``traces`` t has shape (J,), ``exponents`` a shape (J, K).

    The infimum is attained exactly if 0 lies in the relative interior of the hull of the a_j with
    t_j > 0. Otherwise a direction exists in which some terms vanish and none grows; what is left
    are the terms on the face that holds 0 (found by a linear program), and their minimum is the
    infimum. Which of the two it is must be clear: exponents that a relative change between 1e-10
    and 1e-6 would move from one to the other are refused; a smaller one counts as rounding.

    Raises ValueError for such exponents, for traces that are negative or not finite, and for shapes
    that do not match.
    """
    traces, exponents = np.asarray(traces, np.float64), np.asarray(exponents, np.float64)
    check(traces, exponents)
    active = np.flatnonzero(traces > 0)
    face = on_face(exponents[active])
    if not is_resolved(exponents[active], face):
        raise ValueError(
            "exponents are nearly degenerate: a relative change of less than 1e-6 decides whether "
            "the infimum is attained; valid are exponents that are so to 1e-10 or by 1e-6"
        )
    kept = active[face]
    attained = len(kept) == len(active)
    if len(kept) == 0:
        return ScaleMinimum(0.0, np.zeros(exponents.shape[1]), 0.0, 0.0, 0, attained)
    # Coordinates in which the kept exponents have full rank, so that the minimum is unique.
    _, singular, rows = np.linalg.svd(exponents[kept], full_matrices=False)
    basis = rows[singular > ROUNDING * np.abs(exponents).max(initial=0.0)]
    log_traces, reduced = np.log(traces[kept]), exponents[kept] @ basis.T
    v, gradient_norm, iterations = newton(log_traces, reduced)
    value = float(np.exp(np.logaddexp.reduce(log_traces - 2 * reduced @ v)))
    gap = duality_gap(log_traces, reduced, v)
    return ScaleMinimum(value, v @ basis, gradient_norm, gap, iterations, attained)


def check(traces: np.ndarray, exponents: np.ndarray) -> None:
    """Raise ValueError for traces and exponents that do not pose a problem."""
    if traces.ndim != 1 or exponents.ndim != 2 or len(traces) != len(exponents):
        raise ValueError(
            f"traces have shape {traces.shape} and exponents {exponents.shape}; "
            "valid are (J,) and (J, K)"
        )
    bad = np.flatnonzero(~np.isfinite(traces) | (traces < 0))
    if bad.size:
        raise ValueError(f"traces[{bad[0]}] is {traces[bad[0]]}; traces are finite and >= 0")
    if not np.all(np.isfinite(exponents)):
        raise ValueError("exponents hold a value that is not finite")


def on_face(exponents: Float[np.ndarray, "J K"]) -> np.ndarray:
    """Mask of the rows that some combination sum_j lambda_j a_j = 0, lambda >= 0, weighs.

    One linear program: maximize sum_j s_j with 0 <= s_j <= min(1, lambda_j). The combinations
    form a cone, so that every row of the largest support reaches s_j = 1.
    """
    num, dim = exponents.shape
    if num == 0 or dim == 0:
        return np.ones(num, bool)
    scale = np.abs(exponents).max() or 1.0
    result = scipy.optimize.linprog(
        np.concatenate([np.zeros(num), -np.ones(num)]),
        A_ub=np.hstack([-np.eye(num), np.eye(num)]),
        b_ub=np.zeros(num),
        A_eq=np.hstack([exponents.T / scale, np.zeros((dim, num))]),
        b_eq=np.zeros(dim),
        bounds=[(0, None)] * num + [(0, 1)] * num,
    )
    if not result.success:
        raise ArithmeticError(f"linear program of the scale problem failed: {result.message}")
    return result.x[num:] > 0.5


def is_resolved(exponents: Float[np.ndarray, "J K"], face: np.ndarray) -> bool:
    """Whether both certificates of a face hold by a margin of `RESOLUTION`.

    Weights lambda >= t with mean 1 that combine the rows on the face to 0, and a direction d with
    entries from -1 to 1 along which those rows do not change, and all others grow by t or more.
    """
    scale = np.abs(exponents).max(initial=0.0)
    if scale == 0:
        return True
    inside, outside = exponents[face] / scale, exponents[~face] / scale
    _, singular, rows = np.linalg.svd(inside, full_matrices=True)
    rank = int(np.sum(singular > ROUNDING))
    if np.any(singular[:rank] < RESOLUTION):
        return False
    spanned, free = inside @ rows[:rank].T, outside @ rows[rank:].T
    margins = [1.0]
    if rank:
        num = len(inside)
        weighed = np.vstack([np.hstack([spanned.T, np.zeros((rank, 1))]), [*np.ones(num), 0.0]])
        below = np.hstack([-np.eye(num), np.ones((num, 1))])
        total = [*np.zeros(rank), float(num)]
        margins.append(largest_margin(below, [(0, None)] * num, (weighed, total)))
    if len(outside):
        below = np.hstack([-free, np.ones((len(outside), 1))])
        margins.append(largest_margin(below, [(-1, 1)] * free.shape[1], (None, None)))
    return min(margins) > RESOLUTION


def largest_margin(below: np.ndarray, bounds: list, equal: tuple) -> float:
    """The largest t <= 1 with below (x, t) <= 0, x within bounds and the equations; -1 if none."""
    objective = [*np.zeros(below.shape[1] - 1), -1.0]
    result = scipy.optimize.linprog(
        objective,
        A_ub=below,
        b_ub=np.zeros(len(below)),
        A_eq=equal[0],
        b_eq=equal[1],
        bounds=[*bounds, (None, 1)],
    )
    return float(result.x[-1]) if result.success else -1.0


def newton(
    log_traces: Float[np.ndarray, " J"], exponents: Float[np.ndarray, "J K"]
) -> tuple[Float[np.ndarray, " K"], float, int]:
    """Minimize F(v) = log sum_j exp(log t_j - 2 <a_j, v>) by damped Newton steps from v = 0.

    A step solves (F'' + damping I) d = -F'; the damping falls tenfold with each accepted step and
    rises tenfold with each rejected one. Stops when ||F'|| <= 1e-12 or no step lowers F any more.
    Returns v, ||F'|| and the number of steps tried.
    """

    def derivatives(v):
        terms = log_traces - 2 * exponents @ v
        objective = np.logaddexp.reduce(terms)
        weights = np.exp(terms - objective)
        mean = weights @ exponents
        centered = exponents - mean
        return objective, -2 * mean, 4 * (centered.T * weights) @ centered

    v, damping, iterations = np.zeros(exponents.shape[1]), 0.1, 0
    objective, gradient, hessian = derivatives(v)
    while np.linalg.norm(gradient) > GRADIENT_TOL and iterations < MAX_ITERATIONS:
        iterations += 1
        direction = np.linalg.solve(hessian + damping * np.eye(len(v)), -gradient)
        new = derivatives(v + direction)
        smaller_gradient = np.linalg.norm(new[1]) < np.linalg.norm(gradient)
        # Near the minimum the objective is flat to rounding, and the gradient tells progress.
        if new[0] < objective or (new[0] <= objective + 1e-14 and smaller_gradient):
            v, (objective, gradient, hessian) = v + direction, new
            damping /= 10
        elif damping > 1e6:
            break
        else:
            damping = max(10 * damping, 1e-10)
    return v, float(np.linalg.norm(gradient)), iterations


def duality_gap(
    log_traces: Float[np.ndarray, " J"], exponents: Float[np.ndarray, "J K"], v: np.ndarray
) -> float:
    """Objective at v minus a lower bound of the minimum.

    By the weighted inequality of means, for weights w > 0 with sum w = 1 and sum_j w_j a_j = 0,

        min_v sum_j t_j exp(-2 <a_j, v>)  >=  prod_j (t_j / w_j)^(w_j).

    The relative sizes p of the terms at v are such weights at the minimum; elsewhere they are
    moved to w_j = p_j (1 - <a_j, y>), which meets the constraint. No w > 0: the bound is 0.
    """
    terms = log_traces - 2 * exponents @ v
    objective = np.logaddexp.reduce(terms)
    p = np.exp(terms - objective)
    y = np.linalg.lstsq((exponents.T * p) @ exponents, exponents.T @ p, rcond=None)[0]
    w = p * (1 - exponents @ y)
    w /= w.sum()
    if np.any(w < 0) or not np.all(np.isfinite(w)):
        return float(np.exp(objective))
    log_bound = w @ log_traces - np.sum(scipy.special.xlogy(w, w))
    return float(max(0.0, np.exp(objective) * -np.expm1(log_bound - objective)))
