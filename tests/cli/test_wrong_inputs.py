"""Every wrong input is refused in at most two lines, before anything is computed or written."""

from pathlib import Path

import pytest

from jaxsharp import cli
from jaxsharp.cli import commands
from jaxsharp.runs import claims
from jaxsharp.studies import StudyConfig, measuring, study, sweep
from jaxsharp.training import members
from tests.wronginputs import wrong_inputs


class Accepted(BaseException):
    """A wrong input got as far as work."""


def accept(*_, **__):
    raise Accepted


def files(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a trained run, a study that was not begun, a file, an empty folder and one of
    images, which are damaged."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "a_file").write_text("1\n")
    (folder / "empty").mkdir()
    (folder / "images" / "train" / "cat").mkdir(parents=True)
    (folder / "images" / "train" / "cat" / "a.png").write_text("no image\n")
    (folder / "arrays").mkdir()
    (folder / "arrays" / "x_train.npy").write_text("no array\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(commands, "use_compilation_cache", lambda: None)
        patch.setattr(members, "cores_as_devices", lambda: None)
        patch.setattr(commands.signals, "handle", lambda: None)
        cli.main("train --train-size 200 --epochs 1 --quiet --out a_run".split())
        claims.claim(folder / "a_study", StudyConfig().as_dict())
        patch.setattr(sweep, "train", accept)
        patch.setattr(study, "conduct", accept)
        patch.setattr(measuring, "measure", accept)
        yield folder


def judged(arguments, place, capsys):
    """What is wrong with the end of a command, or ""."""
    before = files(place)
    capsys.readouterr()
    try:
        cli.main(arguments)
        code = 0
    except SystemExit as stopped:
        code = stopped.code
    except Accepted:
        code = "accepted"
    except BaseException as error:
        code = f"{type(error).__name__}: {error}"
    out, err = capsys.readouterr()
    lines = err.splitlines()
    if code != 2 or out or not 1 <= len(lines) <= 2 or not err.startswith("jaxsharp: error: "):
        return f"code {code}, {len(lines)} lines on stderr: {err[:200]} {out[:100]}"
    return "" if files(place) == before else "something was written"


@pytest.mark.slow
def test_every_wrong_input_is_refused(place, capsys):
    inputs = wrong_inputs()
    counted = (Path(__file__).parents[2] / "results/faults/README.md").read_text()
    assert len(inputs) >= 300 and f"Wrong inputs: {len(inputs)} command lines" in counted
    failures = {}
    for arguments in inputs:
        if wrong := judged(arguments, place, capsys):
            failures[" ".join(arguments)] = wrong
    text = "\n".join(f"{line}: {wrong}" for line, wrong in failures.items())
    assert not failures, f"{len(failures)} of {len(inputs)}:\n{text}"
