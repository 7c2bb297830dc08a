"""Run directories: configurations that clash, files that are whole, histories that fit."""

import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from jaxsharp import runs
from jaxsharp.runs import RunConfig, RunError, Settings

CONFIG = RunConfig("digits", "small_mlp", "adam", "sam", 3, Settings(epochs=7))


def test_a_configuration_reads_back(tmp_path):
    runs.claim_run(tmp_path / "run", CONFIG)
    assert runs.read_run_config(tmp_path / "run") == CONFIG
    assert CONFIG.name == "adam-sam-seed3"
    assert replace(CONFIG, sam="asam").name == "adam-asam-seed3"
    assert replace(CONFIG, sam="none").name == "adam-seed3"
    runs.claim_run(tmp_path / "run", CONFIG)  # the same one may continue


def test_another_configuration_is_refused_by_field_and_nothing_changes(tmp_path):
    path = tmp_path / "run"
    runs.claim_run(path, CONFIG)
    (path / "history.csv").write_text("kept")
    other = replace(CONFIG, seed=4, settings=Settings(epochs=8))
    with pytest.raises(RunError, match=r"seed 3 -> 4, epochs 7 -> 8.*--fresh"):
        runs.claim_run(path, other)
    assert runs.read_run_config(path) == CONFIG
    assert (path / "history.csv").read_text() == "kept"
    runs.claim_run(path, other, fresh=True)
    assert runs.read_run_config(path) == other
    assert not (path / "history.csv").exists()


def test_the_radius_on_record_is_the_one_that_is_taken():
    given = replace(CONFIG, settings=Settings(rho=0.2))
    for sam, own, other in (("sam", 0.05, 0.2), ("asam", 0.5, 0.2), ("none", None, None)):
        assert replace(CONFIG, sam=sam).resolved().settings.rho == own
        assert replace(given, sam=sam).resolved().settings.rho == other
    assert CONFIG.resolved().settings.epochs == 7


def test_a_variant_that_does_not_exist_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="sam is 'sma'; it must be one of none, sam, asam, "):
        replace(CONFIG, sam="sma")
    runs.claim(tmp_path / "run", {**asdict(CONFIG), "sam": "sma"})
    with pytest.raises(RunError, match=r"config\.json: sam is 'sma'; it must be one of none, "):
        runs.read_run_config(tmp_path / "run")


def test_folders_that_are_no_runs_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(RunError, match=r"holds files but no config\.json"):
            runs.claim_run(tmp_path, CONFIG, fresh=fresh)
        with pytest.raises(RunError, match="is a file"):
            runs.claim_run(tmp_path / "thesis.tex", CONFIG, fresh=fresh)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_config_file_of_another_program_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text('{"port": 8080}')
    with pytest.raises(RunError, match="not that of a run or study"):
        runs.claim_run(tmp_path, CONFIG, fresh=True)
    assert (tmp_path / "config.json").read_text() == '{"port": 8080}'


def test_directories_that_hold_no_single_run_are_named(tmp_path):
    with pytest.raises(RunError, match=r"has no config\.json"):
        runs.read_run_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"dataset": "digits", "seeds": 3}))
    with pytest.raises(RunError, match="not the directory of a single run"):
        runs.read_run_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="not valid JSON"):
        runs.read_config(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "table.csv"
    runs.write_text(file, "old")

    def fail(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(runs.os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        runs.write_text(file, "new")
    assert file.read_text() == "old"


def test_tables_read_back_exactly(tmp_path):
    values = np.random.default_rng(0).normal(size=9).astype(np.float32)
    runs.write_table(tmp_path / "t.csv", pd.DataFrame({"x": values}))
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "t.csv", dtype="float32")["x"], values)


def test_a_history_that_misses_epochs_is_refused(tmp_path):
    table = pd.DataFrame({"epoch": [1, 2, 4], **{name: 0.5 for name in runs.HISTORY[1:]}})
    runs.write_table(tmp_path / "history.csv", table)
    assert len(runs.read_history(tmp_path, 2)) == 2
    assert len(runs.read_history(tmp_path, 0)) == 0
    with pytest.raises(RunError, match="does not hold epochs 1 to 4"):
        runs.read_history(tmp_path, 4)
    with pytest.raises(RunError, match="is missing"):
        runs.read_history(tmp_path / "other", 1)


@pytest.mark.parametrize(
    "field, value",
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("rho", -0.1),
        ("loss_below", -1.0),
        ("change_below", 0.0),
        ("patience", 0),
        ("label_noise", 1.5),
        ("measure_size", 0),
    ],
)
def test_settings_that_no_run_can_have(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}; it must be"):
        replace(Settings(), **{field: value}).check()
    Settings().check()
