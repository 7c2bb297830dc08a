"""Several data sets or networks in one command: a folder for each pair, and one table of all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jaxsharp import cli
from jaxsharp.cli import commands, sources
from jaxsharp.cli.evaluate.tables import hyper_of, read_table
from jaxsharp.cli.study import command as module
from jaxsharp.cli.study import doing
from jaxsharp.data import datasets
from jaxsharp.runs import RunError, claims, files, reading
from jaxsharp.studies import study, sweep
from jaxsharp.studies.workbench import Workbench
from jaxsharp.studies.writing import joined
from jaxsharp.studies.writing.tables import write_tables
from jaxsharp.training import members
from tests.folders import STUDY, make_run, make_study
from tests.tinynets import tiny_dataset

SMALL = "--optimizers sgd --sam none --seeds 2 --epochs 2 --measures top_eigenvalue --quiet"
SMALL = [*SMALL.split(), "--batch-size", "16"]


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch):
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(members, "cores_as_devices", lambda: None)
    monkeypatch.setattr(commands.signals, "handle", lambda: None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two small data sets in files, and a network of the user's own."""
    folder = tmp_path_factory.mktemp("place")
    draw = np.random.default_rng(0)
    for name in ("one", "two"):
        x, y = draw.normal(size=(40, 8, 8, 1)).astype("float32"), np.arange(40) % 2
        arrays = {"x_train": x[:32], "y_train": y[:32], "x_test": x[32:], "y_test": y[32:]}
        np.savez(folder / f"{name}.npz", **arrays)
    (folder / "mine.py").write_text(
        "from flax import nnx\n\n\nclass Net(nnx.Module):\n"
        "    def __init__(self, rngs):\n        self.layer = nnx.Linear(64, 2, rngs=rngs)\n\n"
        "    def __call__(self, x):\n        return self.layer(x.reshape(len(x), -1))\n"
    )
    return folder


NO_BENCH = Workbench._make([tiny_dataset(), *[None] * 4])
PAIRS = ["one-mine.Net", "one-small_mlp", "two-mine.Net", "two-small_mlp"]


def command(place, out, *options, model="small_mlp,mine.py:Net"):
    data = ",".join(str(place / f"{name}.npz") for name in ("one", "two"))
    model = model.replace("mine.py", str(place / "mine.py"))
    cli.main(["study", "--dataset", data, "--model", model, *SMALL, *options, "--out", str(out)])
    return out


@pytest.fixture
def untrained(monkeypatch):
    """Studies whose runs are made without training, and tell what they are of by their numbers."""

    def conduct(config, out, *_, **__):
        for place, member in enumerate(config.shard_members()):
            if not (out / "runs" / member.name).exists():
                epoch = 1 + PAIRS.index(f"{config.dataset}-{config.model}") % 2 + place % 2
                make_run(out / "runs" / member.name, member, epoch=epoch, converged=True)
        write_tables(out, config, set(config.shard_members()))

    monkeypatch.setattr(study, "conduct", conduct)
    monkeypatch.setattr(study, "summarize", lambda *_: None)
    for each in (module, doing):
        monkeypatch.setattr(each, "finish", lambda *_: None)
    monkeypatch.setattr(module, "prepared", lambda wanted, *_: [NO_BENCH] * len(wanted.pairs))
    return conduct


def content(folder):
    names = ("config.json", "runs.csv", "history.csv", "sharpness.csv", "SHA256SUMS")
    found = (path for name in names for path in folder.rglob(name))
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def rows(file):
    return file.read_text().splitlines()


