"""The scale problem with one scale for each unit: balancing of a sparse matrix.

Terms t_e >= 0 lead from unit u_e to unit v_e, and with x_0 = 0

    min_x  F(x) = sum_e t_e exp(2 (x_(u_e) - x_(v_e))),     x in R^(K + 1).

At the minimum every unit is balanced, what comes in is what goes out: Osborne's problem (1960, "On
pre-conditioning of matrices"), of which Cohen, Madry, Tsipras and Vladu (2017, arXiv 1704.02315)
have Newton's method. Terms of equal ends are summed first, so that K may be thousands.

A term can be made to vanish, and no other to grow, unless it lies on a directed cycle. So the
infimum is attained if all terms do; otherwise it is the minimum over those that do, the terms
within a strongly connected component.

Newton's method in float64: the Hessian is 4 F L, L the Laplacian of the graph with the relative
sizes p of the terms as weights, and the gradient 2 F g, g what goes out of each unit less what
comes in. With L y = g, by conjugate gradients, the step is -y / 2, lengthened or shortened along
its line; the weights w_e = p_e (1 + y_(v_e) - y_(u_e)) are a circulation, as much in as out of each
unit, and so bound the minimum from below (`scales.duality_gap`):

    log min F  >=  sum_e w_e log(t_e / w_e),    w >= 0, sum w = 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import ArrayLike, Float, Int

from jaxsharp.measures.minimum.scales import ScaleMinimum

# Relative duality gap at which the problem is solved, and below which one that grows is rounding.
GAP_TOL, ROUNDED = 1e-15, 1e-9
MAX_ITERATIONS = 200  # of Newton's method
SWEEPS = 20  # of Osborne's, half as far, with all units at once
# Of conjugate gradients: the residual, in the norm of each unit's own size, and steps at most.
RESIDUAL, MAX_STEPS = 1e-15, 2000
UNBALANCED = 1e-11  # sum of what a circulation may have out of balance, relative to F


class Terms(NamedTuple):
    """Terms within components: logarithms of sizes, and units that they lead from and to.

    ``constant``: the sum of all terms that no scale changes.
    """

    logs: Float[np.ndarray, " E"]
    tails: Int[np.ndarray, " E"]
    heads: Int[np.ndarray, " E"]
    constant: float
    num: int


def minimize_over_units(
    traces: ArrayLike | Sequence,
    tails: ArrayLike | Sequence,
    heads: ArrayLike | Sequence,
    num: int,
) -> ScaleMinimum:
    """Minimize sum_e t_e exp(2 (x[tails_e] - x[heads_e])) over x in R^(num + 1), x[0] = 0.

    ``traces`` t, ``tails`` and ``heads`` have shape (E,). Returns a `ScaleMinimum`, whose
    ``log_scales`` are x[1:], 0 of units that no term moves, and whose ``error`` is the duality gap.
    Cost: a few Newton steps, each of some tens of products with a sparse matrix that has an entry
    for each pair of units.

    Raises ValueError for traces that are negative or not finite, units that are not from 0 to
    ``num``, and shapes that do not match.
    """
    traces, tails, heads = np.asarray(traces, np.float64), np.asarray(tails), np.asarray(heads)
    check(traces, tails, heads, num)
    table = scipy.sparse.coo_array((traces, (tails, heads)), shape=(num + 1,) * 2)
    table = table.tocsr().tocoo()  # sums entries of equal ends
    alive = table.data > 0
    sizes, (tails, heads) = table.data[alive], (each[alive] for each in table.coords)
    graph = scipy.sparse.coo_array((np.ones(len(sizes)), (tails, heads)), shape=(num + 1,) * 2)
    of_unit = scipy.sparse.csgraph.connected_components(graph, connection="strong")[1]
    inside = of_unit[tails] == of_unit[heads]
    moved = inside & (tails != heads)
    constant = float(sizes[tails == heads].sum())
    terms = Terms(np.log(sizes[moved]), tails[moved], heads[moved], constant, num + 1)
    x, gradient, gap, iterations = np.zeros(num + 1), 0.0, 0.0, 0
    if moved.any():
        x, gradient, gap, iterations = newton(terms, osborne(terms))
    value = float(np.exp(objective(terms, x)))
    x -= x[0] * (of_unit == of_unit[0])
    return ScaleMinimum(value, x[1:], gradient, gap * value, iterations, bool(inside.all()))


def check(traces: np.ndarray, tails: np.ndarray, heads: np.ndarray, num: int) -> None:
    """Raise ValueError for terms that do not pose a problem."""
    if not traces.ndim == 1 or not len(traces) == len(tails) == len(heads):
        shapes = ", ".join(str(np.shape(a)) for a in (traces, tails, heads))
        raise ValueError(f"traces, tails and heads have shapes {shapes}; valid is (E,) thrice")
    bad = np.flatnonzero(~np.isfinite(traces) | (traces < 0))
    if bad.size:
        raise ValueError(f"traces[{bad[0]}] is {traces[bad[0]]}; traces are finite and >= 0")
    for name, units in (("tails", tails), ("heads", heads)):
        if len(units) and not 0 <= units.min() <= units.max() <= num:
            raise ValueError(
                f"{name} are from {units.min()} to {units.max()}; valid are units from 0 to {num}"
            )


def objective(terms: Terms, x: Float[np.ndarray, " n"]) -> float:
    """log F at x."""
    logs = terms.logs + 2 * (x[terms.tails] - x[terms.heads])
    with np.errstate(divide="ignore"):
        return float(
            np.logaddexp(np.logaddexp.reduce(logs, initial=-np.inf), np.log(terms.constant))
        )


def shares(terms: Terms, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " E"]:
    """Relative sizes p of the terms that move."""
    return np.exp(terms.logs + 2 * (x[terms.tails] - x[terms.heads]) - objective(terms, x))


def sums(terms: Terms, p: Float[np.ndarray, " E"]) -> tuple[np.ndarray, np.ndarray]:
    """What goes out of each unit, and what comes in."""
    return tuple(np.bincount(ends, p, terms.num) for ends in (terms.tails, terms.heads))


def osborne(terms: Terms) -> Float[np.ndarray, " n"]:
    """A start: Osborne's balancing of all units at once, by half so that F falls.

    By the inequality of means, exp(2 (d_u - d_v)) <= (exp(4 d_u) + exp(-4 d_v)) / 2; the right
    side is least at d = log(in / out) / 8.
    """
    x, tiny = np.zeros(terms.num), np.finfo(float).tiny
    for _ in range(SWEEPS):
        out, into = sums(terms, shares(terms, x))
        x = x + np.log(np.maximum(into, tiny) / np.maximum(out, tiny)) / 8
    return x


def newton(terms: Terms, x: Float[np.ndarray, " n"]) -> tuple[np.ndarray, float, float, int]:
    """Minimize from x; returns x, the norm of the gradient of log F, the relative gap, steps."""
    best, iterations = None, 0
    while iterations < MAX_ITERATIONS:
        p = shares(terms, x)
        out, into = sums(terms, p)
        y = potentials(terms, p, out, into)
        found = relative_gap(terms, x, p, y), objective(terms, x)
        improved = best is None or found < best[0]
        if improved:
            best = found, x, float(2 * np.linalg.norm(out - into))
        if found[0] <= (GAP_TOL if improved else ROUNDED):
            break
        x, iterations = along(terms, x, -y / 2), iterations + 1
    (gap, _), x, gradient = best
    return x, gradient, gap, iterations


def potentials(
    terms: Terms, p: np.ndarray, out: np.ndarray, into: np.ndarray
) -> Float[np.ndarray, " n"]:
    """y with L y = g by conjugate gradients, preconditioned by the diagonal of L."""
    size = out + into
    root = np.sqrt(np.where(size > 0, size, 1))
    ends = np.concatenate([terms.tails, terms.heads]), np.concatenate([terms.heads, terms.tails])
    off = np.concatenate([p, p]) / (root[ends[0]] * root[ends[1]])
    off = scipy.sparse.coo_array((off, ends), shape=(terms.num,) * 2).tocsr()
    own = size > 0
    scaled = scipy.sparse.linalg.LinearOperator(
        off.shape, matvec=lambda v: own * v - off @ v, dtype=float
    )
    right = (out - into) / root
    y, _ = scipy.sparse.linalg.cg(scaled, right, rtol=1e-12, atol=RESIDUAL, maxiter=MAX_STEPS)
    return y / root


def along(terms: Terms, x: np.ndarray, step: np.ndarray) -> Float[np.ndarray, " n"]:
    """x + s step with s near the minimum of log F on this line, a power of 2."""
    at = lambda s: objective(terms, x + s * step)  # noqa: E731
    start, s, value = objective(terms, x), 1.0, at(1.0)
    while value > start + 1e-14 * abs(start) and s > 1e-12:
        s, value = s / 2, at(s / 2)
    while (longer := at(2 * s)) < value - 1e-3:
        s, value = 2 * s, longer
    return x + s * step


def relative_gap(terms: Terms, x: np.ndarray, p: np.ndarray, y: np.ndarray) -> float:
    """1 - lower bound / F at x; 1 where y gives none.

    Conjugate gradients leave r of w out of balance, which may change log F by 2 |r| for each unit
    of distance from the minimum: rounding, or there is no bound.
    """
    w = p * (1 + y[terms.heads] - y[terms.tails])
    out, into = sums(terms, w)
    if np.any(w < 0) or not np.abs(out - into).sum() <= UNBALANCED:
        return 1.0
    logs = terms.logs + 2 * (x[terms.tails] - x[terms.heads]) - objective(terms, x)
    # The constant terms, which are 1 - sum p, have weights of their own size.
    total = w.sum() + terms.constant * np.exp(-objective(terms, x))
    bound = (w @ logs - scipy.special.xlogy(w, w).sum()) / total + np.log(total)
    return float(max(0.0, -np.expm1(bound)))
