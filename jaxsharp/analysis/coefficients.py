"""Correlation coefficients of arrays, and jackknife intervals over configurations and seeds.

`statistics.correlation` says what they are and where their coverage was simulated.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from jaxsharp.core.choices import counted

MIN_GROUPS, MIN_RUNS, MIN_PAIRS = 8, 16, 24
MIN_SEEDS, MIN_SEEDS_WITHIN = 3, 5  # where configurations share them
ROUNDING = 1e-12
NAN = float("nan")


class Coefficient(NamedTuple):
    """A correlation coefficient and the ends of its interval; NaN where there is none.

    `remark` says why there is no interval, as in "3 seeds, 5 needed"; "" where there is one.
    """

    value: float
    low: float
    high: float
    remark: str = ""


def written(found: Coefficient) -> str:
    """Value and interval of a coefficient in words, or why it has none."""
    if math.isnan(found.value):
        return "undefined"
    if found.remark:
        return f"{found.value:+.2f} (no interval: {found.remark})"
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


class Runs(NamedTuple):
    """Two columns of the same runs, the configuration of each, and its seed (None: its own).

    `x_error` has standard errors of `x`, None if it is exact.
    """

    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    group: Int[np.ndarray, " n"]
    seed: Int[np.ndarray, " n"] | None
    x_error: Float[np.ndarray, " n"] | None = None

    @property
    def signs(self) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
        """`signs` of both columns."""
        return signs(self.x, self.x_error), signs(self.y)


def kendall(runs: Runs, confidence: float) -> Coefficient:
    """Tau-b over all pairs of runs."""
    s, t = runs.signs
    return with_interval(runs, lambda w: tau(w, s, t), confidence)


def kendall_within(runs: Runs, confidence: float) -> Coefficient:
    """Tau-b over the pairs of runs of the same configuration."""
    same = same_group(runs.group)
    paired = same.sum(axis=1) > 1
    runs = Runs(*(None if column is None else column[paired] for column in runs))
    same = same[np.ix_(paired, paired)]
    s, t = (each * same for each in runs.signs)
    return with_interval(runs, lambda w: tau(w, s, t), confidence, num_pairs(same))


def spearman(runs: Runs, confidence: float) -> Coefficient:
    """Pearson's coefficient of the mid-ranks of all runs."""
    of_weights = lambda w: _pearson(w, _ranks(w, runs.x), _ranks(w, runs.y))  # noqa: E731
    return with_interval(runs, of_weights, confidence)


def pearson(runs: Runs) -> Coefficient:
    """Pearson's coefficient of all runs, without an interval."""
    columns = [scaled(column)[0] for column in (runs.x, runs.y)]
    if len(runs.x) < 3 or any(np.ptp(column) == 0 for column in columns):  # rounding is no variance
        return Coefficient(NAN, NAN, NAN, "undefined")
    value = float(_pearson(np.ones((1, len(runs.x))), *columns)[0])
    return Coefficient(value, NAN, NAN, "coverage depends on the distribution")


