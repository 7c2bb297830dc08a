"""`jaxsharp study --hypotheses` and `jaxsharp evaluate`: what was registered, and by whom."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from jaxsharp import cli
from jaxsharp.cli import commands
from jaxsharp.cli.evaluate import ending
from jaxsharp.cli.evaluate.registered import registered, studies_of
from jaxsharp.cli.output import make_console
from jaxsharp.runs import Settings, claims
from jaxsharp.studies import study
from jaxsharp.studies.grid import registration
from jaxsharp.training import members
from tests.folders import STUDY, make_run

VARIED = replace(
    STUDY, settings=Settings(epochs=3, loss_below=None), vary={"learning_rate": (0.1, 0.01)}
)
GROWN = replace(VARIED, seeds=3)
PLUS, MINUS = (
    registration.hypotheses_of(f"top_eigenvalue:{sign}:loss_gap", VARIED) for sign in "+-"
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_process_wide_changes(monkeypatch):
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(members, "cores_as_devices", lambda: None)
    monkeypatch.setattr(commands.signals, "handle", lambda: None)


def made(out, hypotheses, config=VARIED):
    """A finished study, with numbers that differ from run to run in its table."""
    with study.claimed(out, config, hypotheses=hypotheses):
        for member in config.members():
            make_run(out / "runs" / member.name, member)
    return tabled(out, config)


def tabled(out, config):
    study.write_tables(out, config, set(config.members()))
    runs, rng = pd.read_csv(out / "runs.csv"), np.random.default_rng(0)
    runs["top_eigenvalue"], runs["loss_gap"] = rng.normal(size=(2, len(runs)))
    runs.to_csv(out / "runs.csv", index=False)
    return out


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Studies that registered a hypothesis, the opposite and none; one that grew; a table."""
    root = tmp_path_factory.mktemp("place")
    made(root / "plus", PLUS)
    made(root / "minus", MINUS)
    made(root / "none", ())
    grown = shutil.copytree(root / "plus", root / "grown")
    entry = registration.read(grown).entry
    claims.write_config(grown, GROWN.as_dict(), entry)
    for member in set(GROWN.members()) - set(VARIED.members()):
        make_run(grown / "runs" / member.name, member)
    tabled(grown, GROWN)
    shutil.copy(root / "plus" / "runs.csv", root / "mine.csv")
    return root


def evaluated(place, capsys, *arguments):
    """What is printed on tables, and the marks of the measure."""
    names = [str(place / a) if (place / a).exists() else a for a in arguments]
    out = place / "found"
    cli.main(["evaluate", *names, "--target", "loss_gap", "--out", str(out)])
    marks = pd.read_csv(out / "evaluation.csv").iloc[0]
    return capsys.readouterr().out.replace(f"{place}/", ""), marks.get("hypothesis")


def test_a_study_is_marked_by_what_it_registered(place, capsys):
    text = registration.read(place / "plus").text
    printed, mark = evaluated(place, capsys, "plus")
    assert mark == "+" and f"plus registered {text}\n" in printed
    assert "Hypotheses on loss_gap, 1: raw tau" in printed
    assert evaluated(place, capsys, "plus/runs.csv")[1] == "+"
    printed, mark = evaluated(place, capsys, "none")
    assert mark is None and "No hypotheses: every measure is exploratory\n" in printed
    assert "registered" not in printed
    printed, mark = evaluated(place, capsys, "plus", "--where", "optimizer=sgd")
    assert mark is None and "With --where other rows count than were registered" in printed


def test_runs_that_came_later_are_said_and_can_be_left_out(place, capsys):
    printed, mark = evaluated(place, capsys, "grown")
    assert mark == "+" and "12 runs enter" in printed
    later = "4 runs came later (sgd-lr0.01-seed2, sgd-lr0.1-seed2, adam-lr0.01-seed2, "
    assert f"grown since then: {later}" in printed
    printed, mark = evaluated(place, capsys, "grown", "--registered-only")
    assert mark == "+" and "8 runs enter" in printed
    assert "8 of 12 rows are of the registered grid, and count" in printed


