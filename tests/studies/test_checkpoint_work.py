"""Studies measured at their checkpoints: the same numbers as one by one, once, each kept."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from jaxsharp import runs, studies
from jaxsharp.runs import RunError, claims, directory, measurements
from jaxsharp.studies import measuring, status
from jaxsharp.studies.checkpoints import parse_epochs, work
from jaxsharp.studies.writing.tables import write_checkpoints
from tests.folders import damage
from tests.studies.checkpointed import (
    MEASURES,
    OPTIONS,
    STUDY,
    TABLES,
    asked,
    bench_of,
    conducted,
)
from tests.tinynets import tiny_dataset


@pytest.fixture(scope="module")
def bench():
    return bench_of()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, bench):
    return conducted(tmp_path_factory.mktemp("trained") / "study", bench, STUDY, save_every=2)


@pytest.fixture
def out(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "study")


def measure(folders, epochs, bench, measures=MEASURES, warn=pytest.fail, report=lambda *_: None):
    found = work.tasks(folders, parse_epochs(epochs), asked(measures), warn)
    work.measure(work.groups(found, lambda config: bench), report=report, warn=warn)
    for task in found:
        if task.study is not None:
            write_checkpoints(task.folder, task.study)
    return found


def tables_of(out):
    return {name: (out / name).read_bytes() for name in TABLES}


@pytest.mark.slow
def test_every_checkpoint_of_a_study_is_measured_and_its_tables_stay(out, bench):
    before, said = tables_of(out), []
    found = measure([out], "all", bench, report=lambda *at: said.append(at))
    assert [place.checkpoint for place in found[0].places[:3]] == ["epoch_0002", "epoch_0004", None]
    assert tables_of(out) == before
    table = pd.read_csv(out / "checkpoints.csv")
    assert len(table) == 4 * 3 and list(table["checkpoint"][:3]) == [
        f"epoch_000{epoch}" for epoch in (2, 4, 6)
    ]
    assert list(table["epochs"][:3]) == [2, 4, 6]
    history = pd.read_csv(out / "history.csv")
    first = history[(history["optimizer"] == table["optimizer"][0]) & (history["seed"] == 0)]
    np.testing.assert_array_equal(table["train_loss"][:3], first["train_loss"].iloc[[1, 3, 5]])
    np.testing.assert_allclose(table["gap"], table["train_accuracy"] - table["test_accuracy"])
    assert table[[*MEASURES, "gradient_norm"]].notna().all(axis=None)
    ends = table[table["epochs"] == 6]["top_eigenvalue"]
    np.testing.assert_array_equal(ends, pd.read_csv(out / "runs.csv")["top_eigenvalue"])
    counts = [done for done, _ in said]
    assert counts == sorted(counts) and counts[-1] < 4 * 3 * len(MEASURES)
    again = []
    measure([out], "all", bench, report=lambda *at: again.append(at))
    assert again == []
    assert status.derive(out).measured == 4


@pytest.mark.slow
def test_a_checkpoint_measured_alone_has_the_number_that_it_has_among_others(out, bench):
    """Of another study that stopped there, as its end."""
    path = out / "runs" / STUDY.members()[1].name
    measure([out], "2,4", bench)
    table = runs.read_checkpoint_sharpness(path)
    alone = out.parent / "alone"
    (member,) = [m for m in STUDY.members() if m.name == path.name]
    short = replace(member, settings=replace(member.settings, epochs=4))
    claims.claim_run(alone, short)
    (alone / "checkpoints").mkdir()
    shutil.copytree(path / "checkpoints" / "epoch_0004", alone / "checkpoints" / "epoch_0004")
    measuring.measure([short], [alone], bench, MEASURES, OPTIONS)
    at = table[table["checkpoint"] == "epoch_0004"].drop(columns="checkpoint")
    pd.testing.assert_frame_equal(at.reset_index(drop=True), runs.read_sharpness(alone))


@pytest.mark.slow
def test_checkpoints_of_one_run_one_after_the_other_have_their_own_numbers(out, bench):
    """At width 1, where measures of one stream hand on what they computed."""
    member = STUDY.members()[0]
    path = out / "runs" / member.name
    saved = [path / "checkpoints" / f"epoch_000{epoch}" for epoch in (2, 4)]
    measuring.measure(
        *([member] * 2, [path] * 2, bench, ("top_eigenvalues_sum",), OPTIONS),
        saved=saved,
        layout=studies.Layout(1),
    )
    one, two = runs.read_checkpoint_sharpness(path)["value"]
    (path / "checkpoint_sharpness.csv").unlink()
    measure([path], "2,4", bench, measures=("top_eigenvalues_sum",))
    found = runs.read_checkpoint_sharpness(path)["value"]
    np.testing.assert_allclose([one, two], found, rtol=1e-5)
    assert abs(one - two) > 1e-3 * one


@pytest.mark.slow
def test_all_checkpoints_of_all_groups_compile_one_program_a_measure(out, bench):
    measuring.measuring_program.cache_clear()
    measure([out], "all", bench)
    assert measuring.measuring_program.cache_info().misses == len(MEASURES)
    mesh = measuring.member_mesh(measuring.auto_width(1, 1))
    for name in MEASURES:
        taken = bench.measures[name]
        program = measuring.measuring_program(
            taken, bench.network, OPTIONS, mesh, measuring.budget()
        )
        assert program._cache_size() == 1


@pytest.mark.slow
def test_what_was_finished_is_kept_when_interrupted(out, bench, monkeypatch):
    whole = shutil.copytree(out, out.parent / "whole")
    measure([whole], "all", bench)
    taken, results = [], measuring.results

    def interrupted(name, *rest):
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(name)
        return results(name, *rest)

    monkeypatch.setattr(measuring, "results", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure([out], "all", bench)
    done = sum(
        len(runs.read_checkpoint_sharpness(path)) + len(runs.read_sharpness(path)) - 1
        for path in (out / "runs").iterdir()
    )
    assert done >= 2
    monkeypatch.setattr(measuring, "results", results)
    measure([out], "all", bench)
    for path in (whole / "runs").iterdir():
        for file in ("sharpness.csv", "checkpoint_sharpness.csv"):
            assert (path / file).read_bytes() == (out / "runs" / path.name / file).read_bytes()
    assert (out / "checkpoints.csv").read_bytes() == (whole / "checkpoints.csv").read_bytes()


@pytest.mark.slow
def test_epochs_that_some_runs_have_are_measured_there(out, bench):
    path = out / "runs" / STUDY.members()[0].name
    shutil.rmtree(path / "checkpoints" / "epoch_0002")
    said = []
    measure([out], "2,final", bench, measures=("top_eigenvalue",), warn=said.append)
    assert said == ["1 of 4 runs have no checkpoint after epoch 2"]
    table = pd.read_csv(out / "checkpoints.csv")
    assert list(table["epochs"]) == [6, 2, 6, 2, 6, 2, 6]
    joined = work.joined(work.tasks([path], parse_epochs("all"), asked(("top_eigenvalue",))))
    assert list(joined["checkpoint"]) == ["epoch_0004", "epoch_0006"]
    assert list(joined["top_eigenvalue"].notna() if "top_eigenvalue" in joined else []) == [
        False,
        True,
    ]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_left_out_by_name_and_stays(out, bench):
    path = out / "runs" / STUDY.members()[0].name
    saved = path / "checkpoints" / "epoch_0004"
    damage(saved)
    said = []
    measure([out], "4", bench, measures=("top_eigenvalue",), warn=said.append)
    (line,) = said
    assert str(saved) in line and line.endswith("it is left out") and saved.is_dir()
    assert len(runs.read_checkpoint_sharpness(path)) == 0
    with pytest.raises(ValueError, match="epoch_0004 cannot be read"):
        measure([path], "4", bench)


@pytest.mark.slow
def test_what_was_made_from_something_else_is_refused_before_anything_is_measured(out, bench):
    other = bench._replace(dataset=tiny_dataset(num=40, seed=1))
    found = work.tasks([out], parse_epochs("2"), asked())
    with pytest.raises(RunError, match="was made from other data"):
        work.groups(found, lambda config: other)


def test_measurements_of_checkpoints_that_are_none_are_refused(out, bench):
    path = out / "runs" / STUDY.members()[0].name
    measure([path], "2", bench, measures=("top_eigenvalue",))
    table = runs.read_checkpoint_sharpness(path)
    measurements.write_measurements(
        path / "checkpoint_sharpness.csv", table.assign(checkpoint="../../x")
    )
    with pytest.raises(RunError, match="it must be as epoch_0050"):
        runs.read_checkpoint_sharpness(path)
    said = []
    assert not write_checkpoints(out, STUDY, warn=said.append)
    assert len(said) == 1 and "is left out of checkpoints.csv" in said[0]
    assert directory.latest_checkpoint(path) is not None


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "final,final", "2,02", "all,3", "x"])
def test_epochs_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"epochs is .*; it must be all, final, losses, or epochs"):
        parse_epochs(text)


def test_runs_without_the_epochs_are_refused_with_what_they_have(out):
    with pytest.raises(RunError, match="has no checkpoint of --epochs 3; it has epoch_0002, "):
        work.tasks([out], parse_epochs("3"), asked())
