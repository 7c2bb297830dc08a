"""What a measure adds to a prediction of the target, and its slope with a random intercept.

Columns enter standardized, and as logarithms where they are positive throughout: losses, learning
rates and sharpness vary by factors.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import optimize, special

from jaxsharp.analysis.coefficients import MIN_GROUPS, NAN, Coefficient, scaled
from jaxsharp.analysis.evaluation.samples import Sample, is_number
from jaxsharp.core.choices import counted

TINY = 1e-300
RATIOS = np.concatenate([[0.0], np.geomspace(1e-4, 1e4, 81)])
"""Of the variances between and within configurations, from which the best one is searched."""


class Increment(NamedTuple):
    """Cross-validated R^2 without a measure and with it."""

    without: float
    included: float

    @property
    def value(self) -> float:
        """What the measure adds."""
        return self.included - self.without


def increment(sample: Sample) -> Increment:
    """Return R^2 of the target on training loss and hyper-parameters, and with the measure added.

        1 - sum_i (y_i - prediction_i)^2 / sum_i (y_i - mean_i)^2

    Each configuration is predicted by least squares over the runs of all others, and mean_i is the
    mean of these: 0 is as good as the mean, a negative value worse. Hyper-parameters that are no
    numbers enter as one column a value; coefficients that the runs do not determine are those of
    least norm. NaN with fewer than three configurations, and for a target or a measure that is
    constant.
    """
    x, y, group = sample.runs.x, sample.runs.y, sample.runs.group
    folds = [group == name for name in np.unique(group)]
    if len(folds) < 3 or any(column.min() == column.max() for column in (x, y)):
        return Increment(NAN, NAN)
    y, _ = scaled(y)
    design = [np.ones(len(x)), *(() if sample.loss is None else (standardized(sample.loss),))]
    for name in sample.hyper:
        design += _columns(sample.hyper[name])
    without, including = (np.stack(each, 1) for each in (design, [*design, standardized(x)]))
    explained = []
    for columns in (np.ones((len(x), 1)), without, including):
        rest = 0.0
        for out in folds:
            found = np.linalg.lstsq(columns[~out], y[~out], rcond=None)[0]
            rest += float(((y[out] - columns[out] @ found) ** 2).sum())
        explained.append(rest)
    total, *rests = explained
    return Increment(*(1 - rest / total for rest in rests))


def mixed_slope(sample: Sample, confidence: float) -> Coefficient:
    """Return the slope of the target on the standardized measure, with its interval.

        y = a + b x + u_configuration + e,    u and e normal, by restricted maximum likelihood

    in units of the target for a standard deviation of the measure (or of its logarithm). The
    interval is b +- t sqrt((X' V^-1 X)^-1_bb), with t of G - 2 degrees for G configurations.
    `remark` says why there is none: fewer than 8, or none with two runs, so that u and e cannot be
    told apart.

    The likelihood has one parameter, the ratio of the variances, and is searched from 0 on:
    statsmodels' MixedLM, its equal elsewhere, has a wrong interval or none where that is 0.

    Reference: Patterson and Thompson (1971), Biometrika 58, 545-554.
    """
    x, y, group = sample.runs.x, sample.runs.y, sample.runs.group
    _, place, counts = np.unique(group, return_inverse=True, return_counts=True)
    if len(x) < 4 or len(counts) < 3 or any(each.min() == each.max() for each in (x, y)):
        return Coefficient(NAN, NAN, NAN, "undefined")
    if counts.max() < 2:
        return Coefficient(NAN, NAN, NAN, "no two runs of a configuration")
    y, exponent = scaled(y)
    scale = float(np.std(y))
    table = np.stack([np.ones(len(x)), standardized(x), (y - y.mean()) / scale], 1)
    sums = np.stack([np.bincount(place, column) for column in table.T], 1)

    def fit(ratio):
        """Twice the negative log-likelihood, the slope, and its variance."""
        products = table.T @ table - sums.T @ (sums * (ratio / (1 + ratio * counts))[:, None])
        information, right = products[:2, :2], products[:2, 2]
        found = np.linalg.solve(information, right)
        variance = (products[2, 2] - right @ found) / (len(x) - 2)
        cost = (len(x) - 2) * np.log(max(variance, TINY)) + np.log1p(ratio * counts).sum()
        inverse = np.linalg.inv(information)
        return cost + np.log(np.linalg.det(information)), found[1], variance * inverse[1, 1]

    best = int(np.argmin([fit(ratio)[0] for ratio in RATIOS]))
    ends = RATIOS[max(best - 1, 0)], RATIOS[min(best + 1, len(RATIOS) - 1)]
    inside = optimize.minimize_scalar(lambda r: fit(r)[0], bounds=ends, method="bounded").x
    _, slope, variance = min(fit(RATIOS[best]), fit(inside))
    if len(counts) < MIN_GROUPS:
        remark = f"{counted(len(counts), 'group')}, {MIN_GROUPS} needed"
        return Coefficient(float(np.ldexp(scale * slope, exponent)), NAN, NAN, remark)
    half = special.stdtrit(len(counts) - 2, (1 + confidence) / 2) * np.sqrt(max(variance, 0.0))
    ends = np.array([slope, slope - half, slope + half])
    return Coefficient(*map(float, np.ldexp(scale * ends, exponent)))


def standardized(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Values, or logarithms of positive ones, with mean 0 and deviation 1; 0 if all are equal.

    Not their logarithms where rounding makes these equal.
    """
    if values.min() == values.max():
        return np.zeros(len(values))
    logs = np.log(values) if (values > 0).all() else np.zeros(len(values))
    values = logs if np.ptp(logs) > 0 else scaled(values)[0]
    return (values - values.mean()) / values.std()


def _columns(values: pd.Series) -> list[Float[np.ndarray, " n"]]:
    """A hyper-parameter as columns of a regression."""
    if not is_number(values):
        names = values.astype(object).where(values.notna(), None)
        codes = pd.factorize(names, use_na_sentinel=False)[0]
        return [(codes == code).astype(np.float64) for code in np.unique(codes)[1:]]
    found = values.to_numpy(dtype=np.float64)
    finite = np.isfinite(found)
    apart = (np.isnan(found), found == np.inf, found == -np.inf)
    columns = [each.astype(np.float64) for each in apart if each.any() and not each.all()]
    if not finite.any():
        return columns
    filled = np.zeros(len(found))
    filled[finite] = standardized(found[finite])
    return [filled, *columns]
