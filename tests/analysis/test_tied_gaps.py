"""Gaps of accuracies: differences of fractions, which are equal more often than their floats."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from jaxsharp import analysis
from jaxsharp.analysis.statistics import SINGLE, targets


@pytest.fixture(params=[(300, 150), (300, 100), (1000, 500), (1437, 360), (60000, 10000)])
def counted(request):
    """Runs with accuracies as history.csv has them, and the gaps as fractions."""
    rng = np.random.default_rng(0)
    train, test = request.param
    right = rng.integers(train * 9 // 10, train + 1, 120), rng.integers(test * 8 // 10, test, 120)
    right[0][60:], right[1][60:] = right[0][:60], right[1][:60]
    right[0][60:] -= train // test * 3 if train % test == 0 else 3
    right[1][60:] -= 3 if train % test == 0 else 1
    columns = {}
    for name, number, total in zip(("train", "test"), right, request.param, strict=True):
        written = pd.Series((number / total).astype(np.float32)).to_csv(index=False, header=False)
        columns[f"{name}_accuracy"] = np.array(written.split(), dtype=np.float64)
    runs = pd.DataFrame(columns).assign(x=rng.normal(size=120), seed=np.arange(120) % 5)
    runs["gap"] = runs["train_accuracy"] - runs["test_accuracy"]
    pairs = zip(*(each.tolist() for each in right), strict=True)
    return runs, [Fraction(a, train) - Fraction(b, test) for a, b in pairs]


def test_gaps_are_equal_where_their_fractions_are(counted):
    runs, fractions = counted
    places = {gap: place for place, gap in enumerate(sorted(set(fractions)))}
    order = [places[gap] for gap in fractions]
    found = targets(runs, "gap")
    np.testing.assert_array_equal(np.unique(found, return_inverse=True)[1], order)
    assert abs(found - runs["gap"]).max() <= SINGLE


def test_so_are_ties_of_coefficients(counted):
    runs, fractions = counted
    runs = runs.assign(rate=np.arange(120) // 5, converged=True, diverged=False, train_loss=1.0)
    order = np.argsort(np.argsort([float(gap) for gap in fractions], kind="stable"))
    places = {gap: place for place, gap in zip(order, fractions, strict=True)}
    tau = stats.kendalltau(runs["x"], [places[gap] for gap in fractions]).statistic
    assert analysis.correlation(runs, "x", "gap", ["rate"]).raw.value == pytest.approx(tau)


def test_other_columns_stay_as_they_are():
    runs = pd.DataFrame({"loss_gap": [0.1, 0.1 + 1e-8], "gap": [0.1, 0.1 + 1e-8]})
    assert list(targets(runs, "loss_gap")) == list(runs["loss_gap"])
    assert list(targets(runs, "gap")) == list(runs["gap"])  # without accuracies
    assert not len(targets(runs.assign(train_accuracy=1, test_accuracy=1)[:0], "gap"))
