"""Whose a directory is: of a run or of a study, as its config.json says, with a checksum."""

import contextlib
import functools
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxsharp.core.choices import checked, construct, shown
from jaxsharp.runs import checkpoint, files
from jaxsharp.runs.config import RunConfig
from jaxsharp.runs.growth import is_before

Warn = Callable[[str], Any]
MOST_NAMED = 20
SHARED = ("dataset", "model", "settings")
CONFIGURATION = "configuration.json"  # of a run, in each of its checkpoints
PREREGISTRATION = "preregistration"  # in a study's config.json, beside what decides its numbers
KINDS = {"run": "seed", "study": "seeds"}  # by the field that the other one has not
ELSEWHERE = "choose another directory (--out); --fresh would delete what is there"


class RunError(ValueError):
    """A run directory that cannot be used as asked; the message is one line."""


class DamagedConfigError(RunError):
    """A config.json that is not as it was written."""


def print_warning(text: str) -> None:
    """Tell the user of something that was mended."""
    print(f"jaxsharp: warning: {text}", file=sys.stderr)


@functools.cache
def warn_once(text: str) -> None:
    """``print_warning``, but for what was said before."""
    print_warning(text)


@contextmanager
def claimed(
    path: Path, config: dict[str, Any], *, fresh: bool = False, advice: str = ELSEWHERE
) -> Iterator[None]:
    """``claim`` a directory and keep other processes out of it while a block runs.

    A directory that is refused is left without a lock file. Raises files.InUseError too, and
    files.ForeignError for one that holds links (with ``fresh`` they are removed unfollowed).
    """
    check_outside(path)
    if not fresh:
        files.check_tree(path)
    is_claimed(path, config, fresh=fresh, advice=advice)
    with files.lock(path):
        claim(path, config, fresh=fresh)
        yield


def check_outside(path: Path) -> None:
    """Raise RunError for an output that would be inside of a run, a study or a checkpoint."""
    for folder in path.resolve().parents:
        if all((folder / name).is_file() for name in (checkpoint.SUMS, checkpoint.ARRAYS)):
            what = "checkpoint"
        elif (found := kind(folder)) is not None:
            what = found
        else:
            continue
        raise RunError(f"{path} is inside of the {what} {folder}; choose a place outside of it")


def kind(path: Path) -> str | None:
    """What a folder's config.json says that it is, "run" or "study"; None for anything else."""
    try:
        found = parse_config(path / "config.json")
    except (OSError, RunError):
        return None
    return next((what for what, name in KINDS.items() if {*SHARED, name} <= set(found)), None)


def claim(path: Path, config: dict[str, Any], *, fresh: bool = False) -> None:
    """Make ``path`` the directory of ``config``, or check that it already is.

    With ``fresh``, a directory that holds a run or study is emptied first. Raises RunError, and
    leaves everything as it is, for a directory of another configuration (naming the fields that
    differ) and for one that is not empty and holds neither run nor study.
    """
    if is_claimed(path, config, fresh=fresh):
        if not fresh:
            return
        clear(path)
    write_config(path, config)


def write_config(
    path: Path, config: dict[str, Any], preregistration: dict[str, Any] | None = None
) -> None:
    """Write config.json into a directory, made if there is none."""
    path.mkdir(parents=True, exist_ok=True)
    more = {} if preregistration is None else {PREREGISTRATION: preregistration}
    config = json.loads(json.dumps(config | more))
    text = json.dumps({**config, "checksum": checksum(config)}, indent=2)
    files.write_text(path / "config.json", text + "\n")


def claim_run(path: Path, config: RunConfig, *, fresh: bool = False) -> None:
    """``claim`` for a single run."""
    claim(path, asdict(config), fresh=fresh)


def keep_run(path: Path, config: RunConfig, warn: Warn = print_warning) -> None:
    """``claim_run`` in the folder of a study, where a name stands for one configuration.

    So a config.json that is missing or damaged is written anew, and ``warn`` gets a line on it.
    """
    file = path / "config.json"
    files.check_tree(path)
    try:
        intact = file.exists() and bool(read_config(path))
    except RunError:
        intact = False
    if not intact and path.is_dir() and not is_empty(path):
        warn(f"{file} is missing or damaged; it is written anew")
        write_config(path, asdict(config))
    claim_run(path, config)


def keep_study(
    path: Path, config: dict[str, Any], runs: Iterable[RunConfig], warn: Warn = print_warning
) -> None:
    """Write a study's config.json anew if it is missing or damaged, and its runs are there.

    ``runs`` are those that ``config`` has, some of which may be there with fewer epochs. ``warn``
    gets a line on what is written. Raises RunError if a run that is there is none of them: then it
    was another study.
    """
    file, members = path / "config.json", {run.name: run for run in runs}
    files.check_tree(path)
    if file.exists():
        with contextlib.suppress(DamagedConfigError):
            read_config(path)
            return
    found = {}
    for run in sorted(path.glob("runs/[!.]*/config.json")):
        with contextlib.suppress(DamagedConfigError):
            found[run.parent.name] = read_config(run.parent)
    for name, run in found.items():
        if name not in members or not is_before(run, members[name]):
            raise RunError(
                f"{file} is missing or damaged, and {path / 'runs' / name} is no run of the study "
                "that is asked for; give the command that made it, or choose another directory"
            )
    if found:
        with files.lock(path):
            what = f"damaged, and now {files.set_aside(file).name}" if file.exists() else "missing"
            write_config(path, config)
        warn(f"{file} is {what}; it is written anew, as the runs agree with what is asked for")


