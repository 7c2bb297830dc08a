"""Rank correlations of measure and target given the training loss and the hyper-parameters."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int8

from jaxsharp.analysis import coefficients
from jaxsharp.analysis.coefficients import NAN, Coefficient, Runs

MOST = 2**22  # elements of the arrays of a block of subsets
ROUNDING = 1e-9  # of residuals of ranks, relative to the number of runs


def partial_tau(runs: Runs, given: Float[np.ndarray, " n"]) -> float:
    """Return Kendall's partial coefficient of measure and target given a third column.

        (tau_xy - tau_xz tau_yz) / sqrt((1 - tau_xz^2) (1 - tau_yz^2))

    with tau-b. It is not 0 where x and y are independent given z: of normal variables that each
    have correlation 0.8 with z it is 0.14. `residual_tau` is near 0 there. NaN where one of the
    three is undefined, or z has the order of x or y.

    Reference: Kendall (1942), Biometrika 32, 277-283.
    """
    s, t = runs.signs
    z = coefficients.signs(given)
    every = np.ones((1, len(runs.x)))
    xy, xz, yz = (float(coefficients.tau(every, *two)[0]) for two in ((s, t), (s, z), (t, z)))
    left = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / np.sqrt(left) if left > coefficients.ROUNDING else NAN


def residual_tau(
    runs: Runs, given: Sequence[Float[np.ndarray, " n"] | pd.Series], confidence: float
) -> Coefficient:
    """Return tau-b of what is left of the ranks of measure and target, linearly, given columns.

    Each column enters as its ranks, one with missing values as the ranks of the others and whether
    it is missing. The interval is the jackknife of `statistics.correlation`, over configurations
    and, where `runs` have them, seeds; ranks and regression are made anew without each unit. NaN
    where nothing is left.
    """
    s, t = runs.signs
    columns = [np.asarray(column, dtype=np.float64) for column in given]
    orders = [np.nan_to_num(coefficients.signs(column)) for column in columns]
    absent = [np.isnan(column).astype(np.float64) for column in columns if np.isnan(column).any()]

    def block(present):
        ranks = [present @ order.T for order in (s, t, *orders)]
        num = present.sum(axis=1, keepdims=True)
        levels = [a - (present * a).sum(axis=1, keepdims=True) / num for a in absent]
        left = _residuals(present, np.stack(ranks[:2], 2), np.stack([*ranks[2:], *levels], 2))
        left[present == 0] = np.nan
        u, v = (_signs(left[:, :, i], ROUNDING * len(runs.x)) for i in (0, 1))
        sums = (np.sum(a * b, axis=(1, 2), dtype=np.float64) for a, b in ((u, v), (u, u), (v, v)))
        return coefficients.ratio(*sums)

    def of_present(present):
        blocks = np.array_split(present, -(-present.size * len(runs.x) // MOST) or 1)
        return np.concatenate([block(each) for each in blocks])

    if not columns:
        return coefficients.kendall(runs, confidence)
    return coefficients.with_interval(runs, of_present, confidence)


def _residuals(
    present: Float[np.ndarray, "b n"],
    values: Float[np.ndarray, "b n 2"],
    given: Float[np.ndarray, "b n k"],
) -> Float[np.ndarray, "b n 2"]:
    """What least squares over the runs that are present leave; all columns sum to 0 there."""
    seen = np.swapaxes(given * present[:, :, None], 1, 2)
    found = np.linalg.pinv(seen @ given, rcond=1e-10, hermitian=True) @ (seen @ values)
    return values - given @ found


def _signs(values: Float[np.ndarray, "b n"], size: float) -> Int8[np.ndarray, "b n n"]:
    """The sign of v_i - v_j; 0 for rounding and for NaN."""
    difference = values[:, :, None] - values[:, None, :]
    return (difference > size).view(np.int8) - (difference < -size).view(np.int8)
