"""Coefficients given other columns, and regressions, against plain loops, on the same tables."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats
from statsmodels.regression.mixed_linear_model import MixedLM

from jaxsharp.analysis import coefficients
from jaxsharp.analysis.evaluation import partial, regressions
from jaxsharp.analysis.evaluation.samples import covariates, sample
from tests.analysis.evaluation.tables import (
    HYPER,
    KINDS,
    NAN,
    close,
    naive_tau,
    runs_of,
    sampled,
    sign_x,
)


@pytest.fixture(params=KINDS)
def runs(request):
    return runs_of(request.param)


def test_partial_tau_given_the_loss(runs):
    rows = list(runs.itertuples())
    other = [row._replace(x=row.train_loss, error=0.0) for row in rows]
    swapped = [row._replace(gap=row.train_loss) for row in rows]
    xy, zy, xz = naive_tau(rows), naive_tau(other), naive_tau(swapped)
    expected = (xy - xz * zy) / math.sqrt((1 - xz**2) * (1 - zy**2))
    found = sampled(runs)
    close(partial.partial_tau(found.runs, found.loss), expected)
    assert np.isnan(partial.partial_tau(found.runs, found.runs.x)) or runs["error"].any()


def test_the_partial_coefficient_of_independent_columns_is_not_zero():
    """As its docstring says; what is left of the ranks has nearly none."""
    z, e, f = np.random.default_rng(0).normal(size=(3, 900))
    runs = coefficients.Runs(0.8 * z + 0.6 * e, 0.8 * z + 0.6 * f, np.arange(900) // 90, None)
    assert abs(partial.partial_tau(runs, z) - 0.144) < 0.04
    assert abs(partial.residual_tau(runs, [z], 0.95).value) < 0.04


def naive_residual_tau(runs, given):
    def ranks(values):
        order = np.sign(values[:, None] - values[None, :])
        return np.nan_to_num(order).sum(axis=1)

    rows = list(runs.itertuples())
    x = np.array([sum(sign_x(a, b) for b in rows if b is not a) for a in rows], float)
    columns = [np.ones(len(rows))]
    for name in given:
        values = runs[name].to_numpy(float)
        columns += [ranks(values), np.isnan(values).astype(float)]
    design = np.stack(columns, 1)
    left = [v - design @ np.linalg.lstsq(design, v)[0] for v in (x, ranks(runs["gap"].to_numpy()))]
    if min(np.ptp(each) for each in left) < 1e-6:
        return NAN
    return stats.kendalltau(*(np.round(each, 6) for each in left))[0]


@pytest.mark.parametrize("given", [["train_loss"], ["train_loss", "rate", "size"]], ids=len)
def test_tau_of_what_is_left_of_ranks(runs, given):
    found = partial.residual_tau(sampled(runs).runs, [runs[name] for name in given], 0.95)
    expected = naive_residual_tau(runs, given)
    close(found.value, expected)
    if found.remark:
        assert found.remark == "12 runs, 16 needed"
        return
    groups = runs.groupby(HYPER, dropna=False).ngroup()
    units = {"group": groups, "seed": runs["seed"], "run": runs.index.to_series()}
    variances = {}
    for unit, labels in units.items():
        left = [naive_residual_tau(runs[labels != label], given) for label in labels.unique()]
        variances[unit] = (len(left) - 1) * np.var(left)
    parts = [(variances["group"], groups.nunique() - 1)]
    if variances["seed"] > variances["run"]:
        parts.append((variances["seed"] - variances["run"], runs["seed"].nunique() - 1))
    total = sum(v for v, _ in parts)
    degrees = total**2 / sum(v**2 / d for v, d in parts)
    half = stats.t.ppf(0.975, degrees) * math.sqrt(total / (1 - expected**2))
    expected_ends = np.sin(
        np.clip(np.arcsin(expected) + np.array([-half, half]), *(-1.5708, 1.5708))
    )
    np.testing.assert_allclose([found.low, found.high], expected_ends, rtol=1e-6)


def test_nothing_is_left_of_a_column_given_itself():
    runs = runs_of("plain")
    found = partial.residual_tau(sampled(runs).runs, [runs["x"]], 0.95)
    assert np.isnan(found.value) and found.remark == "undefined"


def test_only_numbers_that_vary_are_covariates():
    frame = pd.DataFrame(
        {"a": [1, 2], "b": ["x", "y"], "c": [3, 3], "d": [NAN, 1.0], "e": [True, False]}
    )
    assert [column.name for column in covariates(frame)] == ["a", "d"]


def scaled(values):
    values = np.log(values) if (values > 0).all() else values
    return (values - np.mean(values)) / np.std(values)


def test_the_increment_is_of_predictions_of_configurations_left_out(runs):
    found = regressions.increment(sampled(runs))
    given = runs["rate"].notna().to_numpy()
    rate = np.zeros(len(runs))
    rate[given] = scaled(runs["rate"].to_numpy()[given])
    base = [np.ones(len(runs)), scaled(runs["train_loss"]), rate, scaled(runs["size"])]
    base += [1.0 * (runs["name"] == "b"), *([1.0 * ~given] if not given.all() else [])]
    groups, y = runs.groupby(HYPER, dropna=False).ngroup(), runs["gap"].to_numpy()

    def r2(columns):
        design, missed, total = np.stack(columns, 1), 0.0, 0.0
        for group in groups.unique():
            out = (groups == group).to_numpy()
            fit = np.linalg.pinv(design[~out]) @ y[~out]
            missed += ((y[out] - design[out] @ fit) ** 2).sum()
            total += ((y[out] - y[~out].mean()) ** 2).sum()
        return 1 - missed / total

    close(found.without, r2(base))
    close(found.included, r2([*base, scaled(runs["x"])]))
    assert found.value == found.included - found.without


def dense_slope(x, y, group):
    """Restricted likelihood over the ratio of variances, with dense matrices."""
    design, same = np.stack([np.ones(len(x)), scaled(x)], 1), group[:, None] == group[None, :]

    def parts(ratio):
        inverse = np.linalg.inv(np.eye(len(x)) + ratio * same)
        information = design.T @ inverse @ design
        slope = np.linalg.solve(information, design.T @ inverse @ y)
        rest = y - design @ slope
        variance = rest @ inverse @ rest / (len(x) - 2)
        cost = (len(x) - 2) * np.log(variance) - np.linalg.slogdet(inverse)[1]
        return cost + np.linalg.slogdet(information)[1], slope[1], variance, information

    ratios = np.concatenate([[0.0], np.geomspace(1e-4, 1e3, 200)])
    start = ratios[np.argmin([parts(ratio)[0] for ratio in ratios])]
    ends = (start / 1.1, start * 1.1 + 1e-4)
    best = optimize.minimize_scalar(lambda r: parts(r)[0], bounds=ends, method="bounded").x
    _, slope, variance, information = parts(best)
    degrees = len(np.unique(group)) - 2
    return slope, stats.t.ppf(0.975, degrees) * math.sqrt(
        variance * np.linalg.inv(information)[1, 1]
    )


def test_the_slope_of_the_mixed_model(runs):
    found, arrays = regressions.mixed_slope(sampled(runs), 0.95), sampled(runs).runs
    if arrays.x.size == 12:
        assert np.isnan(found.value) and found.remark == "no two runs of a configuration"
        return
    slope, half = dense_slope(arrays.x, arrays.y, arrays.group)
    np.testing.assert_allclose(found[:3], [slope, slope - half, slope + half], rtol=1e-3)


def test_the_slope_is_that_of_statsmodels_where_configurations_differ():
    runs = runs_of("plain")
    group = runs.groupby(HYPER).ngroup().to_numpy()
    runs["gap"] += 3 * np.random.default_rng(1).normal(size=12)[group]
    design = np.stack([np.ones(len(runs)), scaled(runs["x"])], 1)
    fit = MixedLM(runs["gap"].to_numpy(), design, groups=group).fit(reml=True)
    found = regressions.mixed_slope(sampled(runs), 0.95)
    np.testing.assert_allclose(found.value, fit.fe_params[1], rtol=1e-3)
    error = (found.high - found.low) / 2 / stats.t.ppf(0.975, 10)
    # Its errors are from the second derivatives by all parameters, the variances too.
    np.testing.assert_allclose(error, fit.bse_fe[1], rtol=5e-2)


def test_a_mixed_model_without_variance_between_configurations():
    """At the boundary gradient searches fail, and least squares is the answer."""
    rng = np.random.default_rng(0)
    runs = pd.DataFrame({"rate": np.repeat(np.arange(9.0), 3), "seed": np.tile(range(3), 9)})
    runs["gap"] = np.tile([-1.0, 0.0, 1.0], 9)  # equal means
    runs["x"] = runs["gap"] + rng.normal(size=27)
    found = regressions.mixed_slope(
        sample(runs, "x", "gap", error=None, loss=None, hyper=["rate"], seed="seed"), 0.95
    )
    expected = stats.linregress(scaled(runs["x"]), runs["gap"])
    np.testing.assert_allclose(found.value, expected.slope, rtol=1e-3)
    half = (found.high - found.low) / 2
    np.testing.assert_allclose(half, stats.t.ppf(0.975, 7) * expected.stderr, rtol=1e-3)
    few = runs[runs["rate"] < 7].reset_index(drop=True)
    arrays = sample(few, "x", "gap", error=None, loss=None, hyper=["rate"], seed="seed")
    assert regressions.mixed_slope(arrays, 0.95).remark == "7 groups, 8 needed"


def test_constant_columns_have_no_regressions():
    runs = runs_of("plain").assign(x=1.0)
    assert np.isnan(regressions.increment(sampled(runs))).all()
    assert regressions.mixed_slope(sampled(runs), 0.95).remark == "undefined"
