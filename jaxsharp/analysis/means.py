"""Means of a few values, one a seed, and their intervals."""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

MIN_VALUES = 3


class Interval(NamedTuple):
    """A mean, the ends of its confidence interval, and the number of values it is made of."""

    mean: float
    low: float
    high: float
    num: int


def mean_interval(
    values,
    confidence: float = 0.95,
    *,
    within: tuple[float | int, float | int] = (-math.inf, math.inf),
) -> Interval:
    """Return the mean of independent values with a two-sided interval from Student's t.

        mean +- t s / sqrt(n),    t = Student's quantile at (1 + confidence) / 2, n - 1 degrees,
        s^2 = sum (v - mean)^2 / (n - 1)

    for what has an error that does not grow with its size: accuracies and their differences. The
    interval ends at the ends of the range `within`, such as (0, 1) for an accuracy. Of what is
    positive and varies by factors, a sharpness, take the `geometric_mean_interval`.

    NaN counts as missing. With fewer than three values, or equal ones, low and high are NaN; with
    none the mean too; an infinite value gives the mean that arithmetic gives, and no interval.
    Raises ValueError for a confidence outside (0, 1).

    COVERAGE_MEAN
    """
    check_confidence(confidence)
    values = _present(values)
    num, nan = len(values), math.nan
    if num == 0:
        return Interval(nan, nan, nan, 0)
    with np.errstate(invalid="ignore"):  # inf - inf
        mean = float(values[0] if np.ptp(values) == 0 else np.mean(values))
    if num < MIN_VALUES or not np.isfinite(values).all() or np.ptp(values) == 0:
        return Interval(mean, nan, nan, num)
    half = special.stdtrit(num - 1, (1 + confidence) / 2) * np.std(values, ddof=1) / np.sqrt(num)
    low, high = max(float(mean - half), within[0]), min(float(mean + half), within[1])
    return Interval(mean, low, high, num)


def geometric_mean_interval(values, confidence: float = 0.95) -> Interval:
    """Return the geometric mean of independent positive values with its interval.

        exp(mean log v),    exp(mean log v +- t s / sqrt(n)),    s of the logarithms

    with t and s as in `mean_interval`. What is covered is the exponential of the expected
    logarithm: the median, if the logarithm is symmetric. No interval reaches zero. NaN counts as
    missing; with a value that is zero or negative the mean is NaN too; infinity, equal values, few
    values and `confidence` are as there.

    COVERAGE_GEOMETRIC
    """
    values = _present(values)
    if (values <= 0).any():
        check_confidence(confidence)
        return Interval(math.nan, math.nan, math.nan, len(values))
    logs = mean_interval(np.log(values), confidence)
    if len(values) and np.ptp(values) == 0:  # its logarithm would round it
        return logs._replace(mean=float(values[0]))
    mean, low, high = (float(np.exp(value)) for value in logs[:3])
    return Interval(mean, low, high, logs.num)


def check_confidence(confidence: float) -> None:
    """Raise ValueError for what is no probability of covering."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1, such as 0.95")


def _present(values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64).ravel()
    return values[~np.isnan(values)]
