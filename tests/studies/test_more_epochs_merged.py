"""Parts that were trained on are merged again, into the study of their fewer epochs too."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from jaxsharp.measures import MEASURES, Record
from jaxsharp.runs import RunError, claims, directory, read_checkpoint_sharpness, read_run_config
from jaxsharp.studies import measuring
from jaxsharp.studies.merge import merge
from tests.folders import MADE_FROM, STUDY, make_run, make_study

MORE = replace(STUDY, settings=replace(STUDY.settings, epochs=5))
ENDED, OTHER = (member.name for member in STUDY.members()[:2])  # the first has converged


def trained(out, config, epoch):
    """A study, or a part of one, whose unended runs were trained up to an epoch."""
    claims.claim(out, config.as_dict())
    for member in config.shard_members():
        path = out / "runs" / member.name
        if member.name == ENDED:
            make_run(path, member, converged=True)
            continue
        if epoch > 3:
            make_run(path, member, measures=())
        make_run(path, member, epoch=epoch)
    return out


def shards(root, config, epoch):
    parts = [replace(config, shard=f"{i}/2") for i in (1, 2)]
    return [trained(root / each.shard[0], each, epoch) for each in parts]


def content(path):
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in Path(path).rglob("*")
        if p.is_file() and not p.name.startswith(".lock")
    }


@pytest.fixture
def out(tmp_path):
    """What parts of three epochs were merged to."""
    merge(shards(tmp_path / "few", STUDY, 3), tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def parts(tmp_path):
    """The same parts, trained on."""
    return shards(tmp_path / "many", MORE, 5)


def measured(path, member, checkpoint, value):
    """A measurement of a run before its end."""
    measure = MEASURES["gradient_norm"]
    at = measuring.Place(member, path, path / "checkpoints" / checkpoint)
    record = Record(value, 0.0, False, 1, 16, 0, True)
    measuring.record(at, "gradient_norm", measure, measure.settings(STUDY.options), record)


@pytest.mark.slow
def test_a_merge_of_more_epochs_is_that_of_as_many_at_once(out, parts, tmp_path):
    ended = out / "runs" / ENDED
    before = {p: p.stat().st_ino for p in ended.rglob("*") if p.name != "config.json"}
    assert merge(parts, out) == MORE
    merge(parts, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")
    assert (out / "runs" / OTHER / "checkpoints" / "epoch_0005").is_dir()
    # Of a run that had ended the limit alone is new.
    assert {p: p.stat().st_ino for p in before} == before
    assert read_run_config(ended).settings.epochs == 5
    again = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    merge(parts, out)
    assert {p: p.stat().st_mtime_ns for p in again} == again


@pytest.mark.slow
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_it_goes_on_wherever_it_was_interrupted(out, parts, tmp_path, monkeypatch, calls):
    left, rename, train_on = [calls], os.rename, directory.train_on

    def interrupting(function):
        def call(*arguments):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            function(*arguments)

        return call

    for place, function in (
        ("studies.merge.os.rename", rename),
        ("runs.directory.train_on", train_on),
    ):
        monkeypatch.setattr(f"jaxsharp.{place}", interrupting(function))
        with pytest.raises(KeyboardInterrupt):
            merge(parts, out)
        monkeypatch.undo()
        left[0] = calls
    merge(parts, out)
    merge(parts, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.slow
def test_what_was_measured_along_the_way_is_kept(out, parts):
    """In the study alone, in a part alone, and in both, where the part's is taken."""
    member, path = STUDY.members()[1], out / "runs" / OTHER
    source = next(part for part in parts if (part / "runs" / OTHER).is_dir()) / "runs" / OTHER
    measured(path, member, "epoch_0003", 1.0)
    merge(parts, out)
    table = read_checkpoint_sharpness(path)
    assert list(zip(table["checkpoint"], table["value"], strict=True)) == [("epoch_0003", 1.0)]
    measured(source, member, "epoch_0003", 2.0)
    measured(source, member, "epoch_0005", 3.0)
    shutil.rmtree(path / "checkpoints" / "epoch_0005")
    merge(parts, out)
    table = read_checkpoint_sharpness(path)
    assert list(table["value"]) == [2.0, 3.0]


def refusal(parts, out):
    """What is said of parts that cannot be merged into a folder, which stays as it was."""
    before = content(out)
    with pytest.raises(RunError) as refused:
        merge(parts, out)
    assert content(out) == before and "\n" not in str(refused.value)
    assert "--fresh" not in str(refused.value)
    return str(refused.value)


@pytest.mark.slow
def test_what_cannot_grow_is_refused_by_name_and_nothing_changes(out, parts, tmp_path):
    few = sorted((tmp_path / "few").iterdir())
    said = f"{parts[1]} is of another study than {few[0]} (epochs 3 -> 5)"
    assert refusal([few[0], parts[1]], out) == said
    more = merge(parts, tmp_path / "more")
    assert more == MORE
    fewer = "(epochs 5 -> 3): epochs can be added and not taken back; choose another directory"
    assert fewer in refusal(few, tmp_path / "more")
    seeds = shards(tmp_path / "seeds", replace(MORE, seeds=3), 5)
    assert "(seeds 2 -> 3, epochs 3 -> 5); choose another directory" in refusal(seeds, out)
    stepped = [
        replace(each, settings=replace(each.settings, schedule="step")) for each in (STUDY, MORE)
    ]
    merge(shards(tmp_path / "step", stepped[0], 3), tmp_path / "stepped")
    steps = shards(tmp_path / "steps", stepped[1], 5)
    said = "(epochs 3 -> 5): schedule step depends on the number of epochs"
    assert said in refusal(steps, tmp_path / "stepped")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_images", "optimizer"])
def test_a_run_of_other_content_is_not_replaced_or_taken_for_the_parts(tmp_path, name):
    """Neither where parts have more epochs nor where they have as many."""
    made_from = replace(MADE_FROM, **{name: "f" * 32})
    other = make_study(tmp_path / "other", STUDY, made_from=made_from)
    for folder, config, epoch in (("more", MORE, 5), ("same", STUDY, 3)):
        said = refusal(shards(tmp_path / folder, config, epoch), other)
        what = "other data" if name == "train_images" else "another program"
        assert f"was made from {what} under the same name" in said
        assert f"it cannot be merged with {tmp_path / folder}" in said
