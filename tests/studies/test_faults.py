"""Faults done to a small study by the command line, once each, and the judge of their endings."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "experiments" / "benchmarks"


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("studies")


@pytest.fixture
def attempts(judge):
    return importlib.import_module("attempts")


def test_every_fault_ends_as_expected(tmp_path):
    command = [sys.executable, "experiments/benchmarks/faults.py", "--smoke", "--tries", "1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    tries = pd.read_csv(tmp_path / "tries.csv", keep_default_na=False)
    assert list(tries["as_expected"]).count("no") == 0, tries.to_string() + done.stderr
    assert done.returncode == 0, done.stderr
    counts = pd.read_csv(tmp_path / "counts.csv")
    always = counts[~counts["fault"].isin(["full_disk", "no_permission"])]  # not on every machine
    assert (always["tries"] == 1).all()
    page, config = (tmp_path / "README.md").read_text(), (tmp_path / "config.json").read_text()
    assert all(fault in page for fault in counts["fault"])
    assert json.loads(config)["versions"]["jax"]
    assert str(tmp_path) not in page + config


def test_a_changed_table_is_noticed(judge, tmp_path):
    place = judge.Place(tmp_path, (), {}, tmp_path, {"runs.csv": b"1\n"}, 0.0, 0.0)
    with pytest.raises(judge.Unexpected, match=r"no runs\.csv"):
        judge.must_have_tables(place, tmp_path)
    (tmp_path / "runs.csv").write_bytes(b"1 \n")
    with pytest.raises(judge.Unexpected, match=r"other runs\.csv"):
        judge.must_have_tables(place, tmp_path)
    (tmp_path / "runs.csv").write_bytes(b"1\n")
    judge.must_have_tables(place, tmp_path)


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        (0, []),
        (2, []),
        (1, ["jaxsharp: error: a.csv is damaged"]),
        (2, ["jaxsharp: error: b.csv is damaged"]),
        (2, ["ERROR:absl: full", "jaxsharp: error: a.csv is damaged"]),
        (2, ["jaxsharp: error: a.csv is damaged", "jaxsharp: error: a.csv is damaged"]),
    ],
)
def test_only_one_line_that_names_the_file_is_a_refusal(judge, code, lines):
    judge.must_refuse(2, ["jaxsharp: error: a.csv is damaged"], names=["a.csv"])
    with pytest.raises(judge.Unexpected):
        judge.must_refuse(code, lines, names=["a.csv"])


def test_a_traceback_and_a_crash_are_noticed(judge):
    for code in ("raise ValueError(1)", "import os; os.abort()"):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(judge.Unexpected, match="traceback"):
            judge.end(process)


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("exit 0", "no runs.csv"),  # a signal that was lost, and so was the work
        ("echo a >&2; echo b >&2; echo continue >&2; exit 0", "3 lines"),
        ("echo jaxsharp: error: full >&2; exit 130", "does not name continue"),
        ("echo jaxsharp: continue >&2; exit 2", "code 2, not 130"),
        ("echo jaxsharp: continue >&2; exit 130", ""),
    ],
)
def test_a_signal_has_its_words_and_its_status(
    attempts, judge, monkeypatch, tmp_path, command, wrong
):
    again = []
    monkeypatch.setattr(attempts, "must_finish", lambda *_: again.append(1))
    place = judge.Place(tmp_path, (), {}, tmp_path, {"runs.csv": b"1\n"}, 0.0, 0.0)
    if wrong == "3 lines":
        (tmp_path / "runs.csv").write_bytes(b"1\n")
    process = subprocess.Popen(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    if wrong:
        with pytest.raises(judge.Unexpected, match=wrong):
            attempts.judged(place, tmp_path, process)
    else:
        assert attempts.judged(place, tmp_path, process) == "1 line, then same tables"
    assert len(again) == (not wrong)


def test_who_hears_signals_is_told_from_who_does_not_yet(attempts):
    for command, heard in (("echo; read x", False), ("trap : TERM; echo; read x", True)):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(["sh", "-c", command], **pipes) as process:
            process.stdout.readline()
            assert attempts.hears(process) == heard
            process.kill()
    assert attempts.hears(process)


@pytest.mark.parametrize("how", ["cut off", "deleted", "changed"])
def test_harm_leaves_another_file(attempts, tmp_path, how):
    path, content = tmp_path / "file", bytes(range(100))
    for seed in range(20):
        path.write_bytes(content)
        attempts.harm(path, how, np.random.default_rng(seed))
        found = path.read_bytes() if path.exists() else None
        expected = {
            "deleted": found is None,
            "cut off": found is not None and len(found) < 100 and content.startswith(found),
            "changed": found is not None
            and sum(a != b for a, b in zip(found, content, strict=False)) == 1
            and len(found) == 100,
        }
        assert expected[how]
