"""What a page has of folders: studies from their tables, single runs, and the command of each."""

import shlex
from dataclasses import replace

import pandas as pd
import pytest

from jaxsharp.cli import run as run_commands
from jaxsharp.cli.parsing import bind
from jaxsharp.cli.study import command as commands
from jaxsharp.measures import Options
from jaxsharp.runs import RunConfig, RunError, Settings
from jaxsharp.studies import StudyConfig, study
from jaxsharp.studies.report import command_of, read
from tests.folders import STUDY, damage, make_run, make_study

VARIED = replace(
    STUDY,
    sam=("none", "sam"),
    settings=Settings(epochs=3, loss_below=None),
    vary={"learning_rate": (0.01, 0.1), "rho": (0.05, 0.1)},
)


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """A study in which runs without SAM have no rho."""
    return written(tmp_path_factory.mktemp("study") / "varied", VARIED)


def written(out, config=STUDY):
    make_study(out, config)
    study.write_tables(out, config, set(config.shard_members()))
    return out


def said(folders):
    """Studies, and the lines that were said of what is left out."""
    lines = []
    return read(folders, lines.append), lines


@pytest.mark.slow
def test_a_study_is_its_tables(varied):
    (varied / "evaluation.csv").write_text("measure,tau\ntop_eigenvalue,0.5\n")
    (found,), lines = said([varied.parent])
    assert lines == [] and found.name == "varied" and list(found.axes) == VARIED.axes()
    pd.testing.assert_frame_equal(found.result.runs, pd.read_csv(varied / "runs.csv"))
    assert list(found.result.correlations) == ["top_eigenvalue"]
    assert found.evaluation.to_dict("records") == [{"measure": "top_eigenvalue", "tau": 0.5}]
    assert found.facts["Settings"]["epochs"] == 3 and found.facts["Settings"]["dataset"] == "digits"
    assert found.facts["Settings"]["learning_rate"] == (0.01, 0.1)
    assert "no rule" in found.facts["Settings"]["convergence"]
    assert found.facts["Settings of measures"]["num_perturbations"] == 20
    assert found.facts["Made"] == {"traced by": "jax 0.10.0 on cpu"}
    grid = "optimizers sgd, adam; sam none, sam; learning_rate 0.01, 0.1; rho 0.05, 0.1; seeds 2"
    assert found.remarks == [f"small_mlp on digits, 24 runs: {grid}."]


@pytest.mark.slow
def test_every_run_has_its_curve(varied):
    from jaxsharp.analysis.page.content import content

    found = content(read([varied]))
    assert [run[0] for run in found["curves"]["runs"]] == [[1, 2, 3]] * 24
    assert found["runs"]["rho"].count(None) == 8


def test_times_are_summed(tmp_path):
    out = written(tmp_path / "study")
    study.note_times(out, "sgd", 6, 1.25, 0.5)
    study.note_times(out, "adam", 6, 2.0, 1.0)
    (found,) = read([out])
    expected = {"training": "3 s", "measuring": "2 s", "epochs of runs": "12"}
    assert {k: v for k, v in found.facts["Made"].items() if k != "traced by"} == expected
    (out / "times.csv").write_text("damaged")
    (found,) = read([out])
    assert list(found.facts["Made"]) == ["traced by"] and (out / "times.csv").exists()


def test_a_study_that_is_not_finished_says_so(tmp_path):
    out = make_study(tmp_path / "study")
    with pytest.raises(RunError, match=r"study has no table of runs yet; its first group is not"):
        read([out])
    study.write_tables(out, STUDY, set(STUDY.groups()[0]))
    (found,) = read([out])
    assert found.remarks[1] == "2 of 4 runs are not finished yet."


@pytest.mark.slow
def test_what_is_damaged_is_left_out_by_name(tmp_path):
    good, bad = written(tmp_path / "good"), written(tmp_path / "bad")
    for name, text, message in (
        ("runs.csv", "", "runs.csv is not a table: 'No columns to parse from file'"),
        ("runs.csv", "optimizer,sam,seed\nsgd,none,0\n", "runs.csv has no column converged"),
        ("history.csv", "epoch\n1\n", "history.csv has no column optimizer, sam, seed"),
        ("history.csv", "optimizer,sam,seed,epoch\nsgd,none,0,1.5\n", "epoch holds 1.5; it must"),
        ("history.csv", "optimizer,sam,seed,epoch,x\nsgd,none,0,1,y\n", "column x holds 'y'"),
        ("times.csv", "group,member_epochs,training_s,measuring_s\nsgd,1,long,1\n", "_s holds 'l"),
        ("config.json", "{", "config.json is not valid JSON"),
    ):
        study.read_times(bad).to_csv(bad / "times.csv", index=False)
        before = (bad / name).read_text()
        (bad / name).write_text(text)
        (found,), (line,) = said([tmp_path])
        assert found.name == "good" and message in line and line.endswith("it is left out")
        assert str(bad / name) in line and "\n" not in line
        with pytest.raises(RunError, match=r"bad"):
            read([bad])
        (bad / name).write_text(before)
    runs = pd.read_csv(bad / "runs.csv")
    for column, value, message in (
        ("converged", "maybe", "column 'converged' holds 'maybe'; it must be True or False"),
        ("gap", "wide", "column gap holds 'wide'; it must hold numbers"),
        ("seed", 0, "the run sgd, none, 0 stands twice in the table"),
    ):
        runs.astype(object).assign(**{column: value}).to_csv(bad / "runs.csv")
        with pytest.raises(RunError, match=f"runs.csv: {message}"):
            read([bad])
    assert len(said([good, bad])[0]) == 1