def signs(
    values: Float[np.ndarray, " n"], error: Float[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "n n"]:
    """The sign of v_i - v_j for all pairs; 0 where that is below two standard errors."""
    with np.errstate(over="ignore"):
        difference = values[:, None] - values[None, :]
    if error is None:
        return np.sign(difference)
    with np.errstate(over="ignore"):  # of an infinite error, which ties a run with all
        within = np.abs(difference) < 2 * np.hypot(error[:, None], error[None, :])
    return np.where(within, 0.0, np.sign(difference))


def scaled(values: Float[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " n"], int]:
    """Values divided by a power of two, and its exponent: 0 where no square of them overflows.

    Nor vanishes: the largest is between 1e-100 and 1e100 then, or all are 0.
    """
    largest = float(np.abs(values).max(initial=0))
    if largest == 0 or 1e-100 < largest < 1e100:
        return values, 0
    exponent = math.frexp(largest)[1]
    return np.ldexp(values, -exponent), exponent


def same_group(group: Int[np.ndarray, " n"]) -> Bool[np.ndarray, "n n"]:
    """Which pairs of runs are of the same configuration."""
    return group[:, None] == group[None, :]


def num_pairs(same: Bool[np.ndarray, "n n"]) -> int:
    """Number of pairs of different runs in a mask."""
    return int(np.triu(same, 1).sum())


def with_interval(
    runs: Runs,
    of_weights: Callable,
    confidence: float,
    pairs: int | None = None,
    resampled: Float[np.ndarray, "b n"] | None = None,
) -> Coefficient:
    """The coefficient of runs that are present `weights` times, with its interval.

    Units are the configurations and, where these share seeds, the seeds and the single runs.
    `pairs` is the number of those within configurations, None for a coefficient of all. The
    variance between configurations is that of the `resampled` weights, if there are any, and a
    jackknife's otherwise.
    """
    num = len(runs.x)
    within, pairs = pairs is not None, num * (num - 1) // 2 if pairs is None else pairs
    units = [runs.group] if runs.seed is None else [runs.group, runs.seed, np.arange(num)]
    present = [_one_left_out(labels) for labels in units]
    values = of_weights(np.concatenate([np.ones((1, num)), *present]))
    left = np.split(values[1:], np.cumsum([len(rows) for rows in present])[:-1])
    value = float(values[0])
    if pairs < 2 or np.isnan(value):
        return Coefficient(NAN, NAN, NAN, "undefined")
    if remark := too_few(runs, pairs, within):
        return Coefficient(value, NAN, NAN, remark)
    groups, *crossed = ((len(each) - 1) * float(np.var(each)) for each in left)
    if resampled is not None:
        groups = float(np.nanvar(of_weights(resampled), ddof=1))
    parts = [(groups, len(left[0]) - 1)]
    if crossed and crossed[0] > crossed[1]:
        parts.append((crossed[0] - crossed[1], len(left[1]) - 1))
    variance, degrees = _sum_of_variances(parts)
    if not variance > ROUNDING or abs(value) > 1 - ROUNDING:
        return Coefficient(value, NAN, NAN, "no spread")
    return around(value, special.stdtrit(degrees, (1 + confidence) / 2) * np.sqrt(variance))


def around(value: float, half: float) -> Coefficient:
    """A coefficient with the interval sin(arcsin c +- half / sqrt(1 - c^2))."""
    half = half / np.sqrt(1 - value**2)
    ends = np.clip(np.arcsin(value) + np.array([-half, half]), -np.pi / 2, np.pi / 2)
    return Coefficient(value, *map(float, np.sin(ends)))


def too_few(runs: Runs, pairs: int, within: bool) -> str:
    """Why a coefficient of so many runs has no interval; "" if it has one."""
    counts = [("group", len(np.unique(runs.group)), MIN_GROUPS), ("run", len(runs.x), MIN_RUNS)]
    counts += [("pair", pairs, MIN_PAIRS)]
    seeds = 0 if runs.seed is None else len(np.unique(runs.seed))
    if seeds > 1 or (within and runs.seed is not None):
        counts += [("seed", seeds, MIN_SEEDS_WITHIN if within else MIN_SEEDS)]
    for name, found, least in counts:
        if found < least:
            return f"{counted(found, name)}, {least} needed"
    return ""


def _sum_of_variances(parts: list[tuple[float, int]]) -> tuple[float, float]:
    """The sum of variances with their degrees of freedom, and Satterthwaite's of the sum."""
    total = sum(variance for variance, _ in parts)
    if not total > 0:
        return total, NAN
    return total, total**2 / sum(variance**2 / degrees for variance, degrees in parts)


def _one_left_out(labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "k n"]:
    """Which runs are present (1, else 0) without those of one label, a row a label."""
    return (np.unique(labels)[:, None] != labels[None, :]).astype(np.float64)


def tau(
    weights: Float[np.ndarray, "b n"],
    s: Float[np.ndarray, "n n"],
    t: Float[np.ndarray, "n n"],
) -> Float[np.ndarray, " b"]:
    """Tau-b of signs of pairs, 0 for those that do not count, of runs present `weights` times."""
    both, in_x, in_y = (((weights @ m) * weights).sum(axis=1) for m in (s * t, s * s, t * t))
    return ratio(both, in_x, in_y)


def _ranks(
    weights: Float[np.ndarray, "b n"], x: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "b n"]:
    """Mid-ranks of the runs that are present, times two and centered: integers that sum to 0."""
    return weights @ np.sign(x[None, :] - x[:, None])


def _pearson(
    weights: Float[np.ndarray, "b n"], x: Float[np.ndarray, "*m n"], y: Float[np.ndarray, "*m n"]
) -> Float[np.ndarray, " b"]:
    """Pearson's coefficient for each row of weights; x and y may differ between rows."""
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    x, y = (v - (weights * v).sum(axis=1, keepdims=True) / total for v in (x, y))
    both, in_x, in_y = ((weights * a * b).sum(axis=1) for a, b in ((x, y), (x, x), (y, y)))
    return ratio(both, in_x, in_y)


def ratio(
    both: Float[np.ndarray, " b"], in_x: Float[np.ndarray, " b"], in_y: Float[np.ndarray, " b"]
) -> Float[np.ndarray, " b"]:
    """both / sqrt(in_x in_y), NaN where that is 0 / 0."""
    scale = np.sqrt(in_x * in_y)
    return np.divide(both, scale, out=np.full_like(both, np.nan), where=scale > 0)
