"""`jaxsharp evaluate`: studies, anybody's tables, what it writes, what it refuses."""

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from jaxsharp import cli
from jaxsharp.analysis import evaluation
from jaxsharp.cli import commands
from jaxsharp.cli.evaluate import ending
from jaxsharp.cli.evaluate.output import print_evaluation
from jaxsharp.cli.evaluate.tables import hyper_of, read_table, rows_where
from jaxsharp.cli.output import Output, make_console
from jaxsharp.runs import Settings
from jaxsharp.studies import study
from jaxsharp.studies.writing import tables
from jaxsharp.training import members
from tests.folders import STUDY, make_study
from tests.test_layout import PACKAGE

VARIED = replace(
    STUDY, settings=Settings(epochs=3, loss_below=None), vary={"learning_rate": (0.1, 0.01)}
)
DIGITS = PACKAGE.parent / "results" / "digits"


@pytest.fixture(autouse=True)
def no_process_wide_changes(monkeypatch):
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(members, "cores_as_devices", lambda: None)
    monkeypatch.setattr(commands.signals, "handle", lambda: None)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Somebody's table: other names, a measure with a hole, runs that did not converge."""
    rng = np.random.default_rng(0)
    grid = np.meshgrid([0.1, 0.01, 0.001], [1, 2, 4], range(5), indexing="ij")
    runs = pd.DataFrame(dict(zip(["lr", "width", "trial"], map(np.ravel, grid), strict=True)))
    runs["ce"], runs["norm"] = np.exp(rng.normal(size=(2, 45)))
    runs["difference"] = np.log(runs["norm"]) + rng.normal(size=45)
    runs["done"] = runs.index % 15 > 0
    runs.loc[1, "norm"] = np.nan
    runs["label"], runs["empty"] = "text", np.nan
    path = tmp_path_factory.mktemp("own") / "mine.csv"
    runs.to_csv(path, index=False)
    return path


NAMED = "--measures norm --target difference --hyper lr,width --loss-column ce".split()


@pytest.mark.slow
def test_a_study_needs_no_options(capsys):
    cli.main(["evaluate", str(DIGITS)])
    out = capsys.readouterr().out
    assert out.startswith("0 of 3 measures predict gap beyond training loss, hyper-parameters and ")
    assert "24 runs enter (left out at most: 12 unconverged)" in out
    assert "hyper-parameters that vary: optimizer, sam\n" in out
    for name in ("minimum sharpness", "random perturbation", "optimizer = sgd", "random number"):
        assert name in out
    # As in the README of the results.
    assert "+0.31 [" in next(x for x in out.splitlines() if x.startswith("minimum sharpness"))


@pytest.mark.slow
def test_any_table_whose_columns_are_named(own, tmp_path, capsys):
    found = tmp_path / "a" / "found"
    options = "--seed-column trial --converged-column done".split()
    cli.main(["evaluate", str(own), *NAMED, *options, "--out", str(found)])
    assert (
        "41 runs enter (left out at most: 3 unconverged, 1 not finite)" in capsys.readouterr().out
    )
    assert sorted(os.listdir(found)) == ["evaluation.csv", "evaluation.md", "evaluation.png"]
    table = pd.read_csv(found / "evaluation.csv")
    assert list(table["measure"]) == ["norm", "lr", "width", "ce", "random number"]
    assert list(table["kind"]) == ["measure", *["control"] * 4]
    page = (found / "evaluation.md").read_text()
    assert f"{table['raw'][0]:+.2f} [{table['raw_low'][0]:+.2f}" in page
    before = {name: (found / name).read_bytes() for name in os.listdir(found)}
    cli.main(["evaluate", str(own), *NAMED, *options, "--out", str(found)])
    assert before == {name: (found / name).read_bytes() for name in os.listdir(found)}


@pytest.mark.slow
def test_what_may_enter_is_told(own, capsys):
    cli.main(["evaluate", str(own), *NAMED, "--converged-column", "done", "--unconverged"])
    out = capsys.readouterr().out
    assert (
        "44 runs enter (left out at most: 1 not finite)" in out
        and "3 of the runs did not converge, and enter as asked" in out
    )
    cli.main(["evaluate", str(own), *NAMED])
    assert "Nothing says which runs converged: all count" in capsys.readouterr().out


