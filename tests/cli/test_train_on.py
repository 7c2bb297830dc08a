"""`train` with more epochs goes on with a run as if it had had them from the beginning."""

import os
from dataclasses import asdict, replace

import pandas as pd
import pytest

from jaxsharp import cli
from jaxsharp.cli import commands
from jaxsharp.runs import claims, directory, measurements, read_run_config
from jaxsharp.studies import study
from jaxsharp.training import members
from tests.folders import MADE_FROM, damage, history_to, state_at
from tests.interrupting import until
from tests.savedruns import CONFIG

SMALL = ("--train-size", "200", "--quiet", "--save-every", "3")
RECIPE = (
    *("--optimizer", "heavy_ball", "--sam", "sam", "--learning-rate", "0.05", "--batch-size", "33"),
    *("--warmup-epochs", "1", "--mixup", "0.2", "--last-batch", "keep"),
    *("--average", "ema", "--average-decay", "0.9", "--save-losses", "2,1"),
    *("--track", "gradient_norm", "--track-every", "2"),
)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(members, "cores_as_devices", lambda: None)
    monkeypatch.setattr(commands.signals, "handle", lambda: None)


def train(out, epochs, *options):
    cli.main(["train", *SMALL, *options, "--epochs", str(epochs), "--out", str(out)])


def content(folder):
    """Bytes of the files below a folder but for locks, and when they were written, by name."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".lock")
    }


@pytest.mark.slow
def test_more_epochs_end_with_the_bits_of_as_many_at_once(tmp_path, monkeypatch, capsys):
    out, whole = tmp_path / "few", tmp_path / "many"
    train(out, 4, *RECIPE, "--loss-below", "None")
    cli.main(["sharpness", str(out), "--measures", "gradient_norm", "--quiet"])
    assert len(pd.read_csv(out / "sharpness.csv")) == 1
    stop = until(4)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(study, "describe", lambda progress: stop(progress) or "")
        train(out, 9, *RECIPE, "--loss-below", "None")
    assert stopped.value.code == 130
    names = sorted(os.listdir(out / "checkpoints"))
    assert "epoch_0004" in names and "epoch_0009" not in names and names[-1] > "epoch_0004"
    train(out, 9, *RECIPE, "--loss-below", "None")
    train(whole, 9, *RECIPE, "--loss-below", "None")
    for file in ("config.json", "history.csv", "checkpoints/epoch_0009/arrays.npz"):
        assert (out / file).read_bytes() == (whole / file).read_bytes(), file
    assert not (out / "sharpness.csv").exists()
    before = content(out)
    train(out, 9, *RECIPE, "--loss-below", "None")
    assert content(out) == before
    assert "few" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_converged_has_the_new_limit_and_nothing_else(tmp_path):
    out = tmp_path / "run"
    train(out, 3, "--loss-below", "100")
    cli.main(["sharpness", str(out), "--measures", "gradient_norm", "--quiet"])
    before = content(out)
    assert "checkpoints/converged/arrays.npz" in before
    train(out, 7, "--loss-below", "100")
    after = content(out)
    assert before.pop("config.json") != after.pop("config.json") and after == before
    assert read_run_config(out).settings.epochs == 7


def begun(path, **settings):
    """The options of a run, and its folder after three epochs, measured at its end."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    given = {"train_size": 200, "epochs": 3, **settings}
    config = replace(CONFIG, settings=replace(CONFIG.settings, **given)).resolved()
    claims.claim_run(path, config)
    directory.save(path, state_at(3), history_to(3), MADE_FROM, config)
    measurements.write_sharpness(path, pd.DataFrame(columns=list(measurements.SHARPNESS)))
    named = ("dataset", "model", "optimizer", "sam", "seed")
    return [f"--{name}={asdict(config)[name]}" for name in named] + options


@pytest.mark.parametrize(
    ("settings", "asked", "said"),
    [
        ({}, ["2"], "(epochs 3 -> 2): epochs can be added and not taken back; choose another"),
        ({"schedule": "cosine"}, ["4"], "(epochs 3 -> 4): schedule cosine depends on the number"),
        ({"schedule": "step"}, ["4"], "(epochs 3 -> 4): schedule step depends on the number of"),
        ({}, ["4", "--seed=9"], "(seed 3 -> 9, epochs 3 -> 4); choose another directory"),
        ({}, ["4", "--batch-size=9"], "(epochs 3 -> 4, batch_size 128 -> 9); choose another"),
        ({}, ["4", "--schedule=step"], "(epochs 3 -> 4, schedule 'constant' -> 'step'); choose"),
    ],
)
def test_another_run_is_refused_by_name_and_nothing_changes(
    tmp_path, capsys, settings, asked, said
):
    options = begun(tmp_path / "run", **settings)
    before = content(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path / "run", *asked[:1], *options, *asked[1:])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and said in err and err.count("\n") == 1
    assert content(tmp_path) == before


@pytest.mark.parametrize("lost", [True, False])
def test_a_lost_configuration_comes_back_with_the_epochs_that_the_checkpoint_says(tmp_path, lost):
    """Then what was measured at an end that is none any more is still known to be that."""
    path, lines = tmp_path / "run", []
    begun(path)
    config = read_run_config(path)
    more = replace(config, settings=replace(config.settings, epochs=8))
    if lost:
        (path / "config.json").unlink()
    else:
        damage(path / "checkpoints" / "epoch_0003")
    directory.keep_config(path, more, lines.append)
    assert len(lines) == lost and read_run_config(path) == config
    assert directory.held(path, more) == config and directory.held(path, config) == config
    directory.train_on(path, more)
    assert read_run_config(path) == more and not (path / "sharpness.csv").exists()
    (path / "config.json").unlink()
    if lost:
        with pytest.raises(claims.RunError, match=r"of another run \(epochs 3 -> 2\)"):
            fewer = replace(config, settings=replace(config.settings, epochs=2))
            directory.keep_config(path, fewer, lines.append)
