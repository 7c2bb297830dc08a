"""Run directories: states with their histories, measurements, and damage of every kind."""

import os
import shutil
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxsharp import runs
from jaxsharp.runs import (
    RunConfig,
    RunError,
    Settings,
    checkpoint,
    claims,
    columns,
    directory,
    files,
    measurements,
    tables,
)
from tests import savedruns
from tests.folders import MADE_FROM, damage, history_to, make_run, state_at
from tests.savedruns import CONFIG, saved_run

run = savedruns.run  # the fixture


def unexpected(text):
    raise AssertionError(text)


def test_a_state_reads_back_with_its_history(run):
    state, history = directory.load(run, state_at(1), MADE_FROM, unexpected)
    np.testing.assert_array_equal(state.params["w"], state_at(4).params["w"])
    assert int(state.epoch) == 4 and float(state.loss) == 0.25
    exact = history.astype(dict.fromkeys(columns.HISTORY[1:], "float32"))
    pd.testing.assert_frame_equal(exact, history_to(4))
    assert (run / "history.csv").read_text() == history_to(4).to_csv(index=False)
    pd.testing.assert_frame_equal(runs.read_history(run), history)


def test_a_run_without_checkpoints_has_no_state(tmp_path):
    claims.claim_run(tmp_path, CONFIG)
    assert directory.load(tmp_path, state_at(1), MADE_FROM, unexpected) is None
    assert directory.latest_checkpoint(tmp_path) is None and not directory.is_trained(tmp_path, 7)
    with pytest.raises(RunError, match="has no intact checkpoint yet; train the run first"):
        runs.read_history(tmp_path)


@pytest.mark.parametrize("end", columns.ENDS)
def test_the_end_of_a_run_comes_before_every_epoch(run, end):
    assert directory.latest_checkpoint(run).name == "epoch_0004" and not directory.is_trained(
        run, 7
    )
    directory.save(run, state_at(5, **{end: True}), history_to(5), MADE_FROM)
    assert directory.latest_checkpoint(run).name == end and directory.is_trained(run, 7)
    assert len(runs.read_history(run)) == 5
    row = tables.row(run)
    assert [row[name] for name in columns.ENDS] == [name == end for name in columns.ENDS]


def test_a_run_is_trained_at_its_epoch_limit(tmp_path):
    run = saved_run(tmp_path / "run", 7)
    assert directory.is_trained(run, 7) and not directory.is_trained(run, 8)


def test_epochs_are_ordered_by_number(tmp_path):
    run = saved_run(tmp_path / "run", 9999, 10000)
    assert directory.latest_checkpoint(run).name == "epoch_10000"


def test_what_is_no_checkpoint_is_ignored(run):
    for name in (".tmp-epoch_0006", "damaged-epoch_0006", "damaged-converged", "epoch_0006.orbax"):
        shutil.copytree(run / "checkpoints" / "epoch_0004", run / "checkpoints" / name)
    assert directory.latest_checkpoint(run).name == "epoch_0004"


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_is_taken(run):
    damage(run / "checkpoints" / "epoch_0004")
    (run / "history.csv").write_text("wrong")
    warnings = []
    state, history = directory.load(run, state_at(1), MADE_FROM, warnings.append)
    assert int(state.epoch) == len(history) == 2
    assert sorted(os.listdir(run / "checkpoints")) == ["damaged-epoch_0004", "epoch_0002"]
    assert (run / "history.csv").read_text() == history_to(2).to_csv(index=False)
    (warning,) = warnings
    assert f"checkpoint {run}/checkpoints/epoch_0004 cannot be read: " in warning
    assert warning.endswith("damaged-epoch_0004, and training continues from epoch_0002")
    assert "\n" not in warning


def test_with_no_intact_checkpoint_a_run_starts_over(run):
    for name in ("epoch_0002", "epoch_0004"):
        damage(run / "checkpoints" / name)
    warnings = []
    assert directory.load(run, state_at(1), MADE_FROM, warnings.append) is None
    assert [w.rpartition(" from ")[2] for w in warnings] == ["epoch_0002", "the start"]


