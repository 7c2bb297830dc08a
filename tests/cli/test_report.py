"""What a study prints at its end, at every width: means, reasons, what is left out, paths."""

import re

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len

from jaxsharp import analysis
from jaxsharp.analysis import Coefficient
from jaxsharp.analysis.coefficients import written
from jaxsharp.analysis.results import study_result
from jaxsharp.analysis.statistics import correlation_table
from jaxsharp.cli import report
from jaxsharp.cli.output import Output, make_console
from jaxsharp.cli.tables import Column, in_parts, number, print_fitting
from jaxsharp.runs import Settings
from jaxsharp.studies import StudyConfig
from tests.drawings import MEASURES, study_runs, varied_runs
from tests.folders import STUDY, make_run

NAN = float("nan")
AXES = ["optimizer", "sam"]


def finished_study(runs, axes=AXES, measures=MEASURES):
    runs = runs.assign(train_accuracy=1.0, test_accuracy=1 - runs["gap"])
    return study_result(runs, axes, measures)


def printed(runs, out, capsys, *, width=200, terminal=False, formats=("png",), **options):
    config = StudyConfig(**{"optimizers": ("sgd", "adam"), "measures": tuple(MEASURES), **options})
    console = Output(width=width, force_terminal=terminal, color_system=None)
    study = finished_study(runs, config.axes(), config.measures)
    report.print_study(console, config, study, out, 1.0, formats)
    return capsys.readouterr().out


def test_all_figures_are_named(tmp_path, capsys):
    (line,) = printed(study_runs(), tmp_path, capsys, formats=("pdf", "svg")).splitlines()[-1:]
    assert "training.pdf, training.svg, sharpness.pdf, sharpness.svg, report.html" in line


def words(text):
    return re.findall(r"\S+", text)


def test_the_reason_stands_where_the_interval_would(tmp_path, capsys):
    out = printed(study_runs(), tmp_path, capsys)
    reason = "(no interval: 4 groups, 8 needed)"
    said = f"Kendall's tau +1.00 {reason}, among equal hyper-parameters +1.00 {reason}"
    assert f"minimum_sharpness against gap, 12 runs: {said}" in out


def test_values_that_are_left_out_are_counted_and_their_runs_are_named(tmp_path, capsys):
    runs = study_runs().assign(top_eigenvalue_finished=True, top_eigenvalue=np.arange(12) + 1.0)
    assert "in no mean" not in printed(runs, tmp_path, capsys)
    runs.loc[[1, 9], "top_eigenvalue_finished"] = False
    runs.loc[9, "diverged"] = True
    runs.loc[[3, 4, 5], "top_eigenvalue_finished"] = False
    runs.loc[7, "top_eigenvalue"] = -0.5
    out = printed(runs, tmp_path, capsys)
    named = "sgd none 1, sgd sam 0, sgd sam 1, sgd sam 2"
    lines = out.splitlines()
    assert f"top_eigenvalue is unfinished, and in no mean or correlation, of {named}" in lines
    assert (
        "top_eigenvalue is not positive, and so without a geometric mean, of adam none 1" in lines
    )
    assert "(1 unfinished)" in out and "- (3 unfinished)" in out
    assert "top_eigenvalue against gap, 7 runs (1 diverged, 4 unfinished left out)" in out
    assert "minimum_sharpness against gap, 11 runs (1 diverged left out)" in out


def test_without_a_rule_the_runs_count_and_the_text_says_at_which_epoch(tmp_path, capsys):
    settings = Settings(epochs=15, loss_below=None)
    runs = study_runs().assign(converged=None, epochs=15)
    out = printed(runs, tmp_path, capsys, settings=settings)
    assert "converged" not in out and "3 seeds, 15 epochs each" in out
    assert "minimum_sharpness against gap, 12 runs after 15 epochs: Kendall's tau +1.00" in out
    assert "converged" in printed(study_runs(), tmp_path, capsys)


def test_means_are_those_of_the_summary_in_one_unit(tmp_path, capsys):
    runs = study_runs(variants=("none",))
    out = printed(runs, tmp_path, capsys, sam=("none",))
    (line,) = [line for line in out.splitlines() if line.startswith("sgd")]
    mean, gap = (analysis.mean_interval(x[:3]) for x in (1 - runs["gap"], runs["gap"]))
    sharp = analysis.geometric_mean_interval(runs["minimum_sharpness"][:3])
    texts = [
        *(f"{each.mean:.4f} [{each.low:.3f}, {each.high:.3f}]" for each in (mean, gap)),
        f"{number(sharp.mean, 4)} [{number(sharp.low, 3)}, {number(sharp.high, 3)}]",
    ]
    assert " ".join(texts) in re.sub(" +", " ", line)
    assert mean.mean < 1 and "gap (training - test accuracy) are fractions" in out


