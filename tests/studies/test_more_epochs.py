"""A finished study takes more epochs: its runs go on as if they had had them from the beginning."""

import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from jaxsharp import data, networks, runs, studies
from jaxsharp.runs import RunError, Settings, claims, directory
from jaxsharp.studies import study
from jaxsharp.studies.grid import StudyConfig
from tests.interrupting import until

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(48, 5)).astype(np.float32)
CLASSES = (INPUTS[:, 0] > 0).astype(np.int32)
MINE = data.from_arrays((INPUTS[:40], CLASSES[:40]), (INPUTS[40:], CLASSES[40:]), name="mine")


def init(key):
    return {"w": jax.random.normal(key, (5, 2))}, {}


def apply(params, stats, x, train):
    return x @ params["w"], stats


NETWORK = networks.Network(init, apply)


def norm(network, params, stats, batch, key):
    """Norm of the parameters."""
    return optax.tree.norm(params)


STUDY = {
    "optimizers": ["heavy_ball"],
    "sam": ["none"],
    "seeds": 1,
    "vary": {"learning_rate": (0.05, 0.2, 3.0), "average": ("none", "ema", "swa")},
    "average_after": 1,
    "average_decay": 0.5,
    "momentum": 0.5,
    "warmup_epochs": 1,
    "mixup": 0.2,
    "batch_size": 11,
    "last_batch": "keep",
    "loss_below": 0.25,
    "save_losses": (0.8, 0.5, 0.45, 0.3),
    "track": ["gradient_norm"],
    "track_every": 2,
    "measures": [norm],
    "save_every": 3,
}
FEW, MANY = 4, 9


def run(out, epochs, **changes):
    return studies.run(NETWORK, MINE, out=out, epochs=epochs, **{**STUDY, **changes})


def content(folder):
    """Bytes of the files below a folder, and when they were written, by name."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of a few epochs, and one that had many at once."""
    root = tmp_path_factory.mktemp("epochs")
    run(root / "few", FEW)
    run(root / "many", MANY)
    return root


def ends(folder):
    """How each run of a study ended, by its name."""
    return {path.name: directory.latest_checkpoint(path).name for path in folder.glob("runs/*")}


@pytest.mark.slow
def test_more_epochs_end_with_the_bits_of_as_many_at_once(made, tmp_path, monkeypatch):
    """Interrupted between the runs' configurations too, in training, and in measuring."""
    out = shutil.copytree(made / "few", tmp_path / "out")
    before, whole = content(out), made / "many"
    first, last = ends(out), ends(whole)
    kept = [name for name, end in first.items() if end == "converged"]
    later = [name for name, end in last.items() if end == "converged" and name not in kept]
    assert kept and later and "epoch_0009" in last.values()
    earlier = {name: runs.read_checkpoint_sharpness(whole / "runs" / name) for name in first}
    assert any("epoch_0004" in set(table["checkpoint"]) for table in earlier.values())

    train_on, calls = directory.train_on, []

    def stop_at_the_third(path, config):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        train_on(path, config)

    monkeypatch.setattr(directory, "train_on", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(out, MANY)
    monkeypatch.undo()
    found = {runs.read_run_config(path).settings.epochs for path in out.glob("runs/*")}
    assert found == {FEW, MANY}
    for calls in (4, 13):
        with pytest.raises(KeyboardInterrupt):
            run(out, MANY, report=until(calls))
    run(out, MANY)

    names = {p.name for p in whole.iterdir() if p.suffix in (".csv", ".json")} - {"times.csv"}
    assert {"runs.csv", "history.csv", "summary.csv", "checkpoints.csv", "config.json"} <= names
    for name in names:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    for name, end in last.items():
        one, other = (folder / "runs" / name for folder in (out, whole))
        same = ["config.json", "history.csv", "sharpness.csv", f"checkpoints/{end}/arrays.npz"]
        for file in (*same, *["checkpoint_sharpness.csv"] * (len(earlier[name]) > 0)):
            assert (one / file).read_bytes() == (other / file).read_bytes(), (name, file)
    after = content(out)
    for name, was in before.items():
        part = Path(name).parts
        if part[0] == "runs" and part[1] in kept and part[2] != "config.json":
            assert after[name] == was


def folder_of(path, **settings):
    """A study that was not begun."""
    config = StudyConfig(settings=Settings(**settings))
    claims.claim(path, config.as_dict())
    return config


@pytest.mark.parametrize("schedule", ["linear", "cosine", "step", "exponential"])
def test_other_runs_are_refused_by_name_and_nothing_changes(tmp_path, schedule):
    config = folder_of(tmp_path / "out", epochs=5, schedule=schedule)
    before = content(tmp_path)

    def said(**changes):
        wanted = replace(config, **{"settings": replace(config.settings, **changes)})
        with pytest.raises(RunError) as refused, study.claimed(tmp_path / "out", wanted):
            pass
        assert content(tmp_path) == before and "\n" not in str(refused.value)
        return str(refused.value)

    text = said(epochs=6)
    assert f"(epochs 5 -> 6): schedule {schedule} depends on the number of epochs" in text
    assert "(epochs 5 -> 4): epochs can be added and not taken back; choose" in said(epochs=4)
    both = said(epochs=6, batch_size=9)
    assert "epochs 5 -> 6" in both and "batch_size 128 -> 9" in both


def test_what_has_no_last_epoch_grows_and_so_does_a_shard_of_it():
    few = StudyConfig(settings=Settings(epochs=5, warmup_epochs=2, average="swa"))
    more = replace(few, settings=replace(few.settings, epochs=6))
    assert more.extends(few) and not few.extends(more)
    assert replace(more, seeds=9).extends(few)
    one, other = (replace(each, shard="1/2") for each in (few, more))
    assert other.extends(one) and not replace(other, seeds=9).extends(one)
    assert not replace(other, shard="2/2").extends(one) and not other.extends(few)
