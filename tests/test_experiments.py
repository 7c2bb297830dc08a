"""Every experiment runs from end to end in its smallest form."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]


def test_study_a(tmp_path):
    command = [sys.executable, "experiments/study_a.py", "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runs = pd.read_csv(tmp_path / "digits-small_mlp" / "runs.csv")
    assert list(zip(runs["optimizer"], runs["sam"], strict=True)) == [
        *(("sgd", "none"), ("sgd", "sam"), ("adashift", "none"), ("adashift", "sam"))
    ]


@pytest.mark.parametrize("folder", sorted(p.name for p in (ROOT / "results").iterdir()))
def test_results_have_their_findings_configuration_and_tables(folder):
    names = {p.name for p in (ROOT / "results" / folder).iterdir()}
    assert {"README.md", "config.json"} <= names
    assert names & {"runs.csv", "timings.csv"}