@pytest.mark.slow
def test_a_folder_for_each_pair_and_a_table_of_all(place, untrained, tmp_path, capsys):
    out = command(place, tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == sorted([*PAIRS, "runs.csv"])
    header, *lines = rows(out / "runs.csv")
    assert header.startswith("dataset,model,optimizer,") and len(lines) == 8
    for i, name in enumerate(PAIRS):
        assert [header, *lines[2 * i : 2 * i + 2]] == rows(out / name / "runs.csv")
        assert all(line.startswith(name.replace("-", ",", 1)) for line in lines[2 * i : 2 * i + 2])
        assert claims.kind(out / name) == "study"
    said = f"runs.csv of 4 study folders; for jaxsharp evaluate {out}"
    assert capsys.readouterr().out.splitlines()[-1] == f"{out}: {said}"


@pytest.mark.slow
def test_an_interruption_keeps_a_table_and_the_same_command_continues(
    place, untrained, tmp_path, monkeypatch, capsys
):
    whole, again, done = command(place, tmp_path / "whole"), tmp_path / "again", []

    def interrupt(config, *args, **kwargs):
        if (config.dataset, config.model) == ("two", "small_mlp"):
            raise KeyboardInterrupt
        done.append(config)
        return untrained(config, *args, **kwargs)

    monkeypatch.setattr(study, "conduct", interrupt)
    with pytest.raises(SystemExit):
        command(place, again)
    assert "the same command continues" in capsys.readouterr().err
    assert [config.model for config in done] == ["small_mlp", "mine.Net"]
    assert len(rows(again / "runs.csv")) == 5
    monkeypatch.setattr(study, "conduct", untrained)
    command(place, again)
    assert content(again) == content(whole)


@pytest.fixture(scope="module")
def out(place, tmp_path_factory):
    """Two data sets with a network, trained and measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "use_compilation_cache", lambda: None)
        patch.setattr(members, "cores_as_devices", lambda: None)
        patch.setattr(commands.signals, "handle", lambda: None)
        return command(place, tmp_path_factory.mktemp("several") / "out", model="mine.py:Net")


@pytest.mark.slow
def test_each_study_is_the_one_that_it_would_be_alone(out, place, tmp_path):
    alone, data = tmp_path / "alone", str(place / "two.npz")
    model = f"{place / 'mine.py'}:Net"
    cli.main(["study", "--dataset", data, "--model", model, *SMALL, "--out", str(alone)])
    for name in ("runs.csv", "history.csv", "config.json"):
        assert (alone / name).read_bytes() == (out / "two-mine.Net" / name).read_bytes()
    assert pd.read_csv(out / "runs.csv")["top_eigenvalue"].nunique() == 4


def test_studies_that_are_there_and_not_named_stay_in_the_table(tmp_path):
    for name in ("one-other", "one-small_mlp", "another"):
        config = json.loads(json.dumps(STUDY.as_dict())) | {"dataset": "one"}
        claims.claim(tmp_path / name, config | {"model": name.removeprefix("one-")})
        (tmp_path / name / "runs.csv").write_text(f"dataset,model,gap\none,{name},0.1\n")
    (tmp_path / "one-linked").symlink_to(tmp_path / "one-other")
    assert joined.write_joined(tmp_path) == ["runs.csv"]
    assert list(pd.read_csv(tmp_path / "runs.csv")["model"]) == ["one-other", "one-small_mlp"]
    (tmp_path / "one-other" / "runs.csv").unlink()
    (tmp_path / "one-other" / "runs.csv").symlink_to(tmp_path / "another" / "runs.csv")
    with pytest.raises(files.ForeignError, match="is not a file; it must be one"):
        joined.write_joined(tmp_path)


@pytest.mark.slow
def test_parts_are_merged_study_by_study(place, untrained, tmp_path):
    parts, whole = [tmp_path / "part1", tmp_path / "part2"], tmp_path / "whole"
    for number, part in enumerate(parts, 1):
        command(place, part, "--shard", f"{number}/2")
        assert len(rows(part / "runs.csv")) == 5
    cli.main(["merge", *map(str, parts), "--out", str(whole)])
    of_parts = [rows(part / name / "runs.csv")[1:] for name in PAIRS for part in parts]
    assert rows(whole / "runs.csv")[1:] == [line for lines in of_parts for line in lines]
    assert claims.read_config(whole / PAIRS[0])["shard"] is None
    shutil.rmtree(parts[1] / "two-mine.Net")
    with pytest.raises(RunError, match=r"part1 has the study two-mine\.Net, and .*part2 has not"):
        joined.parts_by_study(parts)


def test_nothing_is_merged_where_a_part_of_any_study_is_not_whole(tmp_path, capsys):
    for number in (1, 2):
        for name in ("digits-a", "digits-b"):
            config = replace(STUDY, model=name[-1], shard=f"{number}/2")
            make_study(tmp_path / str(number) / name, config, converged=True)
    run = next((tmp_path / "2" / "digits-b" / "runs").iterdir())
    shutil.rmtree(run)
    with pytest.raises(SystemExit):
        cli.main(["merge", str(tmp_path / "1"), str(tmp_path / "2"), "--out", str(tmp_path / "o")])
    assert f"run {run.name} is missing" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_status_plot_report_and_evaluate_take_the_folder(out, tmp_path, capsys):
    names = ("one-mine.Net", "two-mine.Net")
    cli.main(["status", str(out)])
    printed = capsys.readouterr().out
    assert all(str(out / name) in printed for name in names)
    cli.main(["plot", str(out), "--out", str(tmp_path / "curves.svg")])
    assert len(reading.histories([out])) == 4
    cli.main(["report", str(out), "--out", str(tmp_path / "page.html")])
    assert all(name in (tmp_path / "page.html").read_text() for name in names)
    cli.main(["evaluate", str(out), "--unconverged"])
    assert "top eigenvalue" in capsys.readouterr().out
    found = hyper_of(read_table(out))
    assert found == ["dataset"]


@pytest.mark.slow
def test_checkpoints_that_are_measured_later_are_joined_too(place, untrained, tmp_path):
    out = command(place, tmp_path / "out", model="mine.py:Net")
    for name in ("one-mine.Net", "two-mine.Net"):
        shutil.copy(out / name / "runs.csv", out / name / "checkpoints.csv")
    assert joined.write_joined(out) == ["runs.csv", "checkpoints.csv"]
    assert rows(out / "checkpoints.csv") == rows(out / "runs.csv")


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["study", *arguments, "--quiet"])
    printed, err = capsys.readouterr()
    assert stopped.value.code == 2 and printed == "" and err.count("\n") == 1
    return err.removeprefix("jaxsharp: error: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--dataset", "digits,digit"), "unknown dataset 'digit'; valid are digits, "),
        (("--dataset", "digits,,mnist"), "unknown dataset ''"),
        (("--dataset", "digits,digits"), "dataset is 'digits,digits'; 'digits' is there twice"),
        (("--model", "small_mlp,lenett"), "unknown model 'lenett'; valid are lenet, "),
        (("--model", "small_mlp, small_mlp"), "'small_mlp' is there twice"),
        (("--model", "small_mlp,no.py:make"), "no.py is no file"),
        (("--dataset", "digits,no.npz"), "no.npz"),
        (("--model", "small_mlp,lenet", "--data-dir", "."), "digits is embedded in jaxsharp"),
        (("--model", "small_mlp,lenet"), "lenet"),
        (("--model", "small_mlp,mlp_1", "--shard", "99/99"), "shard is 99/99 of 36 runs"),
    ],
)
def test_wrong_names_are_one_line_before_anything_is_made(
    arguments, said, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "train", lambda *_, **__: pytest.fail("trained"))
    assert said in refusal(capsys, *arguments, "--out", "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "conduct", lambda *_, **__: pytest.fail("conducted"))
    pairs = ["--model", "small_mlp,mlp_1", "--out"]
    make_study(tmp_path / "study", converged=True)
    assert "is not a folder of several" in refusal(capsys, *pairs, str(tmp_path / "study"))
    inside = str(tmp_path / "study" / "new")
    assert "is inside of the study" in refusal(capsys, *pairs, inside)
    (tmp_path / "file").touch()
    assert "is a file" in refusal(capsys, *pairs, str(tmp_path / "file"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "runs.csv").write_text("years of work")
    assert "is of no studies there" in refusal(capsys, *pairs, str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "runs.csv").read_text() == "years of work"


def test_a_file_with_a_comma_in_its_name_is_one(place, tmp_path):
    shutil.copy(place / "one.npz", tmp_path / "a,b.npz")
    shutil.copy(place / "mine.py", tmp_path / "c,d.py")
    assert sources.separated("dataset", str(tmp_path / "a,b.npz")) == [str(tmp_path / "a,b.npz")]
    both = f"{tmp_path}/c,d.py:Net"
    assert sources.separated("model", both) == [both]
    assert sources.separated("model", "a.py:f,b.py:g") == ["a.py:f", "b.py:g"]


def test_data_dir_is_for_those_that_are_read_from_it(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        datasets, "load", lambda name, data_dir, **_: asked.update({name: data_dir})
    )
    monkeypatch.setattr(sources, "workbench", lambda *_: NO_BENCH)
    pairs = sources.pairs_of("digits,mnist", None)
    assert [pair.model_name for pair in pairs] == ["small_mlp", "simple_batch"]
    sources.benches_of(pairs, STUDY.settings, Path("there"))
    assert asked == {"digits": None, "mnist": Path("there")}


def test_two_studies_in_one_folder_are_refused(tmp_path):
    make = lambda data, model: replace(STUDY, dataset=data, model=model)  # noqa: E731
    with pytest.raises(RunError, match="two studies would be in the folder a-b-c; give each"):
        joined.check_folder(tmp_path, [make("a-b", "c"), make("a", "b-c")])
    names = {joined.name_of([make("a", "b"), make("a", each)]) for each in ("c", "d")}
    assert len(names) == 2 and all(name.startswith("a-b+") for name in names)