def test_one_seed_is_one_seed(tmp_path, capsys):
    out = printed(study_runs(seeds=1), tmp_path, capsys, seeds=1)
    assert "small_mlp, 1 seed\n" in out
    assert not re.search(r"\b1 [a-z]+s\b", out)


NAMES = {
    "short": ("sgd", "adam"),
    "long": ("a_momentum_method_of_somebody_with_a_long_name", "another_optimizer_of_theirs"),
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("width", [60, 80, 100, 120, 200, None])
def test_at_every_width_all_is_there_and_no_heading_is_broken(names, width, tmp_path, capsys):
    optimizers, terminal = NAMES[names], width is not None
    varied = {"learning_rate": (0.1, 0.001), "batch_size": (32, 128)}
    runs = varied_runs(varied, optimizers=optimizers).assign(
        top_eigenvalue=lambda r: r["minimum_sharpness"] / 7,
        random_perturbation=lambda r: r["minimum_sharpness"] / 7000,
    )
    measures = (*MEASURES, "random_perturbation")
    path = tmp_path / ("a folder" + "x" * 80) / ("b" * 70)
    options = {"optimizers": optimizers, "vary": varied, "measures": measures}
    width = width or make_console().width
    out = printed(runs, path, capsys, width=width, terminal=terminal, **options)
    assert str(path) in out
    table = out[: out.index("test accuracy and gap (")]
    lines = table.splitlines()
    assert max(map(cell_len, lines)) <= width
    headings = ["optimizer", "SAM", "learning", "rate", "batch", "size", "test", "accuracy", "gap"]
    headings += ["minimum", "sharpness", "top", "eigenvalue", "random", "perturbation"]
    assert set(headings) <= set(words(table))
    cells = re.findall(r"[\d.]+ \[[\d.]+, [\d.]+\]", table)
    assert len(cells) == 5 * 2 * 2 * 4
    tables = sum(line.strip().startswith("\N{BOX DRAWINGS LIGHT HORIZONTAL}") for line in lines)
    assert (tables == 1) if width == 200 else (tables > 1) if width <= 80 else (1 <= tables <= 3)
    assert "summary.csv has all" in out
    assert ("A wider terminal" in out) == (width < 200)
    if terminal:  # texts are broken between words
        texts = [line for line in out.splitlines() if str(path) not in line]
        assert max(map(cell_len, texts)) <= width


def test_columns_go_into_as_few_tables_as_fit():
    columns = [Column("two words", ["1234567"]), Column("x", ["12"]), Column("y", ["1234"])]
    assert [len(part) for part in in_parts(columns, 17)] == [3]
    assert [len(part) for part in in_parts(columns, 16)] == [2, 1]
    assert [len(part) for part in in_parts(columns, 1)] == [1, 1, 1]


def test_fewer_digits_come_before_a_second_table(capsys):
    labels, short = [Column("name", ["row"], True)], Column("value", ["0.12"])
    long = Column("value", ["0.123456"])
    for width, shown in ((14, "0.123456"), (12, "0.12"), (8, "0.123456")):
        print_fitting(Output(width=width), labels, [[long], [short]])
        assert shown in words(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0, 3, "0.00"),
        (30.0, 3, "30.0"),
        (-0.01234, 2, "-0.012"),
        (123456.0, 3, "123456"),
        (1.5e9, 3, "1.50e+09"),
        (2.5e-9, 2, "2.5e-09"),
        (float("inf"), 3, "inf"),
    ],
)
def test_a_number_has_the_digits_it_should(value, digits, text):
    assert number(value, digits) == text


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
    assert written(found) == text


def test_the_table_of_correlations_has_reasons_and_all_counts():
    runs = study_runs().assign(top_eigenvalue_finished=[False] + [True] * 11)
    table = correlation_table(finished_study(runs).correlations, "gap").set_index("measure")
    row = table.loc["top_eigenvalue"]
    assert row["within_remark"] == row["raw_remark"] == "4 groups, 8 needed"
    assert row["pearson_remark"] == "coverage depends on the distribution"
    assert np.isnan(row["raw_low"]) and row["raw"] == 1 and row["runs"] == 11
    assert row["excluded unfinished"] == 1
    assert table.loc["minimum_sharpness", "excluded unfinished"] == 0


def test_a_run_is_printed_with_its_path_and_what_it_used(tmp_path, capsys):
    path = make_run(tmp_path / ("long" * 30) / "run", STUDY.members()[0])
    report.print_run(Output(width=40, force_terminal=True, color_system=None), path)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{path}:"
    found = dict(line.split(maxsplit=1) for line in lines if len(words(line)) > 1)
    assert (found["learning_rate"], found["momentum"], found["rho"]) == ("0.1", "-", "-")
    assert (found["weight_decay"], found["top_eigenvalue"]) == ("0", "1.5")
    assert pd.Series(lines).str.len().max() <= 40
