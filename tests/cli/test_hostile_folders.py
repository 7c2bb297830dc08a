"""No command leaves the folder that it is given, whatever somebody wrote into it."""

import functools
import os
import shutil
import stat

import pytest

from jaxsharp import cli
from jaxsharp.cli import commands, run, sharpness
from jaxsharp.cli.study import asked
from jaxsharp.cli.study import command as study
from jaxsharp.runs import Settings
from jaxsharp.studies import measuring, sweep
from jaxsharp.studies.workbench import load_workbench
from jaxsharp.training import members
from tests.hostile import MEASURE, run_of
from tests.hostile_folders import (
    ARRAYS,
    CHECKPOINT,
    CONFIGURATION,
    NOTES,
    RUN,
    STUDY,
    WRITTEN,
)

pytestmark = pytest.mark.slow
SETTINGS = Settings(epochs=2, batch_size=50, train_size=150, loss_below=None)
SHARED = {"optimizers": "sgd", "sam": "none", "seeds": 2, "measures": MEASURE}


def do_study(place, index=1):
    out = place / f"part{index}"
    study.run_study(**SHARED, training=SETTINGS, shard=f"{index}/2", out=out, quiet=True)


def do_merge(place):
    study.merge_parts((place / "part1", place / "part2"), out=place / "out")


def do_status(place):
    run.show_status((place / "part1",))


def do_sharpness(place):
    sharpness.sharpness((run_of(place / "part1"),), measures=MEASURE, quiet=True)


def do_plot(place):
    run.plot((run_of(place / "part1"),), out=place / "curves.png")


def do_report(place):
    run.write_report((place / "part1",), out=place / "report.html")


def do_train(place):
    """In a folder of its own: that of a study's run is refused."""
    theirs, own = run_of(place / "part1"), place / "run"
    theirs.rename(own)
    try:
        run.train(optimizer="sgd", training=SETTINGS, out=own, quiet=True)
    finally:
        own.rename(theirs)


COMMANDS = [do_merge, do_status, do_study, do_sharpness, do_plot, do_report, do_train]
# Of each kind, the commands that must refuse, and those that may do their work or refuse.
KINDS = [
    (STUDY, [do_merge, do_status, do_report, do_study], []),
    (CONFIGURATION, [do_merge, do_status, do_report], [do_study]),
    (RUN, [do_merge], [do_status, do_report, do_study, do_sharpness, do_plot, do_train]),
    (CHECKPOINT, [do_merge], [do_status, do_plot, do_report]),
    (ARRAYS, [do_merge, do_study, do_train], [do_sharpness, do_status]),
    (WRITTEN, [], COMMANDS),
    (NOTES, [], [do_status]),
]
CASES = [(kind, name, *commands) for kind, *commands in KINDS for name in kind]
OWN = {do_merge: ("out",), do_plot: ("curves.png", ".curves.png.tmp")}
OWN[do_report] = ("report.html", ".tmp-report.html")
KEPT = (".lock", ".lock.json", "status.json")  # a process may say that it was there


def sight(entry):
    """What can be seen of a file or folder: its kind, its content and when that was changed."""
    found = entry.stat(follow_symlinks=False)
    seen = [stat.S_IFMT(found.st_mode), found.st_size, found.st_mtime_ns]
    if entry.is_symlink():
        return [*seen, os.readlink(entry.path)]
    if entry.is_file() and found.st_size < 2**20:
        with open(entry.path, "rb") as file:
            seen.append(file.read())
    return seen


def snapshot(folder, left_out=()):
    """What can be seen of all that is below a folder, by path."""
    found, waiting = {}, [folder]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            if os.path.abspath(entry.path) in map(str, left_out) or entry.name in KEPT:
                continue
            found[entry.path] = sight(entry)
            waiting += [entry.path] if entry.is_dir(follow_symlinks=False) else []
    # That a lock was there changes when its own folder was changed.
    own = {path for path, seen in found.items() if stat.S_ISDIR(seen[0]) and "victim" not in path}
    return {path: seen[:1] if path in own else seen for path, seen in found.items()}


loaded = functools.cache(load_workbench)  # the same for all folders


def all_loaded(pairs, settings, data_dir):
    return [loaded(pair.dataset, pair.network, settings, data_dir) for pair in pairs]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two parts of a study, trained and measured."""
    place = tmp_path_factory.mktemp("parts")
    for index in (1, 2):
        do_study(place, index)
    return place


@pytest.fixture
def root(made, tmp_path):
    """A place for the parts, and beside it a folder that is nobody's business here."""
    shutil.copytree(made, tmp_path / "place")
    (tmp_path / "victim" / "mine").mkdir(parents=True)
    for name in ("secret", "mine/thesis.tex", "config.json", "history.csv"):
        (tmp_path / "victim" / name).write_text("years of work")
    return tmp_path


def outcome(command, place):
    """The message of a refusal, as the command line has it; None if there is none."""
    try:
        command(place)
    except (ValueError, OSError) as error:  # what `commands.call` turns into one line
        return str(error)
    return None


def test_without_a_change_every_command_does_its_work(root):
    for command in COMMANDS:
        assert outcome(command, root / "place") is None, command
    assert (root / "place" / "out" / "runs.csv").is_file()


@pytest.mark.parametrize(
    ("kind", "name", "refusing", "others"), CASES, ids=[name for _, name, *_ in CASES]
)
def test_a_hostile_folder_is_refused_or_kept_to(
    root, monkeypatch, capsys, kind, name, refusing, others
):
    def compile_nothing(*_, **__):
        raise AssertionError("a refusal compiles nothing")

    for module in (run, sharpness):
        monkeypatch.setattr(module, "load_workbench", loaded)
    monkeypatch.setattr(asked, "benches_of", all_loaded)
    monkeypatch.setattr(sweep, "epoch_program", compile_nothing)
    monkeypatch.setattr(measuring, "measuring_program", compile_nothing)
    place, victim = root / "place", root / "victim"
    kind[name](place / "part1", victim)
    for command in (*refusing, *others):
        own = [place / name for name in OWN.get(command, ("part1",))]
        before = snapshot(root), snapshot(root, own)
        capsys.readouterr()
        message = outcome(command, place)
        printed = capsys.readouterr()
        assert snapshot(root, own) == before[1], command
        assert message is not None or command not in refusing, command
        if message is not None:
            assert "\n" not in message and len(message) < 2000 and message.isprintable()
            assert snapshot(root) == before[0], command
            assert printed.out == ""
        elif command is do_status:
            assert snapshot(root) == before[0], command
            assert all(line.isprintable() for line in printed.out.splitlines())
        shutil.rmtree(place / "out", ignore_errors=True)


@pytest.mark.parametrize("name", ["optimizers: upwards", "config: deep", "runs: link"])
def test_a_refusal_is_one_line_of_the_command_line(root, monkeypatch, capsys, name):
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(members, "cores_as_devices", lambda: None)
    monkeypatch.setattr(commands.signals, "handle", lambda: None)
    {**STUDY, **CONFIGURATION}[name](root / "place" / "part1", root / "victim")
    parts = [str(root / "place" / part) for part in ("part1", "part2")]
    before = snapshot(root)
    out = str(root / "place" / "out")
    for arguments in (["merge", *parts, "--out", out], ["status", parts[0]]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        printed = capsys.readouterr()
        assert stopped.value.code == 2 and printed.out == ""
        assert printed.err.startswith("jaxsharp: error: ") and printed.err.count("\n") == 1
        assert parts[0] in printed.err and snapshot(root) == before
