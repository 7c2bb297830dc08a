"""Commands as a user gives them: what they write, what they print, how they refuse."""

import json
import os
import signal
import sys

import numpy as np
import pandas as pd
import pytest
from tensorboardX.proto.event_pb2 import Event

from jaxsharp import cli
from jaxsharp.cli import commands
from jaxsharp.measures import MEASURES
from jaxsharp.optimizers import OPTIMIZERS, SHARPNESS_AWARE
from jaxsharp.studies import measuring
from jaxsharp.training import members

SMALL = ["--train-size", "200", "--epochs", "3", "--num-perturbations", "4"]
SAM = ("none", "sam", "asam")
STUDY = ["study", "--optimizers", "sgd,adam", "--sam", ",".join(SAM), "--seeds", "2", *SMALL]
FILES = [
    "runs.csv",
    "history.csv",
    "summary.csv",
    "correlations.csv",
    "evaluation.csv",
    "evaluation.md",
    "training.png",
    "sharpness.png",
]


@pytest.fixture(autouse=True)
def jax_config_unchanged(monkeypatch):
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(members, "cores_as_devices", lambda: None)
    monkeypatch.setattr(commands.signals, "handle", lambda: None)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "use_compilation_cache", lambda: None)
        patch.setattr(members, "cores_as_devices", lambda: None)
        patch.setattr(commands.signals, "handle", lambda: None)
        cli.main([*STUDY, "--out", str(out), "--quiet"])
    return out


