"""Studies measured at their checkpoints: the same numbers as one by one, once, each kept."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from jaxsharp import runs, studies
from jaxsharp.measures import Options
from jaxsharp.runs import RunError, Settings, claims, directory, measurements
from jaxsharp.studies import measuring, status, study
from jaxsharp.studies.checkpoints import parse_epochs, work
from jaxsharp.studies.workbench import workbench
from jaxsharp.studies.writing.tables import write_checkpoints
from tests.folders import damage
from tests.studies.test_sweep import assert_same_end
from tests.tinynets import mlp, tiny_dataset

MEASURES = ("top_eigenvalue", "gradient_norm")
STUDY = studies.StudyConfig(
    dataset="tiny",
    model="small_mlp",
    optimizers=("sgd", "adam"),
    sam=("none",),
    seeds=2,
    measures=("top_eigenvalue",),
    settings=Settings(epochs=6, batch_size=5, loss_below=None),
)
OPTIONS = Options()
TABLES = ("runs.csv", "history.csv", "summary.csv", "correlations.csv")


def bench_of(_=None):
    network = mlp()
    return workbench(tiny_dataset(num=40), "small_mlp")._replace(network=network, trained=network)


@pytest.fixture(scope="module")
def bench():
    return bench_of()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, bench):
    out = tmp_path_factory.mktemp("trained") / "study"
    with study.claimed(out, STUDY):
        studies.conduct(STUDY, out, bench, save_every=2)
    return out


@pytest.fixture
def out(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "study")


def asked(measures=MEASURES, options=OPTIONS):
    return lambda config: (measures, options)


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


LOSSES = replace(STUDY, settings=replace(STUDY.settings, save_losses="1.06,1.055,1.03,1.015,1e-3"))


def conducted(out, bench, config=LOSSES, **options):
    with study.claimed(out, config):
        studies.conduct(config, out, bench, save_every=50, **options)
    return out


@pytest.fixture(scope="module")
def at_losses(tmp_path_factory, bench):
    return conducted(tmp_path_factory.mktemp("losses") / "study", bench)


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
            conducted(out, bench, report=report)
    conducted(out, bench)
    for name in (*TABLES, "checkpoints.csv"):
        assert (out / name).read_bytes() == (at_losses / name).read_bytes()


@pytest.mark.slow
def test_a_damaged_checkpoint_of_a_loss_is_set_aside_and_the_study_ends(
    at_losses, bench, tmp_path, capsys
):
    out = shutil.copytree(at_losses, tmp_path / "study")
    path = out / "runs" / LOSSES.members()[0].name
    saved = sorted((path / "checkpoints").iterdir())[0]
    damage(saved)
    (path / "checkpoint_sharpness.csv").unlink()
    assert status.derive(out).measured == 3
    conducted(out, bench)
    assert f"it is now damaged-{saved.name}" in capsys.readouterr().err
    table = pd.read_csv(out / "checkpoints.csv")
    before = pd.read_csv(at_losses / "checkpoints.csv")
    assert len(table) == len(before) - 1
    assert status.derive(out).measured == 4
    conducted(out, bench)
    missing = f"checkpoint {saved}, at the first epoch below a loss, cannot be read: it is missing"
    assert missing in capsys.readouterr().err
    lines = []
    work.tasks([out], parse_epochs("losses"), asked(), lines.append)
    assert sum(missing in line for line in lines) == 1


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
