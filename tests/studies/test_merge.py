"""Shards put together: the same as the whole study, or refused before anything is copied."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from jaxsharp.runs import RunError, Settings, checkpoint, claims, directory, files, tables
from jaxsharp.runs.fingerprint import DATA, PROGRAMS
from jaxsharp.studies import status
from jaxsharp.studies.merge import merge
from tests.folders import MADE_FROM, STUDY, damage, make_run, make_study, state_at


def shards(root, total=3):
    return [
        make_study(root / f"part{i}", replace(STUDY, shard=f"{i}/{total}"))
        for i in range(1, total + 1)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    shards(root)
    return root


@pytest.fixture
def parts(made, tmp_path):
    shutil.copytree(made, tmp_path / "shards")
    return sorted((tmp_path / "shards").iterdir())


def content(path):
    """All bytes below a folder, by name."""
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def refusal(parts, out):
    """What is said of parts that cannot be merged, before anything is written."""
    with pytest.raises(RunError) as caught:
        merge(parts, out)
    assert not out.exists() and "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shards_make_the_whole_study(parts, tmp_path):
    config = merge(parts[::-1], tmp_path / "out")
    assert config == STUDY
    assert claims.read_config(tmp_path / "out") == claims.read_config(
        make_study(tmp_path / "whole", STUDY)
    )
    names = [member.name for member in STUDY.members()]
    assert sorted(os.listdir(tmp_path / "out" / "runs")) == sorted(names)
    copied = content(tmp_path / "out" / "runs")
    assert copied == {name: c for part in parts for name, c in content(part / "runs").items()}
    for name in names:
        state, history = directory.load(tmp_path / "out" / "runs" / name, state_at(1), MADE_FROM)
        assert int(state.epoch) == len(history) == 3


def test_merging_again_changes_nothing(parts, tmp_path):
    merge(parts, tmp_path / "out")
    before = {p: p.stat().st_ino for p in (tmp_path / "out" / "runs").rglob("*")}
    merge(parts, tmp_path / "out")
    assert {p: p.stat().st_ino for p in (tmp_path / "out" / "runs").rglob("*")} == before


def test_an_interrupted_merge_continues(parts, tmp_path, monkeypatch):
    rename, left = os.rename, [2]

    def interrupt(source, target):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        rename(source, target)

    monkeypatch.setattr("jaxsharp.studies.merge.os.rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        merge(parts, tmp_path / "out")
    assert len(os.listdir(tmp_path / "out" / "runs")) == 2
    monkeypatch.undo()
    (tmp_path / "out" / "runs" / ".tmp-adam-seed1").mkdir()  # as a killed process leaves it
    merge(parts, tmp_path / "out")
    assert len(content(tmp_path / "out" / "runs")) == sum(len(content(p / "runs")) for p in parts)


def test_a_run_that_is_unfinished_in_the_output_is_replaced(parts, tmp_path):
    out = tmp_path / "out"
    claims.claim(out, STUDY.as_dict())
    member = STUDY.members()[0]
    run = make_run(out / "runs" / member.name, member, epoch=2)
    merge(parts, out)
    assert os.listdir(run / "checkpoints") == ["epoch_0003"]


def test_what_is_damaged_or_unfinished_beside_a_run_is_not_copied(parts, tmp_path):
    run = next((parts[0] / "runs").iterdir())
    (run / "checkpoints" / "damaged-epoch_0002").mkdir()
    (run / "checkpoints" / ".tmp-epoch_0002").mkdir()
    merge(parts, tmp_path / "out")
    copied = tmp_path / "out" / "runs" / run.name / "checkpoints"
    assert os.listdir(copied) == ["epoch_0003"]
    assert checkpoint.verify(copied / "epoch_0003") is None


def test_a_whole_study_alone_is_copied(tmp_path):
    whole = make_study(tmp_path / "whole")
    merge([whole], tmp_path / "out")
    assert content(tmp_path / "out" / "runs") == content(whole / "runs")


def test_shards_that_are_missing_doubled_or_of_another_number_are_named(parts, tmp_path):
    out = tmp_path / "out"
    assert "shard 2/3 is missing" in refusal([parts[0], parts[2]], out)
    assert "shard 2/3, 3/3 is missing" in refusal(parts[:1], out)
    assert "no part is named" in refusal([], out)
    assert f"{parts[0]} is named twice" in refusal([*parts, parts[0]], out)
    again = shutil.copytree(parts[0], tmp_path / "again")
    assert f"{again} is shard 1/3, and so is {parts[0]}" == refusal([*parts, again], out)
    half = make_study(tmp_path / "half", replace(STUDY, shard="1/2"))
    assert f"{half} is shard 1/2, but {parts[0]} is 1/3" == refusal([*parts, half], out)
    whole = make_study(tmp_path / "whole")
    for order in ([whole, *parts], [*parts, whole]):
        assert f"{whole} is a whole study" in refusal(order, out)
    with pytest.raises(RunError, match="is named twice"):
        merge(parts, parts[0])


def test_shards_of_two_studies_are_refused_by_field(parts, tmp_path):
    other = replace(STUDY, settings=Settings(epochs=4), shard="3/3")
    claims.claim(tmp_path / "other", other.as_dict())
    said = refusal([*parts[:2], tmp_path / "other"], tmp_path / "out")
    assert said == f"{tmp_path / 'other'} is of another study than {parts[0]} (epochs 3 -> 4)"


def test_a_run_that_is_not_finished_is_named_with_its_part(parts, tmp_path):
    out, part = tmp_path / "out", parts[1]
    member = replace(STUDY, shard="2/3").shard_members()[0]
    run = part / "runs" / member.name
    start = f"{part} cannot be merged: run {member.name} "
    sharpness = (run / "sharpness.csv").read_text()
    (run / "sharpness.csv").write_text(sharpness.replace("1.5", "1.6"))
    assert refusal(parts, out) == f"{start}is not measured (top_eigenvalue)"
    (run / "sharpness.csv").write_text(sharpness)
    damage(run / "checkpoints" / "epoch_0003")
    assert f"{start}is damaged (epoch_0003: " in refusal(parts, out)
    shutil.rmtree(run)
    make_run(run, replace(member, seed=7))
    assert refusal(parts, out) == f"{start}is of another configuration (seed 7 -> {member.seed})"
    (run / "config.json").write_text((run / "config.json").read_text().replace("7", "8"))
    assert f"{run / 'config.json'} is damaged" in refusal(parts, out)
    shutil.rmtree(run)
    make_run(run, member, epoch=2)
    assert refusal(parts, out) == f"{start}is not trained to its end (epoch_0002)"
    shutil.rmtree(run / "checkpoints")
    assert refusal(parts, out) == f"{start}is not trained"
    shutil.rmtree(run)
    assert refusal(parts, out) == f"{start}is missing"


def test_a_folder_that_is_no_study_is_refused(parts, tmp_path):
    run = next((parts[0] / "runs").iterdir())
    assert f"{run} is not the folder of a study" in refusal([run, *parts], tmp_path / "out")
    assert "no config.json" in refusal([tmp_path / "absent"], tmp_path / "out")


def test_an_output_of_something_else_or_in_use_is_left_alone(parts, tmp_path):
    out = tmp_path / "out"
    claims.claim(out, replace(STUDY, seeds=7).as_dict())
    with pytest.raises(RunError, match=r"holds another configuration \(seeds 7 -> 2\)"):
        merge(parts, out)
    assert os.listdir(out) == ["config.json"]
    with files.lock(tmp_path / "other"):
        with pytest.raises(files.InUseError, match="is in use by"):
            merge(parts, tmp_path / "other")


def test_numbers_survive_the_copy(parts, tmp_path):
    merge(parts, tmp_path / "out")
    for member in STUDY.members():
        row = tables.row(tmp_path / "out" / "runs" / member.name)
        assert row["top_eigenvalue"] == 1.5 and row["epochs"] == 3
        np.testing.assert_allclose(row["train_loss"], 1 / 5)


@pytest.mark.parametrize("name", [*DATA, *PROGRAMS])
def test_parts_of_other_content_are_refused_by_what_differs(parts, tmp_path, name):
    """Nothing of it is in the names; another optimizer has another program."""
    part, config = parts[1], replace(STUDY, shard="2/3")
    shutil.rmtree(part)
    make_study(part, config, made_from=replace(MADE_FROM, **{name: "f" * 32}))
    said = refusal(parts, tmp_path / "out")
    assert f"({name.replace('_', ' ')} ffffffff -> 01234567)" in said
    assert f"checkpoint {part}" in said and f"it cannot be merged with {parts[0]}" in said


def test_each_optimizer_has_a_program_of_its_own(tmp_path):
    """The shards of two optimizers differ in it, and are parts of one study."""
    halves = [replace(STUDY, shard=f"{i}/2") for i in (1, 2)]
    made = [replace(MADE_FROM, optimizer=digit * 32) for digit in "12"]
    parts = [
        make_study(tmp_path / str(i), half, made_from=each)
        for i, (half, each) in enumerate(zip(halves, made, strict=True))
    ]
    assert [{m.optimizer for m in half.shard_members()} for half in halves] == [{"sgd"}, {"adam"}]
    assert merge(parts, tmp_path / "out") == STUDY


def test_another_run_in_the_place_of_one_is_refused_before_anything_is_copied(parts, tmp_path):
    """The last of the output's places holds what the study did not make."""
    out, member = tmp_path / "out", STUDY.members()[-1]
    claims.claim(out, STUDY.as_dict())
    make_run(out / "runs" / member.name, replace(member, seed=7))
    before = content(out)
    with pytest.raises(RunError, match=r"\(seed 7 -> 1\); choose another directory"):
        merge(parts, out)
    shutil.rmtree(out / "runs" / member.name)
    (out / "runs" / member.name).mkdir()
    (out / "runs" / member.name / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"has no config\.json"):
        merge(parts, out)
    left = {name for name in content(out) if name.name != files.LOCK}
    kept = {name for name in before if "runs" not in name.parts and name.name != files.LOCK}
    assert left == {*kept, (out / "runs" / member.name / "thesis.tex").relative_to(out)}


