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


def run(out, monkeypatch, *options):
    """Study A with studies that are there; what its second network would be, interrupts."""
    called = []

    def main(arguments):
        called.append(arguments)
        if "middle_batch" in arguments:
            raise SystemExit(130)

    monkeypatch.setattr(study_a, "main", main)
    part = study_a.StudyA(datasets=("fashion_mnist",), out=out)
    with pytest.raises(SystemExit):
        study_a.study_a(part, list(options))
    return called


def test_each_run_has_a_row_at_its_checkpoints_and_its_end(out, monkeypatch):
    called = run(out, monkeypatch, "--epochs", "200")
    assert [arguments[4] for arguments in called] == ["simple_batch", "middle_batch"]
    assert called[0][-2:] == ["--out", str(out / "fashion_mnist-simple_batch")]
    assert ["--epochs", "200"] == called[0][7:9]
    table = pd.read_csv(out / "fashion_mnist.csv")
    assert list(table)[:9] == [
        *("optimizer", "sam", "seed", "model", "at", "epoch"),
        *("converged", "diverged", "train_loss"),
    ]
    sgd, adam = (table[table["optimizer"] == name] for name in ("sgd", "adam"))
    assert sgd["epoch"].tolist() == [50, 100, 120] * 2 and adam["epoch"].tolist() == [50, 50]
    assert sgd["at"].tolist() == ["checkpoint", "checkpoint", "end"] * 2
    assert sgd["converged"].tolist() == [False, False, True] * 2
    assert adam["diverged"].tolist() == [True, True] and set(adam["at"]) == {"end"}
    history = history_to(120).set_index("epoch")
    for row in sgd.itertuples():
        there = history.loc[row.epoch]
        assert row.train_loss == pytest.approx(there["train_loss"], rel=1e-6)
        gap = 100 * (there["train_accuracy"] - there["test_accuracy"])
        assert row.gap_points == pytest.approx(gap, rel=1e-4)
    assert sgd["top_eigenvalue"].notna().tolist() == [False, False, True] * 2


def test_the_table_is_evaluated_by_the_documented_command(out, monkeypatch, capsys):
    run(out, monkeypatch)
    command = study_a.__doc__.split("jaxsharp evaluate ")[1].splitlines()[0].split()[1:]
    cli.main(["evaluate", str(out / "fashion_mnist.csv"), *command])
    printed = capsys.readouterr().out
    assert "2 runs enter (left out at most: 2 diverged)" in printed
    assert "4 of 8 rows count with at=end." in printed