def test_rows_are_chosen_by_the_values_of_columns(own, tmp_path, capsys):
    """As from a table of these alone, numbers by value and not by how they are written."""
    runs, half = pd.read_csv(own), tmp_path / "half.csv"
    runs[runs["lr"].isin([0.1, 0.001]) & (runs["width"] == 2)].to_csv(half, index=False)
    cli.main(["evaluate", str(half), *NAMED])
    alone = capsys.readouterr().out
    cli.main(["evaluate", str(own), *NAMED, "--where", "lr=1e-1,0.001", "width=2.0"])
    chosen = capsys.readouterr().out.splitlines()
    note = "10 of 45 rows count with lr=1e-1,0.001 and width=2.0."
    assert note in chosen and [x for x in chosen if x != note] == alone.splitlines()
    runs["label"], runs["done"] = ["a", "b", np.nan] * 15, runs.index < 15
    assert len(rows_where(runs, ["label=a,nan", "done=False"])) == 20
    runs["label"] = ["a, b", "b", "c"] * 15
    assert len(rows_where(runs, ["label=c,a, b", "done=True"])) == 10


@pytest.mark.slow
def test_columns_are_named_with_commas_and_quotes(own, tmp_path, capsys):
    names = {"norm": "norm, l2", "width": 'width, "w"', "lr": "größe"}
    runs, odd = pd.read_csv(own), tmp_path / "odd.csv"
    runs.rename(columns=names).to_csv(odd, index=False)
    asked = [",".join(names.get(each, each) for each in word.split(",")) for word in NAMED]
    cli.main(["evaluate", str(odd), *asked])
    assert "norm, l2" in capsys.readouterr().out


@pytest.mark.slow
def test_several_tables_are_one(own, tmp_path, capsys):
    runs = pd.read_csv(own)
    halves = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, half in zip(halves, (runs[:20], runs[20:]), strict=True):
        half.to_csv(path, index=False)
    cli.main(["evaluate", *map(str, halves), *NAMED])
    joined = capsys.readouterr().out
    cli.main(["evaluate", str(own), *NAMED])
    assert joined == capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 100, 140, 300])