def test_an_output_inside_of_a_part_is_refused(parts, tmp_path):
    assert "one in the other" in refusal(parts, parts[0] / "runs" / "out")
    with pytest.raises(RunError, match="one in the other"):
        merge(parts, parts[0].parent)
    assert sorted(os.listdir(parts[0].parent)) == [part.name for part in parts]


def test_an_end_that_is_only_a_name_is_refused(parts, tmp_path):
    """A run that is called converged, whose state says that it is not."""
    member = replace(STUDY, shard="1/3").shard_members()[0]
    saved = parts[0] / "runs" / member.name / "checkpoints" / "epoch_0003"
    saved.rename(saved.with_name("converged"))
    assert "converged holds epoch_0003 after 3 epochs, and a history of 3; both must be" in refusal(
        parts, tmp_path / "out"
    )


def test_what_systems_and_editors_leave_is_in_no_way_and_not_copied(parts, tmp_path):
    """In a part, its runs, a checkpoint, the output, and in the place of a run there."""
    member, out = replace(STUDY, shard="1/3").shard_members()[0], tmp_path / "out"
    run = parts[0] / "runs" / member.name
    (saved,) = directory.checkpoints(run)
    (out / "runs" / member.name).mkdir(parents=True)
    for folder in (parts[0], parts[0] / "runs", run, saved, out, out / "runs" / member.name):
        (folder / ".DS_Store").write_bytes(b"\0")
        (folder / ".#config.json").symlink_to("user@host.1")
        (folder / "Thumbs.db~").touch()
    claims.write_config(out, STUDY.as_dict())
    before = content(parts[0])
    assert merge(parts, out) == STUDY and content(parts[0]) == before
    copied = {path.name for path in (out / "runs").rglob("*")}
    assert not copied & {".DS_Store", "Thumbs.db~", ".#config.json"} and "epoch_0003" in copied
    assert "damaged: " not in status.describe(parts[0])


@pytest.mark.slow
def test_the_configuration_of_an_output_is_written_anew(parts, tmp_path, capsys):
    out = tmp_path / "out"
    merge(parts, out)
    (out / "config.json").unlink()
    assert merge(parts, out) == STUDY
    assert claims.read_config(out) == claims.read_config(make_study(tmp_path / "whole"))
    assert "is missing; it is written anew" in capsys.readouterr().err


def test_an_output_inside_of_another_study_is_refused(parts, tmp_path):
    other = make_study(tmp_path / "other", replace(STUDY, seeds=1))
    assert f"is inside of the study {other}" in refusal(parts, other / "runs" / "merged")
    with pytest.raises(RunError, match=r"\(seeds 1 -> 2\); choose another directory \(--out\)$"):
        merge(parts, other)


def test_a_full_disk_names_the_run_and_leaves_nothing(parts, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device", str(source), None, str(target))

    monkeypatch.setattr("jaxsharp.studies.merge.shutil.copy2", full)
    name = STUDY.members()[0].name
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/out/runs/{name}'$"):
        merge(parts, tmp_path / "out")
    assert os.listdir(tmp_path / "out" / "runs") == []
