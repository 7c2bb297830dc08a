"""Statistics: hand-computed values, scipy as the reference, and what the intervals promise."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from jaxsharp import analysis

NAN = float("nan")


def table(x, y, group=0, *, converged=True, diverged=False):
    return pd.DataFrame({"x": x, "y": y, "g": group, "converged": converged, "diverged": diverged})


def correlate(runs, **options):
    return analysis.correlation(runs, "x", "y", ["g"], **{"seeds": None, **options})


def naive_within(x, y, group):
    """Pooled tau-b from loops over pairs: (concordant - discordant) / sqrt(untied x untied)."""
    score, untied_x, untied_y = 0, 0, 0
    for i in range(len(x)):
        for j in range(i):
            if group[i] == group[j]:
                score += np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
                untied_x += x[i] != x[j]
                untied_y += y[i] != y[j]
    return score / np.sqrt(untied_x * untied_y)


# Summaries


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_outside_zero_to_one_is_refused(confidence):
    with pytest.raises(ValueError, match=f"confidence is {confidence}; it must be between"):
        correlate(table([1.0], [1.0]), confidence=confidence)


def some_runs(**columns):
    """Four runs of sgd with SAM, one of which diverged, and two of adam, which both did."""
    return pd.DataFrame(
        {
            "optimizer": ["sgd", "adam", "sgd", "sgd", "adam", "sgd"],
            "sam": ["sam", "none", "sam", "sam", "none", "sam"],
            "converged": [True, False, False, False, False, False],
            "diverged": [False, True, False, True, True, False],
            "gap": [0.2, 0.5, 0.4, 0.9, NAN, 0.6],
            "sharpness": [1.0, 50.0, 10.0, 90.0, NAN, 100.0],
            **columns,
        }
    )


def test_a_summary_counts_diverged_runs_and_averages_the_others():
    runs = some_runs()
    summary = analysis.summarize(runs, ["optimizer", "sam"], {"gap": (-1, 1)}, ["sharpness"])
    names = ["optimizer", "sam", "runs", "converged", "diverged", "gap_mean", "gap_low"]
    names += ["gap_high", "sharpness_geomean", "sharpness_low", "sharpness_high"]
    assert list(summary.columns) == names
    assert list(summary.iloc[0, :5]) == ["sgd", "sam", 4, 1, 1]
    # Three values with s = 0.2, and with s = 1 in powers of ten; t(0.975, 2 degrees) = 4.302653.
    half = 4.30265273 / np.sqrt(3)
    expected = [0.4, 0.4 - 0.2 * half, 0.4 + 0.2 * half, 10, 10 ** (1 - half), 10 ** (1 + half)]
    np.testing.assert_allclose(list(summary.iloc[0, 5:]), expected)
    assert list(summary.iloc[1, :5]) == ["adam", "none", 2, 0, 2]
    assert summary.iloc[1, 5:].isna().all()


def test_intervals_of_a_summary_stay_in_the_range_of_their_column():
    runs = some_runs(gap=[0.9, 0.5, 1.0, NAN, NAN, 0.95])
    row = analysis.summarize(runs, ["optimizer"], {"gap": (-1, 1)}).iloc[0]
    assert row["gap_high"] == 1.0 and row["gap_low"] > 0.8


def test_without_a_rule_no_run_is_counted_as_converged_or_not(tmp_path):
    runs = some_runs(converged=None)
    summary = analysis.summarize(runs, ["optimizer", "sam"], {"gap": (-1, 1)})
    assert summary["converged"].isna().all() and list(summary["runs"]) == [4, 2]
    ruled = analysis.summarize(some_runs(), ["optimizer", "sam"], {"gap": (-1, 1)})
    assert summary.drop(columns="converged").equals(ruled.drop(columns="converged"))
    runs.to_csv(tmp_path / "runs.csv", index=False)
    again = analysis.summarize(pd.read_csv(tmp_path / "runs.csv"), ["optimizer"], {"gap": (-1, 1)})
    assert again["converged"].isna().all()


def test_a_summary_of_no_runs_has_the_same_columns():
    runs = table([1.0], [2.0])
    summary = analysis.summarize(runs[:0], ["g"], {"x": (0, 1)}, ["y"])
    assert len(summary) == 0
    whole = analysis.summarize(runs, ["g"], {"x": (0, 1)}, ["y"])
    assert list(summary.columns) == list(whole.columns)


# Which runs enter


def test_each_excluded_run_is_listed_with_its_first_reason():
    runs = table(
        [1.0, NAN, NAN, 4.0, 5.0, NAN, 7.0],
        [1.0, NAN, 2.0, np.inf, 5.0, 6.0, 7.0],
        converged=[True, False, False, True, False, True, True],
        diverged=[False, True, False, False, False, False, False],
    )
    split = analysis.usable(runs, ["x", "y"])
    assert list(split.kept.index) == [0, 6]
    assert split.excluded["reason"].to_dict() == {
        **{1: "diverged", 2: "unconverged", 3: "not finite", 4: "unconverged", 5: "not finite"}
    }
    assert split.counts == {"diverged": 1, "unconverged": 2, "unfinished": 0, "not finite": 2}
    assert "reason" not in runs
    assert list(analysis.usable(runs, ["x"]).kept.index) == [0, 3, 6]


def test_without_a_converged_run_there_is_no_correlation_and_the_counts_say_why():
    x = np.arange(4.0)
    result = correlate(table(x, x, converged=False, diverged=[False, False, False, True]))
    assert result.num_runs == result.num_pairs == result.num_within_pairs == 0
    assert result.excluded == {"diverged": 1, "unconverged": 3, "unfinished": 0, "not finite": 0}
    for coefficient in (result.raw, result.within, result.pearson, result.spearman):
        assert np.isnan(coefficient[:3]).all()


def test_excluded_runs_change_nothing_but_the_counts():
    rng = np.random.default_rng(0)
    good = table(*rng.normal(size=(2, 9)), np.arange(9) % 3)
    wild = table([1e6, 1e6], [-1e6, -1e6], 0, converged=False, diverged=[False, True])
    alone, among = correlate(good), correlate(pd.concat([good, wild], ignore_index=True))
    assert among._replace(excluded=alone.excluded) == alone
    assert among.excluded == {"diverged": 1, "unconverged": 1, "unfinished": 0, "not finite": 0}


def test_without_a_rule_all_runs_count_that_did_not_diverge(tmp_path):
    """At equal epochs: None, as the tables have it, and what is read back from a file."""
    rng = np.random.default_rng(0)
    runs = table(*rng.normal(size=(2, 12)), np.arange(12) % 3, converged=None)
    runs.loc[3, "diverged"] = True
    runs.to_csv(tmp_path / "runs.csv", index=False)
    for each in (runs, pd.read_csv(tmp_path / "runs.csv")):
        found = correlate(each)
        assert found.num_runs == 11 and found.excluded["unconverged"] == 0
        ruled = correlate(runs.drop(index=3).assign(converged=True))
        assert found.raw.value == pytest.approx(ruled.raw.value, abs=1e-12)
        assert not np.isnan(found.within.value)


# Coefficients


@pytest.mark.parametrize("levels", [3, 1000])  # with many ties, and with hardly any
def test_raw_coefficients_are_scipys(levels):
    rng = np.random.default_rng(levels)
    x, y = rng.integers(levels, size=(2, 30)).astype(float)
    result = correlate(table(x, y))
    assert result.num_runs == 30 and result.num_pairs == 435
    np.testing.assert_allclose(result.raw.value, reference.kendalltau(x, y)[0], rtol=1e-12)
    np.testing.assert_allclose(result.pearson.value, reference.pearsonr(x, y)[0], rtol=1e-12)
    np.testing.assert_allclose(result.spearman.value, reference.spearmanr(x, y)[0], rtol=1e-12)


def test_tau_by_hand():
    # Pairs: (1,2) +, (1,3) tied in y, (1,4) +, (2,3) tied in x, (2,4) +, (3,4) +;
    # 4 concordant, 5 untied in x, 5 in y.
    result = correlate(table([1.0, 2.0, 2.0, 3.0], [1.0, 2.0, 1.0, 3.0]))
    assert result.raw.value == 4 / 5


def test_raw_and_within_may_contradict_each_other():
    # Between groups x and y rise together by 100, within a group y falls as x rises.
    group = np.repeat([0, 1, 2], 2)
    step = np.tile([0.0, 1.0], 3)
    result = correlate(table(100 * group + step, 100 * group - step, group))
    assert result.within.value == -1 and result.num_within_pairs == 3
    assert result.raw.value == (12 - 3) / 15


def test_a_raw_tau_of_one_in_groups_that_say_nothing():
    # All of the order is between the groups: inside each, both columns are constant.
    group = np.repeat([0.0, 1.0, 2.0], 2)
    result = correlate(table(group, group, group))
    assert result.raw.value == 1
    assert np.isnan(result.within[:3]).all()


def test_raw_nears_one_where_within_is_minus_one():
    """Groups of unequal level make a correlation by themselves (pitfall 25)."""
    # Simpson, as far as it goes: pairs within groups are raw pairs too, 200 of 79800 here.
    group = np.repeat(np.arange(200), 2)
    step = np.tile([0.0, 1.0], 200)
    result = correlate(table(10 * group + step, 10 * group - step, group))
    assert result.within.value == -1
    assert result.raw.value == 1 - 2 * 200 / (400 * 399 / 2)


def test_within_pools_pairs_of_unequal_groups_with_ties():
    rng = np.random.default_rng(3)
    group = rng.integers(5, size=40)
    x, y = rng.integers(4, size=(2, 40)).astype(float)
    result = correlate(table(x, y, group))
    np.testing.assert_allclose(result.within.value, naive_within(x, y, group), rtol=1e-12)
    assert result.num_within_pairs == sum(n * (n - 1) // 2 for n in np.bincount(group))


def test_a_group_agrees_in_all_of_its_columns():
    runs = table([1.0, 2.0, 1.0, 2.0, 5.0], [1.0, 2.0, 2.0, 1.0, 9.0]).assign(
        optimizer=["sgd", "sgd", "adam", "adam", "sgd"], rho=[NAN, NAN, NAN, NAN, 0.05]
    )
    result = analysis.correlation(runs, "x", "y", ["optimizer", "rho"], seeds=None)
    assert result.num_within_pairs == 2 and result.within.value == 0
    assert analysis.correlation(runs, "x", "y", ["optimizer"], seeds=None).num_within_pairs == 4


def test_undefined_coefficients_are_nan():
    two = correlate(table([1.0, 2.0], [1.0, 2.0]))
    assert two.num_pairs == 1 and np.isnan(two.raw.value)
    constant = correlate(table([0.1] * 3, [1.0, 2.0, 3.0]))  # 0.1 is no binary fraction
    for coefficient in (constant.raw, constant.within, constant.pearson, constant.spearman):
        assert np.isnan(coefficient[:3]).all()
    singles = correlate(table([1.0, 2.0, 4.0], [2.0, 1.0, 7.0], [0, 1, 2]))
    assert singles.num_within_pairs == 0 and np.isnan(singles.within[:3]).all()
    assert np.isfinite(singles.raw.value)


def test_wrong_arguments_are_named():
    runs = table([1.0], [1.0])
    with pytest.raises(ValueError, match=r"no column \['sharp'\] in the table; it has \['x', "):
        analysis.correlation(runs, "sharp", "y", ["g"])
    with pytest.raises(ValueError, match=r"no column \['sharp'\]"):
        analysis.summarize(runs, ["g"], {}, ["sharp"])
    with pytest.raises(ValueError, match=r"no column \['converged'\]"):
        analysis.usable(runs.drop(columns="converged"), ["x"])
    with pytest.raises(ValueError, match="groups is empty"):
        analysis.correlation(runs, "x", "y", [])
    with pytest.raises(ValueError, match="no column 'seed' of seeds in the table; name it by"):
        analysis.correlation(runs, "x", "y", ["g"])
