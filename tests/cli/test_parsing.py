"""Arguments that do not fit a command: one line each, with the option as the user typed it."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro

from jaxsharp.cli.parsing import Beside, bind
from jaxsharp.cli.sharpness import asked
from jaxsharp.measures import DEFAULT_MEASURES, Options
from jaxsharp.studies import StudyConfig


@dataclass(frozen=True)
class Numbers:
    """Numbers."""

    learning_rate: float | None = None
    """Rate."""
    batch_size: int = 128
    """Size."""


def command(
    folder: tyro.conf.Positional[Path],
    *,
    out: Path,
    names: str = "none",
    count: int | None = None,
    fresh: bool = False,
    numbers: tyro.conf.OmitArgPrefixes[Numbers] = Numbers(),
):
    """Do something.

    jaxsharp command a --out b -- --optimizers sgd

    Args:
        folder: Folder of something.
        out: Output folder.
        names: Names.
        count: Count.
        fresh: Start over.
    """
    return folder, out, names, count, fresh, numbers


GOOD = ["a", "--out", "b"]


def bound(*arguments):
    return bind(command, "jaxsharp command", [*arguments])()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--batch-size", "x"], "--batch-size is 'x'; it must be a whole number"),
        (["--batch-size", "1e3"], "--batch-size is '1e3'; it must be a whole number"),
        (["--batch-size=2.5"], "--batch-size is '2.5'; it must be a whole number"),
        (["--batch_size", ""], "--batch_size is ''; it must be a whole number"),
        (["--learning-rate", "fast"], "--learning-rate is 'fast'; it must be None or a number"),
        (["--count", "many"], "--count is 'many'; it must be None or a whole number"),
        (["--learning-rat", "1"], "unknown option --learning-rat; the closest is --learning-rate"),
        (["--lr", "1"], "unknown option --lr; the closest is --learning-rate"),
        (["--bs=3"], "unknown option --bs; the closest is --batch-size"),
        (["--zzz"], "unknown option --zzz; jaxsharp command --help lists the options"),
        (["--optimizers"], "unknown option --optimizers; jaxsharp command --help lists the"),
        (["-x"], "unknown option -x; jaxsharp command --help lists the options"),
        (["b"], "unexpected argument 'b'; jaxsharp command --help lists the options"),
        (["--fresh", "maybe"], "unexpected argument 'maybe'; jaxsharp command --help"),
        (["--fresh=maybe"], "unexpected argument 'maybe'; jaxsharp command --help"),
        (["--count"], "--count needs a value; jaxsharp command --help lists the options"),
    ],
)
@pytest.mark.parametrize("columns", ["20", "80"])
def test_a_refusal_is_one_line(arguments, line, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(ValueError) as refused:
        bound(*GOOD, *arguments)
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def other(*, optimizers: str = "sgd", train_size: int = 10, out: Path = Path("c")):
    """Do something else."""


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--optimizers", "--optimizers is an option of jaxsharp other; those stand after --"),
        ("--optimizers=adam", "--optimizers is an option of jaxsharp other; those stand after --"),
        ("--train_size", "--train_size is an option of jaxsharp other; those stand after --"),
        (
            "--optimizer",
            "unknown option --optimizer; the closest is --optimizers of jaxsharp other, after --",
        ),
        ("--lr", "unknown option --lr; the closest is --learning-rate"),
        ("--nams", "unknown option --nams; the closest is --names"),
        ("--zzz", "unknown option --zzz; jaxsharp command --help lists the options"),
    ],
)
def test_an_option_of_the_command_beside_it_is_told_where_it_stands(option, line):
    beside = Beside("jaxsharp other", other, "after")
    with pytest.raises(ValueError) as refused:
        bind(command, "jaxsharp command", [*GOOD, option, "x"], beside)
    assert str(refused.value) == line


def test_what_is_missing_is_named():
    for arguments, line in (
        (["--out", "b"], "jaxsharp command needs FOLDER Folder of something"),
        (["a"], "jaxsharp command needs --out PATH Output folder"),
    ):
        with pytest.raises(ValueError, match="needs") as refused:
            bound(*arguments)
        assert str(refused.value).replace("needs PATH", "needs FOLDER") == line


@pytest.mark.parametrize("none", ["None", "none", "NONE"])
def test_none_may_be_spelled_in_any_way_where_it_is_an_option_and_not_a_name(none):
    found = bound(*GOOD, "--learning-rate", none, f"--count={none}", "--names", none)
    assert found[2:4] == (none, None)
    assert found[5].learning_rate is None


def test_help_is_no_refusal(capsys):
    with pytest.raises(SystemExit) as stopped:
        bound("--help")
    assert stopped.value.code == 0
    out, err = capsys.readouterr()
    assert "Output folder" in out and err == ""


def test_an_error_of_the_function_is_not_taken_for_one_of_its_arguments():
    def fails(*, count: int = 1):
        """Fail."""
        raise SystemExit(3)

    call = bind(fails, "jaxsharp fails", ["--count", "2"])
    with pytest.raises(SystemExit) as stopped:
        call()
    assert stopped.value.code == 3


def test_a_study_is_measured_with_its_own_settings_unless_some_are_given():
    of_study, given = Options(radius=1.0), Options(radius=2.0)
    study = StudyConfig(measures=("gradient_norm",), options=of_study)
    named = ("random_perturbation",)
    assert asked(None, Options(), study) == (study.measures, of_study)
    assert asked(named, Options(), study) == (named, of_study)
    assert asked(named, given, study) == (named, given)
    assert asked(None, given, study) == (study.measures, given)
    assert asked(None, Options(), None) == (DEFAULT_MEASURES, Options())
    assert asked(named, given, None) == (named, given)
