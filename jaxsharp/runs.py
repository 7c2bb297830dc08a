"""Run directories: what is on disk of a run or a study, and how what is damaged is noticed.

RUN/config.json              the run's configuration, with a checksum
RUN/checkpoints/epoch_0050   state and history after 50 epochs (``checkpoint``)
RUN/checkpoints/converged    state and history at the end of a run that converged (or: diverged)
RUN/history.csv              loss and accuracy on both splits after every epoch, a copy
RUN/sharpness.csv            measure, settings, value, error, checksum of the row

Training is deterministic, so whatever is damaged is left out, with a warning, and made again.
"""

import hashlib
import io
import itertools
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from jaxsharp import checkpoint, files
from jaxsharp.config import RunConfig, Settings
from jaxsharp.train import TrainState

HISTORY = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
SHARPNESS = {"measure": str, "settings": str, "value": float, "error": float}
VARIED = ("rho", "momentum", "weight_decay", "learning_rate", "batch_size", "label_noise")
ENDS = ("converged", "diverged")
Warn = Callable[[str], Any]


class RunError(ValueError):
    """A run directory that cannot be used as asked; the message is one line."""


def print_warning(text: str) -> None:
    """Tell the user of something that was mended."""
    print(f"jaxsharp: warning: {text}", file=sys.stderr)


@contextmanager
def claimed(path: Path, config: dict[str, Any], *, fresh: bool = False) -> Iterator[None]:
    """``claim`` a directory and keep other processes out of it while a block runs.

    A directory that is refused is left without a lock file. Raises files.InUseError too.
    """
    is_claimed(path, config, fresh=fresh)
    with files.lock(path):
        claim(path, config, fresh=fresh)
        yield


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


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Write config.json into a directory, made if there is none."""
    path.mkdir(parents=True, exist_ok=True)
    config = json.loads(json.dumps(config))
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
    try:
        intact = file.exists() and bool(read_config(path))
    except RunError:
        intact = False
    if not intact and path.is_dir() and any(path.iterdir()):
        warn(f"{file} is missing or damaged; it is written anew")
        write_config(path, asdict(config))
    claim_run(path, config)


def is_claimed(path: Path, config: dict[str, Any], *, fresh: bool = False) -> bool:
    """Whether ``path`` holds the run or study of ``config``, any run or study if ``fresh``.

    False if it is empty or absent; RunError if it holds anything else.
    """
    file = path / "config.json"
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; the output must be a directory")
    if not file.exists():
        own = (files.TEMPORARY, files.LOCK)  # as a process leaves them that was killed here
        if path.exists() and any(not p.name.startswith(own) for p in path.iterdir()):
            raise RunError(f"{path} holds files but no config.json; choose an empty directory")
        return False
    if not {"dataset", "model", "settings"} <= set(parse_config(file)):
        raise RunError(f"{file} is not that of a run or study; choose another directory")
    if fresh:
        return True
    if changes := differences(read_config(path), json.loads(json.dumps(config))):
        raise RunError(
            f"{path} holds another configuration ({changes}); "
            "choose another directory, or start over with --fresh"
        )
    return True


def clear(path: Path) -> None:
    """Empty a run or study, what says that it is one at the very last, and its lock never."""
    for each in sorted(path.iterdir(), key=lambda each: each.name == "config.json"):
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        elif each.name not in (files.LOCK, files.HOLDER):
            each.unlink()


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The fields in which two configurations differ, in words; empty if there are none."""
    found, wanted = flat(found), flat(wanted)
    differing = [k for k in {**found, **wanted} if found.get(k) != wanted.get(k)]
    return ", ".join(f"{k} {found.get(k)!r} -> {wanted.get(k)!r}" for k in differing)


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the fields of nested ones beside its own."""
    parts = ({k: v} if not isinstance(v, dict) else flat(v) for k, v in config.items())
    return {k: v for part in parts for k, v in part.items()}


def checksum(config: dict[str, Any]) -> str:
    """SHA-256 of a configuration as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def read_config(path: Path) -> dict[str, Any]:
    """Configuration of a run or study directory; RunError if it is none, or was damaged.

    One without a checksum, of an older version, is taken as it is.
    """
    file = path / "config.json"
    if not file.is_file():
        raise RunError(f"{path} is no run directory: it has no config.json")
    found = parse_config(file)
    if found.pop("checksum", checksum(found)) != checksum(found):
        raise RunError(
            f"{file} is damaged: its checksum does not fit; "
            f"delete {path} and give the same command again, or start over with --fresh"
        )
    return found


def parse_config(file: Path) -> dict[str, Any]:
    """What a config.json holds; RunError if that is no configuration at all."""
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise RunError(
            f"{file} is not valid JSON: {error}; if {file.parent} is a run or study, delete it"
        ) from error
    if not isinstance(found, dict):
        raise RunError(f"{file} is not that of a run or study; choose another directory")
    return found


def read_run_config(path: Path) -> RunConfig:
    """Configuration of a single run; RunError if the directory holds something else."""
    found = read_config(path)
    try:
        return RunConfig(**{**found, "settings": Settings(**found["settings"])})
    except (KeyError, TypeError):
        raise RunError(
            f"{path} is not the directory of a single run (those of a study are in its runs folder)"
        ) from None
    except ValueError as error:
        raise RunError(f"{path / 'config.json'}: {error}") from None


