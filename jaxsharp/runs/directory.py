"""Run directories: what is on disk of a run or a study, and how what is damaged is noticed.

RUN/config.json              the run's configuration, with a checksum
RUN/checkpoints/epoch_0050   state, history and fingerprint after 50 epochs (``checkpoint``)
RUN/checkpoints/converged    state and history at the end of a run that converged (or: diverged)
RUN/history.csv              loss and accuracy on both splits after every epoch, a copy
RUN/sharpness.csv            a row a measure and its settings: `SHARPNESS`, checksum of the row

Training is deterministic, so whatever is damaged is left out, with a warning, and made again.
"""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jax.typing import ArrayLike

from jaxsharp.core.choices import is_a, plain, shown
from jaxsharp.runs import checkpoint, files, fingerprint
from jaxsharp.runs.claims import (
    ELSEWHERE,
    MOST_NAMED,
    RunError,
    Warn,
    print_warning,
)
from jaxsharp.runs.fingerprint import Fingerprint
from jaxsharp.training.epochs import TrainState

HISTORY = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
SHARPNESS = {
    "measure": str,
    "settings": str,
    "value": float,
    "error": float,
    "error_kind": str,
    "finished": int,  # 1 or 0, as exact: bool("False") is true
    "cost": int,
    "cost_unit": str,
    "examples": int,
    "directions": int,
    "exact": int,
}
ENDS = ("converged", "diverged")
VARIED = (
    *("rho", "momentum", "weight_decay", "decoupled_weight_decay"),
    *("learning_rate", "batch_size", "label_noise"),
)
# Names that no measure may have.
COLUMNS = (
    *(
        "dataset",
        "model",
        "optimizer",
        "sam",
        "average",
        "compute",
        *VARIED,
        "seed",
        "epochs",
        *ENDS,
    ),
    *(*HISTORY[1:], "gap", "loss_gap"),
)
EPOCH = re.compile(r"epoch_[0-9]{4,9}")


class End(NamedTuple):
    """What of a `TrainState` a checkpoint is named after."""

    epoch: ArrayLike
    converged: ArrayLike
    diverged: ArrayLike


def save(path: Path, state: TrainState, history: pd.DataFrame, made_from: Fingerprint) -> None:
    """Save the training state of a run, its history and what it is made from, in one step."""
    name = epoch_name(int(state.epoch))
    if state.converged or state.diverged:
        name = "converged" if state.converged else "diverged"
    target, text = path / "checkpoints" / name, history.to_csv(index=False)
    if not target.exists():
        texts = {"history.csv": text, fingerprint.FILE: made_from.text}
        checkpoint.save(target, state, texts)
    files.write_text(path / "history.csv", text, durable=False)  # `load` makes the copy again


def checkpoints(path: Path) -> list[Path]:
    """Checkpoints of a run, the one to continue from first: its end, then the latest epoch."""
    folder = path / "checkpoints"
    ends = [folder / name for name in ENDS if (folder / name).is_dir()]
    epochs = [p for p in folder.glob("epoch_*") if EPOCH.fullmatch(p.name) and p.is_dir()]
    return ends + sorted(epochs, key=lambda p: int(p.name[6:]), reverse=True)


def latest_checkpoint(path: Path) -> Path | None:
    """The checkpoint to continue a run from, not yet read."""
    return next(iter(checkpoints(path)), None)


def check_origin(path: Path, made_from: Fingerprint, advice: str = ELSEWHERE) -> None:
    """Raise RunError if the newest intact checkpoint of a run was made from something else.

    So it is too for a history or measurements that are intact and none.
    """
    read_sharpness(path, lambda text: None)
    for saved in checkpoints(path):
        try:
            found = fingerprint.read(saved, advice)
            fingerprint.compare(saved, found, made_from, advice=advice)
            parse_history(checkpoint.read_text(saved, "history.csv"), saved)
        except checkpoint.DamagedError:
            continue
        break


def load(
    path: Path, like: TrainState, made_from: Fingerprint, warn: Warn = print_warning
) -> tuple[TrainState, pd.DataFrame] | None:
    """Training state and history of the newest intact checkpoint of a run, None if it has none.

    A damaged one is renamed, and ``warn`` gets a line that names it. Without one, nothing says what
    measurements were taken of: they are renamed too. Raises ValueError for an intact one of other
    data, another network or optimizer.
    """

    def mend(latest: Path, error: checkpoint.DamagedError) -> None:
        aside = files.set_aside(latest)
        before = latest_checkpoint(path)
        start = "the start" if before is None else before.name
        warn(f"{error}; it is now {aside.name}, and training continues from {start}")

    if (found := newest_state(path, like, made_from, mend)) is not None:
        state, text, history = found
        copy = path / "history.csv"
        if not files.holds(copy, text):
            files.write_text(copy, text)
        return state, history
    if (path / "sharpness.csv").is_file():
        aside = files.set_aside(path / "sharpness.csv")
        warn(f"{path} has measurements and no checkpoint; they are now in {aside.name}")
    return None


def newest_state(
    path: Path,
    like: TrainState,
    made_from: Fingerprint,
    damaged: Callable[[Path, checkpoint.DamagedError], Any],
) -> tuple[TrainState, str, pd.DataFrame] | None:
    """State and history, also as text, of the newest intact checkpoint; ``damaged`` gets others."""
    for latest in checkpoints(path):
        try:
            fingerprint.compare(latest, fingerprint.read(latest), made_from)
            state = checkpoint.load(latest, like)
            text = checkpoint.read_text(latest, "history.csv")
        except checkpoint.DamagedError as error:
            damaged(latest, error)
            continue
        history = parse_history(text, latest)
        check_end(latest, End(state.epoch, state.converged, state.diverged), len(history))
        return state, text, history
    return None


