"""Runs saved and measured at the first epochs below training losses, and what of that is lost."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from jaxsharp import studies
from jaxsharp.runs import RunError
from jaxsharp.studies import status
from jaxsharp.studies.checkpoints import parse_epochs, work
from tests.folders import damage
from tests.studies.checkpointed import LOSSES, STUDY, TABLES, asked, bench_of, conducted
from tests.studies.test_sweep import assert_same_end
from tests.tinynets import mlp, tiny_dataset


@pytest.fixture(scope="module")
def bench():
    return bench_of()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, bench):
    return conducted(tmp_path_factory.mktemp("trained") / "study", bench, STUDY, save_every=2)


@pytest.fixture(scope="module")
def at_losses(tmp_path_factory, bench):
    return conducted(tmp_path_factory.mktemp("losses") / "study", bench, LOSSES)


@pytest.mark.slow
def test_runs_are_saved_and_measured_at_the_first_epoch_below_each_loss(at_losses, trained):
    table = pd.read_csv(at_losses / "checkpoints.csv")
    flags = [f"first_below_{loss}" for loss in (1.06, 1.055, 1.03, 1.015, 0.001)]
    assert [name for name in table if name.startswith("first_below")] == flags
    assert not table["first_below_0.001"].any()
    history = pd.read_csv(at_losses / "history.csv")
    for (optimizer, seed), rows in table.groupby(["optimizer", "seed"]):
        own = history[(history["optimizer"] == optimizer) & (history["seed"] == seed)]
        saved = set()
        for flag in flags:
            below = own[own["train_loss"] < float(flag.removeprefix("first_below_"))]["epoch"]
            assert list(rows[rows[flag]]["epochs"]) == list(below[:1])
            saved |= set(below[:1])
        assert set(rows["epochs"]) == saved | {6}
        path = at_losses / "runs" / f"{optimizer}-bs5-seed{seed}"
        names = {p.name for p in (path / "checkpoints").iterdir()}
        assert names == {f"epoch_{epoch:04d}" for epoch in saved | {6}}
    assert table[flags[:2]].any(axis=1).sum() >= 4 and table["top_eigenvalue"].notna().all()
    assert status.derive(at_losses).measured == 4
    assert status.derive(at_losses).steps_done == status.derive(at_losses).steps_total


@pytest.mark.slow
def test_saving_at_losses_changes_no_bit_of_training(at_losses, trained):
    for path in (trained / "runs").iterdir():
        assert_same_end(path, at_losses / "runs" / path.name)
        other = at_losses / "runs" / path.name / "sharpness.csv"
        assert (path / "sharpness.csv").read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_an_interrupted_study_has_the_same_checkpoints_table(at_losses, bench, tmp_path):
    """Interrupted while it trains and while it measures at losses."""
    out = tmp_path / "study"
    for stop in ("epoch 2", "at losses"):

        def report(progress, stop=stop):
            if stop in progress.doing:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            conducted(out, bench, LOSSES, report=report)
    conducted(out, bench, LOSSES)
    for name in (*TABLES, "checkpoints.csv"):
        assert (out / name).read_bytes() == (at_losses / name).read_bytes()


def kept(out):
    """Every file of a study's runs but of what was set aside, and the tables."""
    files = [path for path in (out / "runs").rglob("*") if path.is_file() and path.name != ".lock"]
    files = [path for path in files if "damaged-" not in str(path)]
    files += [out / name for name in (*TABLES, "checkpoints.csv", "config.json")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def harm(saved, how):
    """Harm a checkpoint in one of four ways."""
    if how == "missing":
        return shutil.rmtree(saved)
    if how == "cut off":
        return damage(saved)
    file = saved / {"deleted": "history.csv", "changed": "arrays.npz"}[how]
    content = bytearray(file.read_bytes())
    file.unlink()
    if how == "changed":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


def checkpoints_of(out, member=0):
    return sorted((out / "runs" / LOSSES.members()[member].name / "checkpoints").glob("epoch_*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "which", "start"),
    [
        ("cut off", 0, "the start"),
        ("deleted", 1, None),
        ("changed", 1, None),
        ("missing", 1, None),
    ],
)
def test_a_lost_checkpoint_of_a_loss_is_trained_again_with_the_same_bytes(
    how, which, start, at_losses, bench, tmp_path, capsys
):
    out = shutil.copytree(at_losses, tmp_path / "study")
    before, (*_, end) = kept(out), checkpoints_of(out)
    saved = checkpoints_of(out)[which]
    assert saved != end
    harm(saved, how)
    conducted(out, bench, LOSSES)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"checkpoint {saved}, at the first epoch below a loss, cannot be read: " in line
    assert (f"; it is now damaged-{saved.name}" in line) == (how != "missing")
    assert line.endswith(f"is trained again from {start or checkpoints_of(out)[which - 1].name}")
    assert kept(out) == before
    conducted(out, bench, LOSSES)
    assert capsys.readouterr().err == "" and kept(out) == before


@pytest.mark.slow
def test_several_that_are_lost_are_trained_again_and_measured_also_after_an_interrupt(
    at_losses, bench, tmp_path, capsys
):
    out = shutil.copytree(at_losses, tmp_path / "study")
    before = kept(out)
    lost = [*checkpoints_of(out)[:2], checkpoints_of(out, 1)[0]]
    for saved in lost:
        damage(saved)
    for member in (0, 1):
        (out / "runs" / LOSSES.members()[member].name / "checkpoint_sharpness.csv").unlink()
    assert status.derive(out).measured == 2

    def report(progress):
        if progress.doing.startswith("a lost checkpoint"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conducted(out, bench, LOSSES, report=report)
    conducted(out, bench, LOSSES)
    assert capsys.readouterr().err.count("is trained again from") >= 3
    assert status.derive(out).measured == 4
    found = kept(out)
    assert {name: found[name] for name in before} == before


@pytest.mark.slow
def test_who_only_reads_names_what_is_missing_and_makes_nothing(at_losses, tmp_path):
    out = shutil.copytree(at_losses, tmp_path / "study")
    saved = checkpoints_of(out)[0]
    shutil.rmtree(saved)
    lines = []
    work.tasks([out], parse_epochs("losses"), asked(), lines.append)
    assert sum(f"checkpoint {saved}, at the first epoch below a loss" in x for x in lines) == 1
    assert not saved.exists()


@pytest.mark.slow
def test_the_same_losses_are_the_same_settings_and_others_are_refused(at_losses, bench):
    same = replace(
        LOSSES, settings=replace(LOSSES.settings, save_losses="0.001, 1.015,1.03,1.055,1.060")
    )
    assert same == LOSSES
    other = replace(LOSSES, settings=replace(LOSSES.settings, save_losses="1"))
    with pytest.raises(RunError, match=r"save_losses '1.06,1.055,1.03,1.015,0.001' -> '1'"):
        conducted(at_losses, bench, other)


def test_a_run_by_itself_is_measured_at_its_losses(at_losses, bench, tmp_path):
    path = shutil.copytree(at_losses / "runs" / LOSSES.members()[0].name, tmp_path / "run")
    found = work.tasks([path], parse_epochs("losses,final"), asked(("top_eigenvalue",)))
    table = work.joined(found)
    want = pd.read_csv(at_losses / "checkpoints.csv")[: len(table)]
    assert list(table["checkpoint"]) == list(want["checkpoint"])
    np.testing.assert_array_equal(table["top_eigenvalue"], want["top_eigenvalue"])


@pytest.mark.parametrize(
    "losses", ["", "x", "0", "-1", "nan", "inf", "1,1.0", "1,", "1e-60", "1e39", [1, "a"], [], True]
)
def test_losses_that_are_none_are_refused_before_anything_is_written(losses, tmp_path):
    with pytest.raises(ValueError, match=r"save_losses is .*; it must be finite numbers above 0"):
        studies.run(mlp(), tiny_dataset(), out=tmp_path / "out", epochs=1, save_losses=losses)
    assert not (tmp_path / "out").exists()