def test_several_studies_have_what_all_registered(place):
    plus, minus, none, mine = (place / n for n in ("plus", "minus", "none", "mine.csv"))
    assert registered([plus, place / "grown"]).hypotheses == ("top_eigenvalue:+:loss_gap",)
    both = registered([plus, minus])
    assert both.hypotheses == ()
    said = "Exploratory all the same, as not all studies have them: "
    assert both.notes[-1] == f"{said}top_eigenvalue:+:loss_gap,top_eigenvalue:-:loss_gap"
    for other in (none, mine):
        found = registered([plus, other])
        assert found.hypotheses == () and f"as {other} registered none: " in found.notes[-1]
    assert registered([none, mine]).notes == ()
    assert studies_of(mine) == [] and studies_of(plus / "runs.csv") == [plus]
    assert studies_of(plus / "summary.csv") == []


def test_tables_of_ones_own_take_hypotheses_that_nothing_dates(place, capsys):
    stated = ["--hypotheses", "top_eigenvalue:-:loss_gap"]
    printed, mark = evaluated(place, capsys, "mine.csv", *stated)
    assert mark == "-" and "are those of --hypotheses; no table says since when" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plus", "--hypotheses", "top_eigenvalue:-:gap"], "plus, a study, which has those that"),
        (["none", "--hypotheses", "top_eigenvalue:-:gap"], "it is for tables of your own"),
        (["mine.csv", "--hypotheses", "top:-:gap"], "unknown measure of a hypothesis 'top'"),
        (["mine.csv", "--hypotheses", "seed"], "it must be MEASURE:SIGN:TARGET"),
        (["mine.csv", "--registered-only"], "mine.csv registers nothing"),
        (["tampered"], "tampered/config.json has a preregistration that does not hold"),
    ],
)
def test_what_cannot_be_is_one_line(place, tmp_path, capsys, arguments, said):
    if arguments == ["tampered"]:
        folder = shutil.copytree(place / "plus", tmp_path / "tampered")
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text.replace('"sign": "+"', '"sign": "-"'))
        arguments = [str(folder)]
    names = [str(place / a) if (place / a).exists() else a for a in arguments]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evaluate", *names, "--target", "loss_gap"])
    printed, error = capsys.readouterr()
    assert stopped.value.code == 2 and printed == ""
    assert error.startswith("jaxsharp: error: ") and error.count("\n") == 1 and said in error


def test_the_end_of_a_study_marks_its_measures_on_its_page_too(tmp_path, capsys):
    stated = registration.hypotheses_of("top_eigenvalue:-:gap", VARIED)
    out = made(tmp_path / "study", stated)
    result = study.summarize(VARIED, out)
    ending.evaluate_study(make_console(), VARIED, result, out)
    table = pd.read_csv(out / "evaluation.csv")
    assert result.gap == "gap" and table["hypothesis"][0] == "-"
    kept = registration.read(out)
    page = (out / "evaluation.md").read_text()
    assert f"{out} registered {kept.text}" in page
    html = (out / "report.html").read_text()
    assert kept.sha256 in html and "--hypotheses top_eigenvalue:-:gap" in html
    assert "within_agrees" in html


def test_the_command_registers_before_it_trains_and_names_another_folder(tmp_path, capsys):
    out = str(tmp_path / "out")
    small = "study --train-size 200 --epochs 1 --optimizers sgd --sam none --seeds 1".split()
    asked = [*small, "--out", out, "--measures", "gradient_norm"]
    asked += ["--hypotheses", "gradient_norm:+:gap"]
    cli.main(asked)
    entry = json.loads((tmp_path / "out" / "config.json").read_text())["preregistration"]
    said = f"gradient_norm:+:gap on {entry['registered']}, SHA-256 {entry['sha256']}"
    assert f"registered: {said}\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main([*asked[:-1], "gradient_norm:-:gap"])
    assert "would come after the first run" in capsys.readouterr().err