def check_end(saved: Path, end: End, epochs: int) -> None:
    """Raise RunError unless a checkpoint is the end that its name says, after so many epochs."""
    names = [name for name in ENDS if getattr(end, name)] or [epoch_name(epochs)]
    if int(end.epoch) != epochs or names != [saved.name]:
        raise RunError(
            f"checkpoint {saved} holds {' and '.join(names)} after {int(end.epoch)} epochs, and a "
            f"history of {epochs}; both must be what its name says"
        )


def check_whole(saved: Path) -> None:
    """Raise ValueError unless a checkpoint is as it was written, and the end that its name says."""
    shapes = End(*(jax.ShapeDtypeStruct((), kind) for kind in (np.int32, np.bool, np.bool)))
    end = checkpoint.load(saved, shapes)
    check_end(saved, end, len(parse_history(checkpoint.read_text(saved, "history.csv"), saved)))


def epoch_name(epochs: int) -> str:
    """Name of the checkpoint after so many epochs."""
    return f"epoch_{epochs:04d}"


def read_history(path: Path) -> pd.DataFrame:
    """Metrics after every epoch of a run, see ``newest_history``."""
    return newest_history(path)[1]


def newest_history(path: Path) -> tuple[Path, pd.DataFrame]:
    """The newest checkpoint whose history is intact, and that; RunError if there is none.

    The arrays beside it are not read, let alone checked: that is for ``load``.
    """
    for saved in checkpoints(path):
        try:
            return saved, parse_history(checkpoint.read_text(saved, "history.csv"), saved)
        except checkpoint.DamagedError:
            continue
    raise RunError(f"{path} has no intact checkpoint yet; train the run first")


def parse_history(text: str, saved: Path) -> pd.DataFrame:
    """The table that the history of a checkpoint was written from; RunError if it is none."""
    try:
        table = pd.read_csv(io.StringIO(text))
    except ValueError:
        table = pd.DataFrame()
    numbers = all(kind.kind in "if" for kind in table.dtypes)
    epochs = range(1, len(table) + 1)
    named = saved.name in (epoch_name(len(table)), *ENDS)
    valid = tuple(table) == HISTORY and numbers and list(table["epoch"]) == list(epochs)
    if not (valid and epochs and named):
        raise RunError(
            f"{saved / 'history.csv'} is no history: it must have the columns {', '.join(HISTORY)} "
            "with numbers, and a row for each epoch from 1 to that of its checkpoint"
        )
    return table


def is_trained(path: Path, epochs: int) -> bool:
    """Whether the newest checkpoint of a run, which is not read, is its end by ``epochs``."""
    latest = latest_checkpoint(path)
    return latest is not None and (latest.name in ENDS or int(latest.name[6:]) >= epochs)


def write_sharpness(path: Path, table: pd.DataFrame) -> None:
    """Write the measurements of a run, with the columns of `SHARPNESS`."""
    rows = zip(*(table[name].map(kind) for name, kind in SHARPNESS.items()), strict=True)
    files.write_rows(path / "sharpness.csv", tuple(SHARPNESS), rows)


def read_sharpness(path: Path, warn: Warn = print_warning) -> pd.DataFrame:
    """Measurements of a run so far, with the columns of `SHARPNESS`.

    Rows that are damaged, or have the columns of an older version, are left out, and ``warn`` gets
    a line that names them. Raises RunError for one that is intact and no measurement.
    """
    file, rows, damaged = path / "sharpness.csv", [], []
    if file.is_file():
        rows, damaged = files.read_rows(file, tuple(SHARPNESS))
    if damaged:
        names = ", ".join(map(shown, damaged[:MOST_NAMED]))
        what = "is damaged, or of an older version,"
        warn(f"{file} {what} at {names}; what is left out is measured again when asked for")
    found = [measurement(file, cells) for cells in rows]
    names = [tuple(cells[:2]) for cells in found]
    if len(set(names)) < len(names):
        twice = ", ".join(name for name, _ in names)
        raise RunError(f"{file} has a measure twice with the same settings: {twice}")
    return pd.DataFrame(found, columns=list(SHARPNESS)).astype(SHARPNESS)


def measurement(file: Path, cells: list[str]) -> list:
    """A row of sharpness.csv as values; RunError for one that no measure can have."""
    try:
        found = [kind(cell) for kind, cell in zip(SHARPNESS.values(), cells, strict=True)]
    except ValueError:
        raise RunError(
            f"{file} has the row {shown(cells)}; it must have {', '.join(SHARPNESS)}"
        ) from None
    row = dict(zip(SHARPNESS, found, strict=True))
    measure = row["measure"]
    if measure in COLUMNS:
        raise RunError(f"{file} has the measure {measure}, which is a column of tables")
    try:
        plain("measure", measure)
    except ValueError as reason:
        raise RunError(f"{file}: {reason}") from None
    texts = all(is_a(row[name], str) for name in ("settings", "error_kind", "cost_unit"))
    flags = all(row[name] in (0, 1) for name in ("finished", "exact"))
    counts = all(row[name] >= 0 for name in ("cost", "examples", "directions"))
    if row["error"] < 0 or not (texts and flags and counts):
        valid = "its error and counts must be at least 0, finished and exact 0 or 1"
        raise RunError(f"{file} has the row {shown(cells)}; {valid}")
    return found
