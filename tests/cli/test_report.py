"""What a study prints at its end: reasons in the place of intervals, and unfinished values."""

import numpy as np
import pytest
from rich.console import Console

from jaxsharp import analysis
from jaxsharp.analysis import Coefficient
from jaxsharp.cli import report
from jaxsharp.studies import StudyConfig
from jaxsharp.studies.study import StudyResult, correlation_table
from tests.drawings import MEASURES, study_runs

NAN = float("nan")
AXES = ["optimizer", "sam"]


def finished_study(runs):
    runs = runs.assign(test_accuracy=0.9)
    return StudyResult(
        runs,
        analysis.summarize(runs, AXES, ["test_accuracy", "gap", *MEASURES]),
        {name: analysis.correlation(runs, name, "gap", AXES) for name in MEASURES},
    )


def printed(runs, tmp_path, capsys):
    config = StudyConfig(optimizers=("sgd", "adam"), measures=tuple(MEASURES))
    report.print_study(Console(width=200), config, finished_study(runs), tmp_path, 1.0)
    return capsys.readouterr().out


def test_the_reason_stands_where_the_interval_would(tmp_path, capsys):
    out = printed(study_runs(), tmp_path, capsys)
    reason = "(no interval: 4 groups, 8 needed)"
    said = f"Kendall's tau +1.00 {reason}, among equal hyper-parameters +1.00 {reason}"
    assert f"minimum_sharpness against gap, 12 runs: {said}" in out


def test_unfinished_values_are_counted_in_the_table_and_their_runs_are_named(tmp_path, capsys):
    runs = study_runs().assign(top_eigenvalue_finished=True)
    assert "in no mean" not in printed(runs, tmp_path, capsys)
    runs.loc[[1, 9], "top_eigenvalue_finished"] = False
    runs.loc[9, "diverged"] = True
    runs.loc[[3, 4, 5], "top_eigenvalue_finished"] = False
    out = printed(runs, tmp_path, capsys)
    (line,) = [line for line in out.splitlines() if "in no mean" in line]
    named = "sgd none 1, sgd sam 0, sgd sam 1, sgd sam 2"
    assert line == f"top_eigenvalue is unfinished, and in no mean or correlation, of {named}"
    assert "(1 unfinished)" in out and "- (3 unfinished)" in out
    assert "top_eigenvalue against gap, 7 runs (1 diverged, 4 unfinished left out)" in out
    assert "minimum_sharpness against gap, 11 runs (1 diverged left out)" in out


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Coefficient(0.5, 0.25, 0.75), "+0.50 [+0.25, +0.75]"),
        (
            Coefficient(-0.5, NAN, NAN, "3 seeds, 5 needed"),
            "-0.50 (no interval: 3 seeds, 5 needed)",
        ),
        (Coefficient(NAN, NAN, NAN, "undefined"), "undefined"),
    ],
)
def test_a_coefficient_in_words(found, text):
    assert report.coefficient(found) == text


def test_the_table_of_correlations_has_reasons_and_all_counts():
    runs = study_runs().assign(top_eigenvalue_finished=[False] + [True] * 11)
    table = correlation_table(finished_study(runs).correlations).set_index("measure")
    row = table.loc["top_eigenvalue"]
    assert row["within_remark"] == row["raw_remark"] == "4 groups, 8 needed"
    assert row["pearson_remark"] == "coverage depends on the distribution"
    assert np.isnan(row["raw_low"]) and row["raw"] == 1 and row["runs"] == 11
    assert row["excluded unfinished"] == 1
    assert table.loc["minimum_sharpness", "excluded unfinished"] == 0