def save(path: Path, state: TrainState, history: pd.DataFrame) -> None:
    """Save the training state of a run and the history that belongs to it, in one step."""
    name = f"epoch_{int(state.epoch):04d}"
    if state.converged or state.diverged:
        name = "converged" if state.converged else "diverged"
    target, text = path / "checkpoints" / name, history.to_csv(index=False)
    if not target.exists():
        checkpoint.save(target, state, {"history.csv": text})
    files.write_text(path / "history.csv", text)


def checkpoints(path: Path) -> list[Path]:
    """Checkpoints of a run, the one to continue from first: its end, then the latest epoch."""
    folder = path / "checkpoints"
    ends = [folder / name for name in ENDS if (folder / name).is_dir()]
    epochs = [p for p in folder.glob("epoch_*") if p.name[6:].isdecimal()]  # no unfinished ones
    return ends + sorted(epochs, key=lambda p: int(p.name[6:]), reverse=True)


def latest_checkpoint(path: Path) -> Path | None:
    """The checkpoint to continue a run from, not yet read."""
    return next(iter(checkpoints(path)), None)


def load(
    path: Path, like: TrainState, warn: Warn = print_warning
) -> tuple[TrainState, pd.DataFrame] | None:
    """Training state and history of the newest intact checkpoint of a run, None if it has none.

    A damaged one is renamed, and ``warn`` gets a line that names it. Raises ValueError for an
    intact one of another network or optimizer.
    """
    for latest in checkpoints(path):
        try:
            state = checkpoint.load(latest, like)
            text = checkpoint.read_text(latest, "history.csv")
        except checkpoint.DamagedError as error:
            aside = set_aside(latest)
            before = latest_checkpoint(path)
            start = "the start" if before is None else before.name
            warn(f"{error}; it is now {aside.name}, and training continues from {start}")
            continue
        copy = path / "history.csv"
        if not copy.is_file() or copy.read_bytes() != text.encode():
            files.write_text(copy, text)
        return state, parse_history(text)
    return None


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint so that nothing takes it for one; the new path."""
    for number in itertools.count(1):
        aside = path.with_name(f"damaged-{path.name}" + (f"-{number}" if number > 1 else ""))
        if not aside.exists():
            return path.rename(aside)


def read_history(path: Path) -> pd.DataFrame:
    """Metrics after every epoch of a run, see ``newest_history``."""
    return newest_history(path)[1]


def newest_history(path: Path) -> tuple[Path, pd.DataFrame]:
    """The newest checkpoint whose history is intact, and that; RunError if there is none.

    The arrays beside it are not read, let alone checked: that is for ``load``.
    """
    for saved in checkpoints(path):
        try:
            return saved, parse_history(checkpoint.read_text(saved, "history.csv"))
        except checkpoint.DamagedError:
            continue
    raise RunError(f"{path} has no intact checkpoint yet; train the run first")


def parse_history(text: str) -> pd.DataFrame:
    """The table that a history was written from."""
    return pd.read_csv(io.StringIO(text))


def is_trained(path: Path, epochs: int) -> bool:
    """Whether the newest checkpoint of a run, which is not read, is its end by ``epochs``."""
    latest = latest_checkpoint(path)
    return latest is not None and (latest.name in ENDS or int(latest.name[6:]) >= epochs)


def write_sharpness(path: Path, table: pd.DataFrame) -> None:
    """Write the measurements of a run: measure, settings, value, error."""
    rows = zip(*(table[name].map(kind) for name, kind in SHARPNESS.items()), strict=True)
    files.write_rows(path / "sharpness.csv", tuple(SHARPNESS), rows)


def read_sharpness(path: Path, warn: Warn = print_warning) -> pd.DataFrame:
    """Measurements of a run so far: measure, settings, value, error.

    Rows that are damaged are left out, and ``warn`` gets a line that names them.
    """
    file, rows, damaged = path / "sharpness.csv", [], []
    if file.is_file():
        rows, damaged = files.read_rows(file, tuple(SHARPNESS))
    if damaged:
        names = ", ".join(map(repr, damaged))
        warn(f"{file} is damaged at {names}; what is left out is measured again when asked for")
    return pd.DataFrame(rows, columns=list(SHARPNESS)).astype(SHARPNESS)


def row(path: Path) -> dict[str, Any]:
    """One row of runs.csv: configuration, end of training, and each measure with its error."""
    config = read_run_config(path)
    end, history = newest_history(path)
    last = history.iloc[-1]
    metrics = {name: float(last[name]) for name in HISTORY[1:]}
    varied = {name: getattr(config.settings, name) for name in VARIED}
    table = {
        **{k: getattr(config, k) for k in ("dataset", "model", "optimizer", "sam")},
        **{name: math.nan if value is None else value for name, value in varied.items()},
        "seed": config.seed,
        "epochs": int(last["epoch"]),
        **{name: end.name == name for name in ENDS},
        **metrics,
        "gap": 100 * (metrics["train_accuracy"] - metrics["test_accuracy"]),
        "loss_gap": metrics["train_loss"] - metrics["test_loss"],
    }
    for record in read_sharpness(path).itertuples():
        table[record.measure] = record.value
        table[f"{record.measure}_error"] = record.error
    return table
