"""What commands print while they work, and of themselves."""

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from jaxsharp import cli
from jaxsharp.cli import commands
from jaxsharp.cli.output import Output
from jaxsharp.cli.progress import Tracker, duration
from jaxsharp.cli.run import first_line, list_names
from jaxsharp.cli.study.doing import opening
from jaxsharp.data.datasets import DATASETS
from jaxsharp.measures import MEASURES
from jaxsharp.networks.models import MODELS
from jaxsharp.optimizers import OPTIMIZERS, SHARPNESS_AWARE
from jaxsharp.runs.config import HYPER_PARAMETERS
from jaxsharp.runs.config import SAM as SAM_NAMES
from jaxsharp.studies import StudyConfig
from jaxsharp.training import members
from tests.tinynets import tiny_dataset


@pytest.fixture(autouse=True)
def jax_config_unchanged(monkeypatch):
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(members, "cores_as_devices", lambda: None)
    monkeypatch.setattr(commands.signals, "handle", lambda: None)


def test_progress_is_lines_with_rate_and_remaining_time(capsys):
    console = Console(force_terminal=False, width=100)
    for quiet in (False, True):
        with Tracker(console, "study", 10, quiet=quiet) as tracker:
            tracker.update(0, "adam", "compiling")
            tracker.update(1, "adam", "epoch 1")  # the same text within ten seconds
            tracker.update(5, "sgd", "epoch 0")
        lines = capsys.readouterr().out.splitlines()
        if quiet:
            assert lines == []
        else:
            assert lines[0].startswith("study 0/10: adam compiling")
            assert lines[1].startswith("study 5/10: sgd epoch 0")
            assert "/s, about " in lines[1] and len(lines) == 2


def test_nothing_is_foretold_from_a_step_that_compiled(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 101.0, 103.0])
    monkeypatch.setattr("jaxsharp.cli.progress.time.monotonic", lambda: next(clock))
    with Tracker(Console(force_terminal=False, width=100), "study", 90) as tracker:
        tracker.update(70, "a")  # a study that is continued
        tracker.update(71, "b")  # a hundred seconds of compilation
        tracker.update(75, "c")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["study 70/90: a", "study 71/90: b", "study 75/90: c (2/s, about 8 s left)"]


def test_what_is_left_is_foretold_from_the_latest_steps(monkeypatch, capsys):
    """A hundred epochs of 1 s and then measures of 10 s each, of which 20 are left."""
    now = [0.0]
    monkeypatch.setattr("jaxsharp.cli.progress.time.monotonic", lambda: now[0])
    with Tracker(Console(force_terminal=False, width=100), "study", 150) as tracker:
        for done in range(131):
            now[0] += 1 if done <= 100 else 10
            tracker.update(done, f"step {done}")
            tracker.update(done, f"step {done}, again")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("(0.1/s, about 3 min left)")
    assert lines[150].startswith("study 75/150") and lines[150].endswith("(1/s, about 75 s left)")


def test_a_few_slow_steps_do_not_foretell_all_others(monkeypatch, capsys):
    """600 epochs in 6 s, then 21 measures in 42 s: by the latest 20 alone it would be 37 min."""
    now = [0.0]
    monkeypatch.setattr("jaxsharp.cli.progress.time.monotonic", lambda: now[0])
    with Tracker(Console(force_terminal=False, width=100), "study", 5000) as tracker:
        for done in range(622):
            now[0] += 0.01 if done <= 600 else 2
            tracker.update(done, "at work" if done < 621 else "the last")
    assert capsys.readouterr().out.splitlines()[-1].endswith("(13/s, about 6 min left)")


def test_nothing_is_foretold_on_a_bar_either(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 101.0, 103.0])
    monkeypatch.setattr("jaxsharp.cli.progress.time.monotonic", lambda: next(clock))
    with Tracker(Console(force_terminal=True, width=100), "study", 20_071) as tracker:
        seen = []
        for done in (70, 71, 75):
            tracker.update(done, "a")
            tracker.bar.refresh()
            seen.append(capsys.readouterr().out)
    assert ["left)" in text for text in seen] == [False, False, True]
    assert "(2/s, about 2.8 h left)" in seen[2]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(99.4, "99 s"), (100.0, "2 min"), (5999.0, "100 min"), (40276.0, "11.2 h")],
)
def test_a_time_has_the_unit_that_suits_it(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("terminal", [False, True])
def test_no_path_is_broken_over_lines(terminal, capsys):
    path = Path("/a folder", *["long names"] * 12, "run")
    console = Output(width=40, force_terminal=terminal, color_system=None)
    console.print(f"12 runs into {path}")
    bench = SimpleNamespace(dataset=tiny_dataset(num=40))
    console.print(opening(StudyConfig(seeds=1, optimizers=("sgd",), sam=("none",)), bench, path))
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"12 runs into {path}"
    assert second.startswith("1 run of small_mlp") and second.endswith(str(path))


@pytest.mark.parametrize("names", [OPTIMIZERS, SHARPNESS_AWARE])
def test_the_list_has_the_defaults_that_runs_use(names, capsys):
    list_names()
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for factory in names.values():
        own = [n for n in HYPER_PARAMETERS if n in inspect.signature(factory).parameters]
        assert own
        values = [f"{n} {inspect.signature(factory).parameters[n].default:g}" for n in own]
        assert f"{first_line(factory)} ({', '.join(values)})" in text


def test_progress_is_a_bar_on_a_terminal(capsys):
    console = Console(force_terminal=True, width=100)
    with Tracker(console, "study", 10) as tracker:
        tracker.update(5, "adam", "epoch 3")
        tracker.bar.refresh()
    out = capsys.readouterr().out
    assert "adam epoch 3" in out and "5/10" in out


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("study", {"--dataset": DATASETS, "--model": MODELS, "--optimizers": OPTIMIZERS}),
        ("study", {"--sam": SAM_NAMES, "--measures": MEASURES}),
        ("train", {"--dataset": DATASETS, "--optimizer": OPTIMIZERS, "--sam": SAM_NAMES}),
        ("sharpness", {"--measures": MEASURES}),
    ],
)
def test_help_has_two_examples_and_names_what_is_valid(name, options, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    out = capsys.readouterr().out
    assert len(re.findall(rf"^jaxsharp {name} .+", out, flags=re.M)) >= 2
    assert "options options" not in out
    for option, names in options.items():
        (of_option,) = re.findall(rf"^\W*{option} (.*?)(?=^\W*--)", out, flags=re.M | re.S)
        assert all(known in re.split(r"[^a-z0-9_]+", of_option) for known in names)


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_says_of_a_command_what_its_function_says(name):
    """The line stands twice, as help imports no command."""
    command = commands.COMMANDS[name]
    assert command.summary == first_line(command.load())
