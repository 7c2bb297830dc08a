"""Evaluations of numbers that are infinite, or whose squares are no float64, or nearly equal."""

import numpy as np
import pandas as pd
import pytest

from jaxsharp import analysis
from jaxsharp.analysis.evaluation.regressions import increment, mixed_slope, standardized
from jaxsharp.analysis.evaluation.samples import covariates, sample
from tests.analysis.evaluation.test_evaluation_table import evaluate, row, table

NAN, INF = float("nan"), float("inf")
ALL = {"columns": ("increment", "slope"), "measures": ["x"]}


@pytest.mark.parametrize("name", ["x", "gap"])
@pytest.mark.parametrize("power", [-1000, 700, 1020])
def test_a_power_of_two_changes_nothing(name, power):
    """Squares of such numbers vanish or overflow: R^2 was 0/0, the slope's matrix singular."""
    runs = table()
    runs["x"] -= 0.5  # of both signs, so that no logarithm is taken
    large = runs.assign(**{name: np.ldexp(runs[name] / 8, power)})
    one, two = evaluate(runs, **ALL), evaluate(large, **ALL)
    same = ["raw", "raw_low", "within_p", "given_all", "r2", "r2_with"]
    np.testing.assert_allclose(*(row(each)[same].astype(float) for each in (two, one)), rtol=1e-9)
    slopes = [row(each)[["slope", "slope_low"]].to_numpy(float) for each in (one, two)]
    back = np.ldexp(slopes[1], -power) * 8 if name == "gap" else slopes[1]
    np.testing.assert_allclose(back, slopes[0], rtol=1e-9)
    every = (analysis.correlation(each, "x", "gap", ["rate"]).pearson for each in (large, runs))
    np.testing.assert_allclose(*(each.value for each in every), rtol=1e-12)


def test_an_infinite_hyper_parameter_is_a_value_of_its_own():
    """As in a gradient that is not clipped: the regression on it had no solution."""
    runs = table().assign(clip=lambda runs: runs["rate"].map({0: 1.0, 1: 4.0, 2: INF}))
    named = runs.assign(clip=lambda runs: runs["rate"].map({0: "one", 1: "four", 2: "none"}))
    found, texts = (evaluate(each, hyper=["clip", "name"], **ALL) for each in (runs, named))
    same = ["raw", "within", "r2", "r2_with"]  # three values: two columns, however they are made
    np.testing.assert_allclose(*(row(each)[same].astype(float) for each in (found, texts)))
    finite = evaluate(runs.replace({"clip": {INF: 9.0}}), hyper=["clip", "name"], **ALL)
    for name in ("given_all", "given_all_low"):  # of the ranks, whose last it is
        assert row(found)[name] == row(finite)[name]


def test_orders_have_the_infinite_ones_at_their_ends():
    runs = pd.DataFrame({"a": [2.0, INF, NAN, -INF, 2.0], "b": [INF] * 5, "c": list("abcde")})
    (found,) = covariates(runs)
    np.testing.assert_array_equal(found, [2, 3, NAN, 1, 2])


def test_a_measure_that_differs_by_rounding_alone_has_a_row():
    """The logarithms of these are equal: the matrix of the slope was singular."""
    runs = table()
    runs["x"] = 1000.0
    runs.loc[[3, 9], "x"] = np.nextafter(1000.0, [0, INF])
    assert standardized(runs["x"].to_numpy()).std() == pytest.approx(1)
    names = {"error": None, "loss": "train_loss", "hyper": ["rate", "name"], "seed": "seed"}
    found = sample(runs, "x", "gap", **names)
    assert np.isfinite([*increment(found), *mixed_slope(found, 0.95)[:3]]).all()


def test_runs_that_diverged_are_not_counted_among_those_that_enter():
    """A run that diverged has not converged either, and never enters."""
    runs = table().assign(converged=lambda runs: runs["seed"] > 1)
    runs["diverged"] = runs["seed"] == 0
    found = evaluate(runs, unconverged=True)
    assert "36 runs enter (left out at most: 9 diverged)" in found.notes
    assert "9 of the runs did not converge, and enter as asked" in found.notes