def is_empty(path: Path) -> bool:
    """Whether a folder holds nothing, but for what processes, systems and editors leave in it."""
    return all(p.name.startswith(files.OWN) or files.is_foreign(p.name) for p in path.iterdir())


def is_claimed(
    path: Path, config: dict[str, Any], *, fresh: bool = False, advice: str = ELSEWHERE
) -> bool:
    """Whether ``path`` holds the run or study of ``config``, any run or study if ``fresh``.

    False if it is empty or absent; RunError, which ends with the ``advice``, for another one or if
    it holds anything else.
    """
    file = path / "config.json"
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; the output must be a directory")
    if not file.exists():
        if path.exists() and not is_empty(path):
            raise RunError(f"{path} holds files but no config.json; choose an empty directory")
        return False
    if not {*SHARED} <= set(parse_config(file)):
        raise RunError(f"{file} is not that of a run or study; choose another directory")
    if fresh:
        return True
    if changes := differences(read_config(path), json.loads(json.dumps(config))):
        raise RunError(f"{path} holds another configuration ({changes}); {advice}")
    return True


def clear(path: Path) -> None:
    """Empty a run or study, what says that it is one at the very last, and its lock never.

    Nor what systems and editors left, or a version control.
    """
    for each in sorted(path.iterdir(), key=lambda each: each.name == "config.json"):
        if files.is_foreign(each.name):
            continue
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        elif each.name not in (files.LOCK, files.HOLDER):
            each.unlink()


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The fields in which two configurations differ, in words; empty if there are none."""
    changes = list(changed_fields(found, wanted))
    left = f", and {len(changes) - MOST_NAMED} more" if len(changes) > MOST_NAMED else ""
    return ", ".join(changes[:MOST_NAMED]) + left


def changed_fields(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    """Each field that differs, those of nested configurations too, with both values."""
    for name in {**found, **wanted}:
        one, other = found.get(name), wanted.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from changed_fields(one, other)
        elif not same(one, other):
            field = name if name in wanted else shown(name)
            yield f"{field} {shown(one)} -> {shown(other)}"


def same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are equal, where a truth value is no number."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def checksum(config: dict[str, Any]) -> str:
    """SHA-256 of a configuration as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def read_config(path: Path) -> dict[str, Any]:
    """Configuration of a run or study directory; RunError if it is none, or was damaged.

    Without what a study registers. One without a checksum, of an older version, is taken as it is.
    """
    file = path / "config.json"
    if not file.is_file():
        left = any(path.glob(f"checkpoints/*/{CONFIGURATION}"))
        advice = f"; {mending(path)}" if left else ""
        raise RunError(f"{path} is no run directory: it has no config.json{advice}")
    found = parse_config(file)
    if found.pop("checksum", checksum(found)) != checksum(found):
        raise DamagedConfigError(f"{file} is damaged: its checksum does not fit; {mending(path)}")
    found.pop(PREREGISTRATION, None)
    return found


def mending(path: Path) -> str:
    """How to go on with a directory whose config.json is damaged."""
    if any(path.glob("runs/*/config.json")):
        return "the command that made the study writes it anew"
    if kind(path.parent.parent) == "study":
        return f"the command that made {path.parent.parent} writes it anew"
    if any(path.glob(f"checkpoints/*/{CONFIGURATION}")):
        return "the command that trained the run writes it anew"
    return "restore it, or choose another directory"


def parse_config(file: Path) -> dict[str, Any]:
    """What a config.json holds; RunError if that is no configuration at all."""
    try:
        found = files.read_json(file)
    except files.ForeignError as error:
        raise RunError(str(error)) from None
    except ValueError as error:
        reason = f"{file} is not valid JSON: {error}; {mending(file.parent)}"
        raise DamagedConfigError(reason) from error
    if not isinstance(found, dict):
        raise RunError(f"{file} is not that of a run or study; choose another directory")
    return found


def read_run_config(path: Path) -> RunConfig:
    """Configuration of a single run; RunError if the directory holds something else.

    Its names and numbers are checked, and the directory holds no links (`files.check_tree`).
    """
    files.check_tree(path)
    found = read_config(path)
    if "seed" not in found:
        raise RunError(
            f"{path} is not the directory of a single run (those of a study are in its runs folder)"
        )
    try:
        return checked(construct(RunConfig, found))
    except ValueError as error:
        raise RunError(f"{path / 'config.json'}: {error}") from None
