"""Values that a measure did not finish: in no mean, no correlation and no figure, and counted."""

import numpy as np
import pandas as pd
import pytest

from jaxsharp import analysis
from tests.drawings import MEASURES, against_gap, drawn, study_runs

NAN = float("nan")


def flagged(**values):
    """Twelve runs of which the first value of the top eigenvalue is far off."""
    runs = study_runs().assign(top_eigenvalue=np.arange(12) + 0.5, top_eigenvalue_finished=True)
    runs.loc[0, "top_eigenvalue"] = 1e6
    return runs.assign(**values)


def test_an_unfinished_value_enters_no_mean_and_is_counted():
    runs = flagged()
    runs.loc[[0, 4], "top_eigenvalue_finished"] = False
    table = analysis.summarize(runs, ["optimizer", "sam"], {}, MEASURES)
    kept = analysis.summarize(runs.drop(index=[0, 4]), ["optimizer", "sam"], {}, MEASURES)
    assert list(table["top_eigenvalue_unfinished"]) == [1, 1, 0, 0]
    assert list(table["runs"]) == [3] * 4
    for part in ("geomean", "low", "high"):
        name = f"top_eigenvalue_{part}"
        np.testing.assert_array_equal(table[name], kept[name])
    assert (table["top_eigenvalue_geomean"] < 20).all()
    all_of_them = analysis.summarize(runs, ["optimizer", "sam"], {}, MEASURES[:1])
    name = "minimum_sharpness_geomean"
    np.testing.assert_array_equal(table[name], all_of_them[name])
    assert "minimum_sharpness_unfinished" not in table


def test_an_unfinished_value_enters_no_correlation_of_its_own_and_is_counted():
    runs = flagged()
    runs.loc[[0, 4, 5], "top_eigenvalue_finished"] = False
    runs.loc[4, "converged"] = False
    runs.loc[5, "diverged"] = True
    split = analysis.usable(runs, ["top_eigenvalue", "gap"])
    assert split.counts == {"diverged": 1, "unconverged": 1, "unfinished": 1, "not finite": 0}
    assert list(split.excluded["reason"]) == ["unfinished", "unconverged", "diverged"]
    assert analysis.usable(runs, ["gap"]).counts["unfinished"] == 0
    groups = ["optimizer", "sam"]
    found = analysis.correlation(runs, "top_eigenvalue", "gap", groups)
    left = runs.drop(index=[0, 4, 5])
    expected = analysis.correlation(left, "top_eigenvalue", "gap", groups)
    np.testing.assert_equal(found._replace(excluded=expected.excluded), expected)


@pytest.mark.slow
def test_an_unfinished_value_has_no_point_and_the_title_counts_it():
    runs = flagged()
    runs.loc[0, "top_eigenvalue_finished"] = False
    without, beside = (drawn(against_gap(runs)).axes[row : row + 2] for row in (0, 2))
    for panels, counts in ((without, (6, 5)), (beside, (6, 6))):
        for panel, num in zip(panels, counts, strict=True):
            assert sum(len(c.lines[0].get_xdata()) for c in panel.containers) == num
    assert without[1].get_title().endswith("11 of 12 runs (out: 1 unfinished)")


def test_a_table_without_flags_or_with_missing_ones_is_taken_as_finished():
    runs = study_runs()
    for table in (runs, runs.assign(top_eigenvalue_finished=[True, NAN] * 6)):
        assert len(analysis.usable(table, ["top_eigenvalue"]).kept) == 12


@pytest.mark.parametrize("kind", [bool, int, float])
def test_flags_are_true_and_false_or_one_and_zero(kind):
    runs = flagged(top_eigenvalue_finished=pd.Series([0, 1] * 6).astype(kind))
    assert len(analysis.usable(runs, ["top_eigenvalue"]).kept) == 6


@pytest.mark.parametrize("name", ["converged", "diverged", "top_eigenvalue_finished"])
@pytest.mark.parametrize("flag", ["False", "no", 2])
def test_other_flags_are_refused(name, flag):
    """The text "False" is true to Python."""
    runs = flagged(**{name: flag})
    for use in (analysis.usable, lambda r, c: analysis.summarize(r, ["sam"], {}, c)):
        with pytest.raises(ValueError, match=f"column '{name}' holds {flag!r}; it must be True or"):
            use(runs, ["top_eigenvalue"])


def test_a_run_that_is_not_known_to_have_diverged_is_refused():
    with pytest.raises(ValueError, match="column 'diverged' holds nan; it must be True or False"):
        analysis.usable(study_runs().assign(diverged=[NAN] * 12), ["gap"])