def test_a_checkpoint_that_is_damaged_again_has_a_number(run):
    for _ in range(3):
        damage(run / "checkpoints" / "epoch_0004")
        directory.load(run, state_at(1), MADE_FROM, lambda text: None)
        directory.save(run, state_at(4), history_to(4), MADE_FROM)
    aside = [f"damaged-epoch_0004{n}" for n in ("", "-2", "-3")]
    assert sorted(os.listdir(run / "checkpoints")) == [*aside, "epoch_0002", "epoch_0004"]
    assert int(directory.load(run, state_at(1), MADE_FROM, unexpected)[0].epoch) == 4


def test_a_warning_goes_to_stderr(run, capsys):
    damage(run / "checkpoints" / "epoch_0004")
    directory.load(run, state_at(1), MADE_FROM)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("jaxsharp: warning: checkpoint ") and err.count("\n") == 1


def test_a_state_of_another_network_is_refused_and_stays(run):
    like = state_at(1)._replace(params={"w": jnp.zeros(4)})
    with pytest.raises(ValueError, match=r"checkpoint .*epoch_0004"):
        directory.load(run, like, MADE_FROM, unexpected)
    assert directory.latest_checkpoint(run).name == "epoch_0004"


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"epoch,train_loss\n1,2\n"])
def test_the_history_beside_a_checkpoint_is_mended(run, content):
    file = run / "history.csv"
    file.unlink() if content is None else file.write_bytes(content)
    assert len(runs.read_history(run)) == 4
    directory.load(run, state_at(1), MADE_FROM, unexpected)
    assert file.read_text() == history_to(4).to_csv(index=False)


def test_a_history_that_is_as_it_should_be_is_not_written_again(run):
    before = (run / "history.csv").stat()
    directory.load(run, state_at(1), MADE_FROM, unexpected)
    assert (run / "history.csv").stat().st_ino == before.st_ino


def test_a_damaged_history_gives_way_to_the_one_before(run):
    (run / "checkpoints" / "epoch_0004" / "history.csv").write_text("epoch\n9\n")
    assert len(runs.read_history(run)) == 2
    warnings = []
    assert int(directory.load(run, state_at(1), MADE_FROM, warnings.append)[0].epoch) == 2
    assert "history.csv is not as it was written" in warnings[0]


def test_an_unfinished_save_leaves_the_run_as_it_was(run, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    before = (run / "history.csv").read_bytes()
    monkeypatch.setattr(checkpoint.os, "rename", fail)
    with pytest.raises(OSError, match="No space"):
        directory.save(run, state_at(6), history_to(6), MADE_FROM)
    assert directory.latest_checkpoint(run).name == "epoch_0004"
    assert (run / "history.csv").read_bytes() == before


TABLE = pd.DataFrame(
    {
        "measure": ["minimum_sharpness", "top_eigenvalue", "random_perturbation"],
        "settings": ["", "eigenvalue_tol=0.01", "radius=5.0 num_perturbations=20"],
        "value": [np.float32(0.1), 1 / 3, float("nan")],
        "error": [0.0, 1e-300, float("nan")],
        "error_kind": ["duality gap", "residual", "standard error"],
        "finished": [1, 0, 0],
        "cost": [11, 201, 0],
        "cost_unit": ["passes, over the data", "Hessian products", "losses"],
        "examples": [40, 40, 0],
        "directions": [0, 1, 0],
        "exact": [1, 0, 0],
    }
)


def test_measurements_read_back_exactly(tmp_path):
    empty = runs.read_sharpness(tmp_path, unexpected)
    assert list(empty.columns) == list(columns.SHARPNESS) and len(empty) == 0
    measurements.write_sharpness(tmp_path, TABLE)
    pd.testing.assert_frame_equal(runs.read_sharpness(tmp_path, unexpected), TABLE)
    lines = (tmp_path / "sharpness.csv").read_text().splitlines()
    header = "measure,settings,value,error,error_kind,finished,cost,cost_unit,"
    assert lines[0] == header + "examples,directions,exact,crc32"
    measurements.write_sharpness(tmp_path, empty)
    pd.testing.assert_frame_equal(runs.read_sharpness(tmp_path, unexpected), empty)


def test_a_damaged_measurement_is_left_out_and_named(tmp_path):
    measurements.write_sharpness(tmp_path, TABLE)
    file = tmp_path / "sharpness.csv"
    file.write_text(file.read_text().replace("0.333", "0.334"))
    warnings = []
    left = runs.read_sharpness(tmp_path, warnings.append)
    assert list(left["measure"]) == ["minimum_sharpness", "random_perturbation"]
    (warning,) = warnings
    assert str(file) in warning and "'top_eigenvalue'" in warning and "measured again" in warning


def test_measurements_of_an_older_version_are_left_out_and_named(tmp_path):
    """Rows of four columns with right checksums."""
    old = [["top_eigenvalue", "eigenvalue_tol=0.01", 1.5, 0.5]]
    files.write_rows(tmp_path / "sharpness.csv", ("measure", "settings", "value", "error"), old)
    warnings = []
    assert len(runs.read_sharpness(tmp_path, warnings.append)) == 0
    (warning,) = warnings
    assert "of an older version" in warning and "'top_eigenvalue'" in warning
    measurements.write_sharpness(tmp_path, TABLE)
    pd.testing.assert_frame_equal(runs.read_sharpness(tmp_path, unexpected), TABLE)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff" * 99, b"measure,settings,value,error\na,,1,2\n"]
)
def test_a_table_of_measurements_that_is_none_is_left_out(tmp_path, content):
    (tmp_path / "sharpness.csv").write_bytes(content)
    warnings = []
    assert len(runs.read_sharpness(tmp_path, warnings.append)) == 0
    assert len(warnings) == 1 and "\n" not in warnings[0]


