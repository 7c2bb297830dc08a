"""Study A's joined table: a row at each checkpoint and end of a run, as its studies have them."""

from dataclasses import replace

import pandas as pd
import pytest

from experiments import study_a
from jaxsharp import cli
from jaxsharp.cli import commands
from jaxsharp.runs import Settings, claims
from jaxsharp.studies.writing.tables import write_tables
from jaxsharp.training import members
from tests.folders import STUDY, history_to, make_run

LONG = replace(
    STUDY,
    **{"dataset": "fashion_mnist", "model": "simple_batch", "sam": ("none", "sam"), "seeds": 1},
    settings=Settings(epochs=200),
)
ENDED = {"sgd": (120, {"converged": True}), "adam": (50, {"diverged": True})}


@pytest.fixture
def out(tmp_path, monkeypatch):
    """Study A of two networks, interrupted in the second before any of its groups was done."""
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(members, "cores_as_devices", lambda: None)
    monkeypatch.setattr(commands.signals, "handle", lambda: None)
    folder = tmp_path / "fashion_mnist-simple_batch"
    claims.claim(folder, LONG.as_dict())
    for member in LONG.members():
        epoch, end = ENDED[member.optimizer]
        make_run(folder / "runs" / member.name, member, epoch=epoch, **end)
    write_tables(folder, LONG, set(LONG.members()))
    return tmp_path


def run(out, monkeypatch, *options, **part):
    """Study A with studies that are there, interrupted before checkpoints are measured."""
    called = []

    def main(arguments):
        called.append(arguments)
        if arguments[0] == "sharpness":
            raise SystemExit(130)

    monkeypatch.setattr(study_a, "main", main)
    part = study_a.StudyA(datasets=("fashion_mnist",), out=out, **part)
    with pytest.raises(SystemExit):
        study_a.study_a(part, list(options))
    return called


def test_one_data_set_and_network_have_the_folder_that_they_have_among_others(out, monkeypatch):
    for models, folder in ((("simple_batch",), out / "fashion_mnist-simple_batch"), (None, out)):
        called = run(out, monkeypatch, **({"models": models} if models else {}))
        assert called[0][-1] == called[1][1] == str(folder)


def test_the_runs_of_all_networks_are_one_table(out, monkeypatch):
    study, sharpness = run(out, monkeypatch, "--epochs", "200")
    assert study[:3] == ["study", "--dataset", "fashion_mnist"]
    assert study[4] == "simple_batch,middle_batch,complex_batch"
    assert study[-2:] == ["--out", str(out)] and ["--epochs", "200"] == study[7:9]
    assert sharpness[:4] == ["sharpness", str(out), "--epochs", "50,100,150,200,final"]
    table = pd.read_csv(out / "fashion_mnist.csv")
    runs = pd.read_csv(out / "fashion_mnist-simple_batch" / "runs.csv")
    assert list(table)[:5] == ["optimizer", "sam", "model", "seed", "epoch"]
    assert table["epoch"].tolist() == runs["epochs"].tolist() == [120, 120, 50, 50]
    there = history_to(120).set_index("epoch").loc[120]
    gap = 100 * (there["train_accuracy"] - there["test_accuracy"])
    assert table["gap_points"].tolist()[:2] == pytest.approx([gap] * 2, rel=1e-4)
    pd.testing.assert_frame_equal(table[list(runs)[13:]], runs[list(runs)[13:]])


def test_checkpoints_have_rows_of_their_own(out, monkeypatch):
    """Those before the end did not converge, so that correlations are of ends unless one asks."""
    folder = out / "fashion_mnist-simple_batch"
    runs = pd.read_csv(folder / "runs.csv")
    earlier = runs[:2].assign(epochs=50, converged=False, checkpoint="epoch_0050")
    both = pd.concat([earlier, runs.assign(checkpoint="converged")])
    both.to_csv(folder / "checkpoints.csv", index=False)
    run(out, monkeypatch)
    table = pd.read_csv(out / "fashion_mnist.csv")
    assert table["epoch"].tolist() == [50, 50, 120, 120, 50, 50]
    assert table["checkpoint"].tolist() == ["epoch_0050"] * 2 + ["converged"] * 4


@pytest.mark.slow
def test_the_table_is_evaluated_by_the_documented_command(out, monkeypatch, capsys):
    run(out, monkeypatch)
    command = study_a.__doc__.split("jaxsharp evaluate ")[1].splitlines()[0].split()
    assert command == ["runs/study_a/fashion_mnist.csv"]
    cli.main(["evaluate", str(out / "fashion_mnist.csv")])
    assert "2 runs enter (left out at most: 2 diverged)" in capsys.readouterr().out
    cli.main(["evaluate", str(out / "fashion_mnist.csv"), "--where", "sam=none"])
    printed = capsys.readouterr().out
    assert "1 runs enter" in printed and "2 of 4 rows count with sam=none." in printed
