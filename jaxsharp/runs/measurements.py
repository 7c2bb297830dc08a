"""What was measured of a run, row by row with checksums: at its end, and at checkpoints before.

Rows that are damaged are left out, with a warning, and measured again.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from jaxsharp.core.choices import is_a, plain, shown
from jaxsharp.runs import files
from jaxsharp.runs.claims import MOST_NAMED, RunError, Warn, print_warning
from jaxsharp.runs.columns import COLUMNS, EPOCH, MEASUREMENTS, SHARPNESS, epoch_name


def write_sharpness(path: Path, table: pd.DataFrame) -> None:
    """Write the measurements of a run, with the columns of `SHARPNESS`."""
    write_measurements(path / "sharpness.csv", table)


def write_measurements(file: Path, table: pd.DataFrame) -> None:
    """Write one of `MEASUREMENTS`."""
    columns = MEASUREMENTS[file.name]
    rows = zip(*(table[name].map(kind) for name, kind in columns.items()), strict=True)
    files.write_rows(file, tuple(columns), rows)


def read_sharpness(path: Path, warn: Warn = print_warning) -> pd.DataFrame:
    """Measurements of a run so far, with the columns of `SHARPNESS`.

    Rows that are damaged, or have the columns of an older version, are left out, and ``warn`` gets
    a line that names them. Raises RunError for one that is intact and no measurement.
    """
    return read_measurements(path / "sharpness.csv", warn)


def read_checkpoint_sharpness(path: Path, warn: Warn = print_warning) -> pd.DataFrame:
    """Measurements of a run before its end, with the columns of `EARLIER`; else the same."""
    return read_measurements(path / "checkpoint_sharpness.csv", warn)


def read_measurements(file: Path, warn: Warn = print_warning) -> pd.DataFrame:
    """What one of `MEASUREMENTS` holds, see ``read_sharpness``."""
    columns, rows, damaged = MEASUREMENTS[file.name], [], []
    if file.is_file():
        rows, damaged = files.read_rows(file, tuple(columns))
    if damaged:
        names = ", ".join(map(shown, damaged[:MOST_NAMED]))
        what = "is damaged, or of an older version,"
        warn(f"{file} {what} at {names}; what is left out is measured again when asked for")
    found = [measurement(file, cells) for cells in rows]
    names = [tuple(cells[: len(columns) - len(SHARPNESS) + 2]) for cells in found]
    if len(set(names)) < len(names):
        twice = ", ".join(name for *_, name, _ in names)
        raise RunError(f"{file} has a measure twice with the same settings: {twice}")
    return pd.DataFrame(found, columns=list(columns)).astype(columns)


def is_of(measures: Mapping[str, str | None], name: str, settings: str) -> bool:
    """Whether a measurement is of these measures and their settings; None stands for any."""
    return name in measures and measures[name] in (None, settings)


def forget(path: Path, wanted: Mapping[str, str]) -> dict[str, str]:
    """Remove the measurements of a run whose settings are not those wanted of their measures.

    At its end and before; measures that are not named are left. The settings that were removed.
    """
    removed: dict[str, str] = {}
    for name in MEASUREMENTS:
        table = read_measurements(path / name)
        pairs = zip(table["measure"], table["settings"], strict=True)
        stale = {m: s for m, s in pairs if m in wanted and not is_of(wanted, m, s)}
        if stale:
            write_measurements(path / name, table[~table["measure"].isin(list(stale))])
        removed |= stale
    return removed


def measurement(file: Path, cells: list[str]) -> list:
    """A row of `MEASUREMENTS` as values; RunError for one that no measure can have."""
    columns = MEASUREMENTS[file.name]
    try:
        found = [kind(cell) for kind, cell in zip(columns.values(), cells, strict=True)]
    except ValueError:
        raise RunError(
            f"{file} has the row {shown(cells)}; it must have {', '.join(columns)}"
        ) from None
    row = dict(zip(columns, found, strict=True))
    if not EPOCH.fullmatch(row.get("checkpoint", epoch_name(0))):
        raise RunError(f"{file} has the checkpoint {shown(cells[0])}; it must be as epoch_0050")
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
