"""The evaluation at equal training losses: of the rows of each loss, as of a table of their own."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from jaxsharp import cli
from jaxsharp.analysis.evaluation import evaluate, evaluate_at_losses
from jaxsharp.analysis.evaluation.at_losses import losses_of, table_at_losses
from jaxsharp.cli import commands
from jaxsharp.cli.evaluate.ending import evaluate_study
from jaxsharp.cli.output import make_console
from jaxsharp.runs import Settings
from jaxsharp.studies import study
from jaxsharp.studies.writing import tables
from jaxsharp.training import members
from tests import pages
from tests.folders import STUDY, make_study

ASKED = {"measures": ["top_eigenvalue"], "target": "gap", "hyper": ["optimizer", "learning_rate"]}
VARIED = replace(
    STUDY, settings=Settings(epochs=3, loss_below=None), vary={"learning_rate": (0.1, 0.01)}
)
FAST = {"rounds": 99, "seed": "seed"}


@pytest.fixture(autouse=True)
def no_process_wide_changes(monkeypatch):
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(members, "cores_as_devices", lambda: None)
    monkeypatch.setattr(commands.signals, "handle", lambda: None)


def at_checkpoints(runs):
    """Two checkpoints of each run; the last run came below 1 alone, and none below 0.1."""
    rng = np.random.default_rng(3)
    ends = runs.assign(checkpoint="epoch_0003")
    before = runs.assign(checkpoint="epoch_0002", epochs=2)
    table = pd.concat([before, ends], ignore_index=True).sort_values(["optimizer", "seed"])
    last = table.index % len(runs) == len(runs) - 1
    first = table["epochs"] == 2
    flags = {"first_below_1": first, "first_below_0.3": ~first & ~last, "first_below_0.1": False}
    noise = {name: rng.normal(size=len(table)) ** 2 for name in ("top_eigenvalue", "gap")}
    return table.assign(**flags, **noise)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A study that ended, made without training, with a table of checkpoints."""
    out = make_study(tmp_path_factory.mktemp("ended") / "study", VARIED)
    study.write_tables(out, VARIED, set(VARIED.members()))
    result = study.summarize(VARIED, out)
    at_checkpoints(result.runs).to_csv(out / "checkpoints.csv", index=False)
    return out, result


@pytest.mark.slow
def test_each_loss_has_the_evaluation_of_its_rows(ended):
    table = at_checkpoints(ended[1].runs)
    assert losses_of(table) == ["1", "0.3", "0.1"]
    found = evaluate_at_losses(table, **ASKED, **FAST)
    for each, size in zip(found[:2], (8, 7), strict=True):
        rows = table[table[f"first_below_{each.loss}"]].reset_index(drop=True)
        want = evaluate(rows, **ASKED, **FAST, converged=None)
        pd.testing.assert_frame_equal(each.found.table, want.table)
        assert each.title == f"Training loss below {each.loss}: {size} of 8 runs"
        assert each.found.headline == want.headline and len(rows) == size
        assert each.found.notes[0].startswith(each.title) and each.found.notes[1] == want.notes[0]
        assert not any("last epoch" in note for note in each.found.notes)
    assert found[2].found is None and found[2].title.endswith("0 of 8 runs")
    joined = table_at_losses(found)
    assert joined.columns[0] == "first_below" and set(joined["first_below"]) == {"1", "0.3"}


@pytest.mark.slow
def test_a_study_and_the_command_have_it_after_that_of_the_ends(ended, tmp_path, capsys):
    out, result = ended
    evaluate_study(make_console(), VARIED, result, out)
    said = capsys.readouterr().out
    cli.main(["evaluate", str(out), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for text in (said, printed):
        assert "Training loss below 1: 8 of 8 runs: " in text
        assert "Training loss below 0.1: 0 of 8 runs: no evaluation, " in text
    name, _ = tables.AT_LOSSES
    assert (out / name).read_bytes() == (tmp_path / name).read_bytes()
    page = (out / "evaluation_at_losses.md").read_text()
    assert page.count("\n## Training loss below") == 3 and page.count("| measure |") == 2
    (shown,) = pages.content_of((out / "report.html").read_text())["studies"]
    (at_losses,) = (t for t in shown["tables"] if t["title"].endswith("equal training losses"))
    assert at_losses["heads"][0] == "first_below"
    assert {row[0] for row in at_losses["rows"]} == {0.3, 1}
    study.summarize(VARIED, out)
    assert not any((out / name).exists() for name in tables.AT_LOSSES)


@pytest.mark.slow
def test_checkpoints_of_a_run_are_no_runs_of_their_own(ended, tmp_path, capsys):
    file = tmp_path / "checkpoints.csv"
    at_checkpoints(ended[1].runs).to_csv(file, index=False)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evaluate", str(file)])
    assert stopped.value.code == 2
    assert "several checkpoints of a run; give the folder of the study" in capsys.readouterr().err
    cli.main(["evaluate", str(file), "--where", "first_below_1=True"])
    assert "8 of 16 rows count" in capsys.readouterr().out


def test_titles_count_all_runs_where_a_part_of_the_settings_is_named(ended):
    """Before, this was "8 of 4 runs": those of one optimizer counted as the other's."""
    table = at_checkpoints(ended[1].runs)
    asked = {**ASKED, **FAST, "hyper": ["learning_rate"], "columns": ()}
    found = evaluate_at_losses(table, **asked, keys=["optimizer", "seed"])
    for each, size, loss in zip(found, (8, 7, 0), ("1", "0.3", "0.1"), strict=True):
        assert each.title == f"Training loss below {loss}: {size} of 8 runs"
    (first, *_) = evaluate_at_losses(table, **asked)
    assert first.title.endswith("8 of 4 runs")