def test_single_runs_stand_together_by_what_they_train(tmp_path):
    run = RunConfig("digits", "small_mlp", "sgd", "none", 0, Settings(epochs=3)).resolved()
    runs = {
        "a": run,
        "b": replace(run, seed=1),
        "c": replace(run, optimizer="adam"),
        "again": run,
        "other": replace(run, dataset="mnist"),
    }
    for name, config in runs.items():
        make_run(tmp_path / name, config)
    damage(tmp_path / "b" / "checkpoints" / "epoch_0003")
    small, other = read([tmp_path])
    assert (small.name, other.name) == ("small_mlp on digits", str(tmp_path / "other"))
    assert list(small.result.runs["configuration"]) == [
        "sgd",
        f"sgd, {tmp_path / 'again'}",
        "sgd",
        "adam",
    ]
    assert len(small.history) == 12 and small.facts == {}
    assert small.command.splitlines()[3] == command_of(runs["c"])
    assert other.facts["Settings"]["dataset"] == "mnist"


def test_studies_of_one_name_are_told_by_their_paths(tmp_path):
    for name in ("one", "two"):
        written(tmp_path / name / "out", replace(STUDY, seeds=1))
    assert [each.name for each in read([tmp_path])] == [
        str(tmp_path / name / "out") for name in ("one", "two")
    ]


def test_a_name_that_cannot_be_printed_is_spelled_out(tmp_path):
    out = written(tmp_path / "bad \udcff name", replace(STUDY, seeds=1))
    assert read([out])[0].name == "'bad \\udcff name'"


class Told(Exception):
    """What a command was about to do."""


def asked_for(command, monkeypatch):
    """The configuration that a command line asks for."""

    def tell(config):
        raise Told(config)

    for kind in (StudyConfig, RunConfig):
        monkeypatch.setattr(kind, "check", tell)
    program, name, *arguments = shlex.split(command)
    assert program == "jaxsharp"
    function = {"study": commands.run_study, "train": run_commands.train}[name]
    with pytest.raises(Told) as told:
        bind(function, f"jaxsharp {name}", arguments)()
    return told.value.args[0]


@pytest.mark.parametrize(
    "config",
    [
        StudyConfig(),
        VARIED,
        StudyConfig(
            dataset="fashion_mnist",
            model="simple_batch",
            optimizers=("adam", "sgd"),
            sam=("none", "asam"),
            seeds=1,
            measures=("random_perturbation",),
            settings=Settings(
                epochs=7,
                loss_below=None,
                change_below=1e-4,
                learning_rate=0.1,
                train_size=500,
                schedule="cosine",
                augment="crop_flip",
                clip_norm=1.0,
            ),
            options=Options(antithetic=False, radius=2.5),
            vary={"batch_size": (16, 32), "average": ("none", "ema")},
            shard="2/3",
        ),
    ],
)
def test_the_command_asks_for_the_same_study(config, monkeypatch):
    assert asked_for(command_of(config), monkeypatch) == config


@pytest.mark.parametrize(
    "run",
    [
        RunConfig("digits", "small_mlp", "sgd", "none", 0),
        RunConfig("digits", "lenet", "adam", "asam", 4, Settings(epochs=5, rho=0.2, momentum=0.0)),
    ],
)
def test_the_command_asks_for_the_same_run(run, monkeypatch):
    for config in (run, run.resolved()):
        assert asked_for(command_of(config), monkeypatch).resolved() == run.resolved()
    assert "--rho" not in command_of(replace(run, settings=Settings()).resolved())


def test_what_is_not_known_by_name_is_said(tmp_path):
    own = replace(STUDY, dataset="mine", model="net.make", optimizers=("lion", "sgd"))
    text = command_of(own)
    assert "--dataset MINE.npz --model MINE.py:MAKE --optimizers sgd,lion" in text
    (found,) = read([written(tmp_path / "own", own)])
    line = (
        "Of the user's own, known by name alone: data set mine, network net.make, optimizer lion."
    )
    assert found.remarks[1:] == [line] and found.command == text