def test_a_row_has_the_settings_that_a_grid_varies(tmp_path):
    settings = Settings(learning_rate=0.3, weight_decay=0.0, batch_size=64, label_noise=0.5)
    config = replace(CONFIG, settings=settings).resolved()
    claims.claim_run(tmp_path, config)
    directory.save(tmp_path, state_at(2), history_to(2), MADE_FROM)
    measurements.write_sharpness(tmp_path, TABLE)
    row = tables.row(tmp_path)
    named = ["dataset", "model", "optimizer", "sam", "rho", "momentum", "weight_decay"]
    named += ["decoupled_weight_decay", "learning_rate", "batch_size", "label_noise"]
    named += ["seed", "epochs"]
    assert list(row)[:13] == named
    assert [row[name] for name in named[4:]][2:] == [0.0, 0.0, 0.3, 64, 0.5, 3, 2]
    assert row["rho"] == 0.05 and np.isnan(row["momentum"])
    assert row["test_accuracy"] == history_to(2)["test_accuracy"][1]
    expected = {
        **{"": 1 / 3, "_error": 1e-300, "_error_kind": "residual", "_finished": False},
        **{"_cost": 201, "_cost_unit": "Hessian products"},
        **{"_examples": 40, "_directions": 1, "_exact": False},
    }
    assert {part: row[f"top_eigenvalue{part}"] for part in expected} == expected
    assert row["minimum_sharpness_finished"] is True


def test_a_row_has_one_unit_and_one_sign_and_what_the_run_used(tmp_path):
    """A gap is positive where the training data look better."""
    settings = Settings(learning_rate=0.5, momentum=0.25)
    config = RunConfig("digits", "small_mlp", "heavy_ball", "none", 0, settings)
    row = tables.row(make_run(tmp_path / "judged", config, measures=(), converged=True))
    last = history_to(3).iloc[-1]
    gaps = last["train_accuracy"] - last["test_accuracy"], last["test_loss"] - last["train_loss"]
    np.testing.assert_allclose([row["gap"], row["loss_gap"]], gaps, rtol=1e-5)  # of float32
    used = ("learning_rate", "momentum", "weight_decay", "rho")
    np.testing.assert_equal([row[name] for name in used], [0.5, 0.25, 0.0, float("nan")])
    assert row["converged"] is True and row["diverged"] is False


@pytest.mark.parametrize("diverged", [False, True])
def test_without_a_rule_a_row_does_not_say_whether_it_converged(tmp_path, diverged):
    config = RunConfig("digits", "small_mlp", "adam", "sam", 0, Settings(loss_below=None))
    row = tables.row(make_run(tmp_path / "run", config, measures=(), diverged=diverged))
    assert row["converged"] is None and row["diverged"] is diverged and row["epochs"] == 3