def test_the_printed_table_is_one_as_wide_as_its_place(own, width, capsys):
    runs = read_table(own)
    found = evaluation.evaluate(
        runs, measures=["norm"], target="difference", hyper=["lr", "width"], seed=None,
        converged=None, loss="ce",
    )  # fmt: skip
    print_evaluation(Output(width=width), found)
    out = capsys.readouterr().out
    lines = out.partition("\n\n")[2].partition("\n\n")[0].splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.startswith("measure ") for line in out.splitlines()) == 1
    assert "verdict" in out and ("slope" in out) == (width >= 140)
    assert ("A wider terminal shows more" in out) == (width < 300)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A study whose runs all ended, made without training, and what it found."""
    out = make_study(tmp_path_factory.mktemp("ended") / "study", VARIED)
    study.write_tables(out, VARIED, set(VARIED.members()))
    return out, study.summarize(VARIED, out)


@pytest.mark.slow
def test_a_study_has_at_its_end_what_the_command_finds_there(ended, tmp_path, capsys):
    out, result = ended
    before = {path: path.read_bytes() for path in out.glob("*.*")}
    ending.evaluate_study(make_console(), VARIED, result, out)
    said, place = capsys.readouterr().out.splitlines()
    assert said.startswith("0 of 1 measure predicts gap beyond training loss, hyper-parameters and")
    assert place == f"{out}: evaluation.csv, evaluation.md"
    page = out / "report.html"
    assert "undecided" in page.read_text() and b"undecided" not in before.pop(page)
    assert all(path.read_bytes() == content for path, content in before.items())
    cli.main(["evaluate", str(out), "--out", str(tmp_path)])
    assert (out / "evaluation.csv").read_bytes() == (tmp_path / "evaluation.csv").read_bytes()
    assert said in (out / "evaluation.md").read_text().splitlines()


@pytest.mark.slow
def test_an_evaluation_of_an_earlier_end_is_removed(tmp_path):
    out = make_study(tmp_path / "study", VARIED)
    study.write_tables(out, VARIED, set(VARIED.members()))
    for name in tables.EVALUATION:
        (out / name).write_text("measure,raw\nof an earlier end,1.0\n")
    study.summarize(VARIED, out)
    assert not any((out / name).exists() for name in tables.EVALUATION)
    assert "of an earlier end" not in (out / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["no gap", "no measure", "many runs"])
def test_a_study_without_numbers_or_with_many_runs_is_not_evaluated(
    ended, case, tmp_path, monkeypatch, capsys
):
    _, result = ended
    if case == "many runs":
        monkeypatch.setattr(ending, "MOST_RUNS", len(result.runs) - 1)
    else:
        column = {"no gap": "gap", "no measure": VARIED.measures[0]}[case]
        result = result._replace(runs=result.runs.assign(**{column: np.nan}))
    ending.evaluate_study(make_console(), VARIED, result, tmp_path)
    assert capsys.readouterr().out == "" and os.listdir(tmp_path) == []


def test_hyper_parameters_that_others_determine_are_none():
    runs = pd.DataFrame({"optimizer": list("aabb"), "sam": ["none", "sam"] * 2, "seed": 0})
    runs = runs.assign(rho=[np.nan, 0.05] * 2, learning_rate=[0.1, 0.1, 0.01, 0.01], batch_size=32)
    assert hyper_of(runs) == ["optimizer", "sam"]
    varied = pd.concat([runs, runs.assign(batch_size=64)])
    assert hyper_of(varied) == ["optimizer", "sam", "batch_size"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--measures", "nrom"], "unknown column 'nrom'; valid are norm, "),
        (["--target", "diference"], "unknown column 'diference'; valid are difference, "),
        (["--hyper", "lr,widht"], "unknown column 'widht'; valid are width, "),
        (["--seed-column", "seeds"], "unknown column 'seeds'; valid are "),
        (["--converged-column", "dun"], "unknown column 'dun'; valid are "),
        (["--converged-column", "label"], "column 'label' holds 'text'; it must be True or"),
        (["--loss-column", "c"], "unknown column 'c'; valid are ce, "),
        (["--controls", "noone"], "unknown column 'noone'; valid are "),
        (["--measures", "label"], "column 'label' holds 'text'; it must hold numbers"),
        (["--measures", "empty"], "column 'empty' has no finite value; leave it out"),
        (["--measures", "norm,difference"], "column 'difference' is a measure and the target"),
        (["--measures", "lr"], "column 'lr' is a measure and a hyper-parameter"),
        (["--measures", ""], "no column is named"),
        (["--hyper", "lr,trial", "--seed-column", "trial"], "'trial' is a hyper-parameter and the"),
        (["--where", "wid=1"], "unknown column 'wid'; valid are width, "),
        (["--where", "width=3"], "unknown width in where '3.0'; valid are "),
        (["--where", "width"], "where is 'width'; it must be COLUMN=VALUE,VALUE"),
        (["--where", "width="], "no width in where is named; valid are 1.0, 2.0, 4.0"),
        (["--where", "trial=1", "done=False"], "where is 'trial=1 done=False'; no row has all"),
        (["--noise", "-1"], "noise is -1.0; it must be a finite number from 0"),
        (["--confidence", "95"], "confidence is 95.0; it must be between 0 and 1"),
    ],
)
def test_wrong_columns_are_one_line(own, tmp_path, options, text, capsys):
    refused(["evaluate", str(own), *NAMED, *options, "--out", str(tmp_path / "x")], text, capsys)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "is no CSV table: No columns to parse from file"),
        ("a,b\n", "has no rows; it must have one a run"),
        ("x,gap,x\n1,2,3\n", "has the column 'x' twice; name one otherwise"),
        ("x,gap\n1,2\n1,2,3,4\n", "is no CSV table: "),
        ("x,gap\n1,2\n", "no column has an error beside it; name the measures with --measures"),
        ("x,x_error,a\n1,2,3\n", "the table has no column gap; name what is to be predicted"),
        ("x,x_error,gap\n1,0,3\n", "no column is a hyper-parameter that varies; name some with"),
        ("x,x_error,gap,sam\n1,-1,3,a\n2,0,4,b\n", "column 'x_error' holds -1.0; errors are at l"),
    ],
)
def test_files_that_are_no_tables_are_one_line(content, text, tmp_path, capsys):
    path = tmp_path / "table.csv"
    path.write_text(content)
    refused(["evaluate", str(path)], text, capsys)


def test_wrong_places_are_one_line(own, tmp_path, capsys):
    refused(["evaluate"], "evaluate needs one or more studies, or CSV files", capsys)
    refused(["evaluate", str(tmp_path)], "holds no runs.csv; give the folder of a study", capsys)
    refused(["evaluate", str(tmp_path / "no.csv")], "is no file; give the folder of a", capsys)
    refused(["evaluate", str(own), *NAMED, "--out", str(own)], "which is a file", capsys)
    inside = str(DIGITS / "found")
    refused(["evaluate", str(own), *NAMED, "--out", inside], "is inside of the study", capsys)
    other = tmp_path / "other.csv"
    pd.read_csv(own).rename(columns={"ce": "loss"}).to_csv(other, index=False)
    refused(["evaluate", str(own), str(other), *NAMED], "differ in the column 'ce'", capsys)


def refused(arguments, text, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == "" and text in err, err
    assert err.startswith("jaxsharp: error: ") and len(err.splitlines()) == 1