def refusal(capsys, *arguments):
    """The single line on stderr of a command that is refused."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert out == ""
    assert err.startswith("jaxsharp: error: ") and err.count("\n") == 1
    return err


@pytest.mark.slow
def test_a_study_writes_its_tables(study):
    runs = pd.read_csv(study / "runs.csv")
    assert len(runs) == 12
    sizes = runs.groupby(["optimizer", "sam"], sort=False).size().to_dict()
    assert sizes == {(optimizer, sam): 2 for optimizer in ("sgd", "adam") for sam in SAM}
    named = ["dataset", "model", "optimizer", "sam", "rho", "momentum", "weight_decay"]
    named += ["decoupled_weight_decay", "learning_rate", "batch_size", "label_noise", "seed"]
    named += ["epochs", "converged", "diverged", "train_loss", "train_accuracy"]
    named += ["test_loss", "test_accuracy", "gap", "loss_gap"]
    measures = ["minimum_sharpness", "top_eigenvalue", "random_perturbation"]
    parts = ("", "_error", "_error_kind", "_finished", "_cost", "_cost_unit")
    parts += ("_examples", "_directions", "_exact")
    assert list(runs.columns) == named + [f"{m}{part}" for m in measures for part in parts]
    assert runs[[f"{m}_finished" for m in measures]].all(axis=None)
    examples = runs["minimum_sharpness_examples"]
    assert (runs["minimum_sharpness_cost"] == examples * (1 + 10)).all()
    assert (runs["random_perturbation_cost"] == 4 + 1).all()
    assert set(runs["top_eigenvalue_error_kind"]) == {"residual"}
    assert np.isfinite(runs[measures]).all(axis=None)
    np.testing.assert_allclose(
        runs["gap"], runs["train_accuracy"] - runs["test_accuracy"], atol=1e-7
    )
    history = pd.read_csv(study / "history.csv")
    assert len(history) == 12 * 3
    last = history[history["epoch"] == 3].reset_index(drop=True)
    np.testing.assert_array_equal(last["test_loss"], runs["test_loss"])
    config = json.loads((study / "config.json").read_text())
    assert config["seeds"] == 2 and config["settings"]["train_size"] == 200
    for name in ("training.png", "sharpness.png"):
        assert (study / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_scalars_of_a_study_are_those_of_its_history(tmp_path):
    out = tmp_path / "out"
    command = ["study", "--optimizers", "sgd", "--sam", "none", "--seeds", "2", *SMALL[:4]]
    cli.main([*command, "--measures", "top_eigenvalue", "--tensorboard", "--out", str(out)])
    history = pd.read_csv(out / "history.csv")
    for seed, table in history.groupby("seed"):
        (file,) = (out / "tensorboard" / f"sgd-seed{seed}").glob("events*")
        content, found, at = file.read_bytes(), {}, 0
        while at < len(content):  # records: length, its sum, event, its sum
            (length,) = np.frombuffer(content[at : at + 8], np.uint64)
            event = Event.FromString(content[at + 12 : at + 12 + int(length)])
            found |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
            at += 16 + int(length)
        assert len(found) == 4 * len(table) == 12
        for row in table.itertuples():
            assert found["loss/train", row.epoch] == np.float32(row.train_loss)
            assert found["accuracy/test", row.epoch] == np.float32(row.test_accuracy)


@pytest.mark.slow
def test_the_same_study_again_gives_the_same_bytes(study, tmp_path):
    cli.main([*STUDY, "--out", str(tmp_path / "again"), "--quiet"])
    for name in (*FILES, "config.json"):
        assert (study / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.slow
def test_a_finished_study_is_read_and_not_repeated(study, monkeypatch, capsys):
    def fail(*_):
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr("jaxsharp.studies.sweep.epoch_program", fail)
    monkeypatch.setattr("jaxsharp.studies.measuring.measuring_program", fail)
    before = (study / "runs.csv").read_bytes()
    cli.main([*STUDY, "--out", str(study), "--quiet"])
    assert (study / "runs.csv").read_bytes() == before
    out = capsys.readouterr().out
    assert "minimum sharpness" in out and str(study) in out
    assert "12 unconverged left out" in out
    assert all(f" {name} " in out for name in SAM)


@pytest.mark.slow
def test_another_study_in_the_same_folder_is_refused(study, capsys):
    err = refusal(capsys, *STUDY, "--rho", "0.1", "--out", str(study))
    assert "rho None -> 0.1" in err


@pytest.mark.slow
def test_train_sharpness_and_plot_work_on_run_directories(tmp_path, capsys, study):
    shared = ["--optimizer", "adam", "--seed", "1", "--quiet", *SMALL[:4]]
    for name, sam in (("plain", []), ("asam", ["--sam", "asam"])):
        out = tmp_path / name
        cli.main(["train", *shared, *sam, "--out", str(out)])
        cli.main(["sharpness", str(out), "--num-perturbations", "4", "--quiet"])
    capsys.readouterr()
    odd = ["--measures", "random_perturbation", "--radius", "1e30", "--quiet"]
    cli.main(["sharpness", str(tmp_path / "plain"), *odd])
    assert "has no random_perturbation: the loss is not finite at" in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "plain" / "sharpness.csv")
    measured = ["minimum_sharpness", "top_eigenvalue", "random_perturbation", "random_perturbation"]
    assert list(table["measure"]) == measured and list(table["finished"]) == [1, 1, 1, 0]
    assert np.isnan(table["value"].iloc[-1])
    again = ["--measures", "random_perturbation", "--num-perturbations", "4", "--quiet"]
    cli.main(["sharpness", str(tmp_path / "plain"), *again])  # as before, and not measured again
    out = capsys.readouterr().out
    assert f"{table['value'].iloc[-2]:.6g}" in out and "top_eigenvalue" not in out
    in_study = study / "runs" / "adam-asam-seed1"
    for name in ("sharpness.csv", "history.csv", "config.json"):
        assert (tmp_path / "asam" / name).read_bytes() == (in_study / name).read_bytes()
    cli.main(
        ["plot", str(tmp_path / "plain"), str(tmp_path / "asam"), "--out", str(tmp_path / "c.svg")]
    )
    drawn = (tmp_path / "c.svg").read_text()
    assert "<svg" in drawn
    assert str(tmp_path / "c.svg") in capsys.readouterr().out


@pytest.mark.slow
def test_plot_and_status_take_studies_runs_and_folders(study, tmp_path, monkeypatch, capsys):
    """And change nothing in what they read."""

    def content():
        found = [p for p in study.rglob("*") if p.is_file() and not p.name.startswith(".lock")]
        return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in found}

    monkeypatch.chdir(tmp_path)
    before, run = content(), study / "runs" / "adam-asam-seed1"
    cli.main(["plot", str(study.parent), "--out", "curves.svg"])
    drawn = (tmp_path / "curves.svg").read_text()
    assert all(f"<!-- {label} -->" in drawn for label in ("sgd", "adam + asam"))
    cli.main(["plot", str(run)])
    assert (tmp_path / "curves.png").exists()
    capsys.readouterr()
    cli.main(["status", str(study.parent), str(run)])
    out = capsys.readouterr().out
    assert "12 runs: 12 trained (0 converged, 0 diverged), 12 measured" in out
    assert f"{run}: adam + asam, seed 1, small_mlp on digits" in out
    assert "trained: epoch_0003 (ended)" in out and content() == before


@pytest.mark.slow
def test_scalars_without_their_package_are_refused_before_a_folder_is_made(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    err = refusal(capsys, *STUDY, "--tensorboard", "--out", str(tmp_path / "out"))
    assert "pip install 'jaxsharp[tensorboard]'" in err and os.listdir(tmp_path) == []


def test_list_names_everything(capsys):
    cli.main(["list"])
    words = capsys.readouterr().out.split()
    for name in ("digits", "cifar10", "simple_batch", "mlp_1", *OPTIMIZERS, *MEASURES):
        assert name in words
    assert set(SHARPNESS_AWARE) <= set(words) and "neighbourhood that scales" in " ".join(words)


@pytest.mark.parametrize(
    ("arguments", "closest", "others"),
    [
        (["--optimizers", "sgd,adm"], "unknown optimizer 'adm'; valid are adam,", list(OPTIMIZERS)),
        (
            ["--dataset", "cifar"],
            "unknown dataset 'cifar'; valid are cifar10,",
            ["digits", "mnist"],
        ),
        (
            ["--model", "simplebatch"],
            "unknown model 'simplebatch'; valid are simple_batch,",
            ["mlp"],
        ),
        (["--sam", "sma"], "unknown SAM variant 'sma'; valid are sam,", ["none", "asam", "gsam"]),
        (["--sam", "none,m_sam", "--batch-size", "100"], "m is 16; it must divide the 100", []),
        (["--measure-size", "2000"], "measure_size is 2000; it must be from 1 to 1437", []),
        (
            ["--measures", "top"],
            "unknown measure 'top'; valid are top_eigenvalue,",
            [f"and {len(MEASURES) - 20} more"],
        ),
        (["--seeds", "0"], "seeds is 0; it must be at least 1", []),
        (["--epochs", "0"], "epochs is 0; it must be at least 1", []),
        (["--radius", "-1"], "radius is -1.0; it must be", []),
        (["--batch-size", "2000"], "batch_size is 2000; it must be from 1 to 1437", []),
        (["--train-size", "5"], "train_size is 5; it must be", []),
        (["--model", "lenet"], "too small for lenet", []),
        (["--data-dir", "/no/such/place", "--dataset", "mnist"], "'/no/such/place'", []),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(arguments, closest, others, capsys, tmp_path):
    err = refusal(capsys, "study", *arguments, "--out", str(tmp_path / "out"))
    assert closest in err
    assert all(name in err for name in others)
    assert not (tmp_path / "out").exists()


def test_sharpness_of_something_else_is_refused(tmp_path, capsys):
    assert "holds no run and no study" in refusal(capsys, "sharpness", str(tmp_path))


@pytest.mark.slow
def test_an_interruption_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxsharp.studies.sweep.train", interrupt)
    with pytest.raises(SystemExit) as stopped:
        cli.main([*STUDY, "--out", str(tmp_path / "out"), "--quiet"])
    assert stopped.value.code == 130
    assert "the same command continues" in capsys.readouterr().err


@pytest.mark.slow
def test_a_signal_between_epochs_stops_the_study_before_the_next_measure(
    monkeypatch, tmp_path, capsys
):
    taken = []

    def interrupted(name, *args):
        taken.append(name)
        os.kill(os.getpid(), signal.SIGINT)
        return results(name, *args)

    results = measuring.results
    monkeypatch.setattr(measuring, "results", interrupted)
    with pytest.raises(SystemExit) as stopped:
        cli.main([*STUDY, "--out", str(tmp_path / "out"), "--quiet"])
    assert stopped.value.code == 130 and len(taken) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert "again to stop at once" in first and "the same command continues" in last
