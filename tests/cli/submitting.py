"""The command `jaxsharp submit` in this process, and programs that stand in for others."""

import os
from pathlib import Path

import pytest

from jaxsharp import cli
from jaxsharp.cli import commands
from jaxsharp.cli.submit import jobs
from jaxsharp.training import members

STUDY = [
    *("--optimizers", "sgd", "--sam", "none", "--seeds", "4", "--epochs", "2"),
    *("--train-size", "100", "--measures", "gradient_norm", "--loss-below", "none"),
    *("--batch-size", "25"),
]
TABLES = ("runs.csv", "history.csv", "summary.csv", "correlations.csv", "config.json")


def in_one_process(monkeypatch, tmp_path):
    """Commands leave the test's process as it is, in an empty folder, and find stand-ins first."""
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(members, "cores_as_devices", lambda: None)
    monkeypatch.setattr(commands.signals, "handle", lambda: None)
    (tmp_path / "bin").mkdir()
    # This machine may have a Slurm of its own, which gets nothing of tests.
    monkeypatch.setattr(jobs, "has_slurm", (tmp_path / "bin" / "sbatch").exists)
    (tmp_path / "at").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path / "at")


def stand_in(name, *lines):
    """A program of this name on PATH, which notes its arguments in CALLS."""
    file = Path(os.environ["PATH"].partition(":")[0]) / name
    calls = file.with_suffix(".calls")
    file.write_text("\n".join(["#!/bin/bash", f'echo "$@" >> {calls}', *lines, ""]))
    file.chmod(0o755)
    return calls


def submitted(*options, study=STUDY):
    cli.main(["submit", "--shards", "3", "--out", "grid", *options, "--", *study])


def refused(capsys, *options, study=STUDY):
    with pytest.raises(SystemExit) as stopped:
        submitted(*options, study=study)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == "" and err.count("\n") == 1
    return err
