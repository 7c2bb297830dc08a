"""Every experiment runs from end to end in its smallest form."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]


def runs_of(script, out, folder=""):
    """Optimizer and variant of every run of an experiment's smallest form."""
    command = [sys.executable, f"experiments/{script}.py", "--smoke", "--seeds", "1", "--out", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runs = pd.read_csv(out / folder / "runs.csv")
    return list(zip(runs["optimizer"], runs["sam"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "folder", "variants"),
    [("study_a", "digits-small_mlp", ("none", "sam")), ("optimizers", "", ("none", "sam", "asam"))],
)
def test_experiment(tmp_path, script, folder, variants):
    expected = [(optimizer, sam) for optimizer in ("sgd", "adashift") for sam in variants]
    assert runs_of(script, tmp_path, folder) == expected
    if script == "study_a":
        joined = pd.read_csv(tmp_path / "digits.csv")
        assert list(zip(joined["optimizer"], joined["sam"], strict=True))[::2] == expected
        assert joined["epoch"].tolist() == [50, 51] * len(expected)
        assert joined["minimum_sharpness"].notna().all()


@pytest.mark.slow
def test_random_labels(tmp_path):
    assert runs_of("random_labels", tmp_path) == [("sgd", "none")] * 2
    assert list(pd.read_csv(tmp_path / "runs.csv")["label_noise"]) == [0.0, 0.5]


@pytest.mark.slow
def test_learning_rate_and_batch_size(tmp_path):
    options = ["--smoke", "--seeds", "1", "--optimizers", "adagrad", "--figures", "pdf"]
    command = [sys.executable, "experiments/learning_rate_batch_size.py", *options]
    command += ["--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert list(runs["learning_rate"]) == [0.0001, 0.1, 0.0001, 0.0001]
    assert list(runs["batch_size"]) == [128, 128, 32, 150]
    assert np.isfinite(runs["study_b_sharpness"]).all()
    assert (runs["study_b_sharpness_directions"] == 49).all()
    for effect in ("LearningRate", "BatchSize"):
        assert {p.suffix for p in tmp_path.glob(f"MLP_1_AdaGrad_{effect}.*")} == {".json", ".pdf"}


@pytest.mark.slow
def test_the_edge_of_stability(tmp_path):
    cases = ["adam-0.0004", "sam-0.02", "minibatch-0.02", "momentum-8192-0.005"]
    options = ["--smoke", "--out", tmp_path, "--cases", *cases]
    command = [sys.executable, "experiments/edge_of_stability.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {name: pd.read_csv(tmp_path / f"{name}.csv") for name in cases}
    assert all(table["step"].tolist() == [10, 20] for table in found.values())
    assert all((t["residual"] < 0.011 * t["eigenvalue"]).all() for t in found.values())
    np.testing.assert_allclose(found["adam-0.0004"]["edge"], 38 / 0.0004)
    # SAM's edge is below that of gradient descent, 2/lr, and nears it where the gradient is large.
    sam = found["sam-0.02"]
    assert (sam["edge"] < 2 / 0.02).all()
    norm, rate, rho = sam["gradient_norm"], 0.02, 0.1
    # At it SAM's step is at the end of stability: lr s (1 + rho s / |g|) = 2.
    np.testing.assert_allclose(rate * sam["edge"] * (1 + rho * sam["edge"] / norm), 2, rtol=1e-6)
    assert (found["minibatch-0.02"]["batch_sharpness_error"] > 0).all()
    np.testing.assert_allclose(found["momentum-8192-0.005"]["edge"], 2 * (1 - 0.9) / 0.005)
    assert set(pd.read_csv(tmp_path / "verdicts.csv")["case"]) == set(cases)


@pytest.mark.slow
def test_the_simulation_of_intervals(tmp_path):
    command = [sys.executable, "experiments/intervals.py", "--smoke", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "coverage.csv")
    means = {"mean", "geometric mean"}
    assert set(table["statistic"]) == {"raw", "within", "spearman", *means}
    printed = table[table["printed"] == "yes"]
    # 200 tables: 3 standard errors are 6.4 % at 90 %.
    assert printed["coverage"].between(0.83, 1.0).all()
    assert (tmp_path / "README.md").read_text() in done.stdout


@pytest.mark.slow
def test_the_simulation_of_bootstrap_intervals():
    command = [sys.executable, "experiments/evaluation_intervals.py", "--tables", "4"]
    command += ["--rounds", "100"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[:14] for line in lines[:2]] == ["own     16 x 1", "own      8 x 2"]
    # Of four tables the one or other may miss.
    assert len(lines) == 10 and all(float(line.split()[-1]) >= 75 for line in lines)


TABLES = ("runs", "history", "timings", "counts", "coverage", "verdicts", "solutions")
RESULTS = sorted(p.name for p in (ROOT / "results").iterdir() if p.is_dir())


@pytest.mark.parametrize("folder", RESULTS)
def test_results_have_their_findings_configuration_and_tables(folder):
    names = {p.name for p in (ROOT / "results" / folder).iterdir()}
    assert {"README.md", "config.json"} <= names
    assert names & {f"{table}.csv" for table in TABLES}


def test_the_table_of_results_has_a_row_for_each():
    rows = re.findall(r"^\| \[([\w-]+)\]", (ROOT / "results" / "README.md").read_text(), re.M)
    assert sorted(rows) == RESULTS


@pytest.mark.slow
def test_large_batches(tmp_path):
    assert runs_of("large_batches", tmp_path) == [("adam", "none")] * 2
    boxes = pd.read_csv(tmp_path / "boxes.csv")
    assert len(boxes) == 8 and set(boxes["box_eps"]) == {1e-3, 5e-4}
    wide = boxes.pivot(index=["measure", "batch_size"], columns="box_eps", values="value")
    assert (wide[1e-3] > wide[5e-4]).all() and (wide[5e-4] > 0).all()


@pytest.mark.slow
def test_learning_rates(tmp_path):
    assert runs_of("learning_rates", tmp_path) == [("sgd", "none")] * 2
    table = pd.read_csv(tmp_path / "learning_rates.csv")
    assert set(table["with"]) == {"learning_rate", "gap", "test_accuracy"} and len(table) == 18


@pytest.mark.slow
def test_the_solvers_of_minimum_sharpness(tmp_path):
    runs = runs_of("minimum_sharpness_solver", tmp_path, "small_mlp")
    assert runs == [("sgd", "none"), ("adam", "none")]
    table = pd.read_csv(tmp_path / "solutions.csv")
    assert (table["duality_gap"] < 1e-12 * table["minimum"]).all()
    assert (table["minimum"] < table["published_100"]).all()
    assert (table["published_100"] < table["published"]).all()
    assert (table["published"] < table["trace"]).all()
