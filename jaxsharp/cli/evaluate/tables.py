"""Tables of runs, ours or anybody's, and what their columns are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxsharp.analysis.evaluation.samples import numbered
from jaxsharp.core.choices import known, known_list, shown
from jaxsharp.runs import files
from jaxsharp.runs.columns import VARIED
from jaxsharp.runs.tables import EXACT, NUMBER, WHOLE, parse_csv

CHECKPOINTS = "checkpoints.csv"
GAPS = ("gap", "loss_gap")
HYPER = ("dataset", "model", "optimizer", "sam", "average", *VARIED)
SEED, CONVERGED, LOSS = "seed", "converged", "train_loss"


def read_table(path: Path) -> pd.DataFrame:
    """The runs of a study, or of a CSV file; ValueError for what is no table."""
    file = path / "runs.csv" if path.is_dir() else path
    if not file.is_file():
        what = "holds no runs.csv" if path.is_dir() else "is no file"
        raise ValueError(f"{path} {what}; give the folder of a study, or a CSV file")
    try:
        table = parse_csv(files.read_bytes(file))
    except ValueError as error:
        raise ValueError(f"{file} is no CSV table: {' '.join(str(error).split())}") from None
    if not len(table):
        raise ValueError(f"{file} has no rows; it must have one a run")
    return table


def joined(tables: dict[Path, pd.DataFrame]) -> pd.DataFrame:
    """Tables of equal columns one below the other.

    A column of numbers in one and of texts in another, such as auto, has numbers where both do.
    """
    (first, wanted), *others = tables.items()
    for path, table in others:
        if different := set(wanted.columns) ^ set(table.columns):
            raise ValueError(
                f"{first} and {path} differ in the column {shown(min(different))}; tables that are "
                "joined must have the same"
            )
    table = pd.concat(tables.values(), ignore_index=True)
    for name in table:
        filled = [each[name].dropna() for each in tables.values() if each[name].notna().any()]
        if len({pd.api.types.is_numeric_dtype(column) for column in filled}) > 1:
            table[name] = pd.Series([as_number(cell) for cell in table[name]], dtype=object)
    return table


def as_number(cell: Any) -> Any:
    """A text that is a number as that, and anything else as it is."""
    return float(cell) if isinstance(cell, str) and NUMBER.fullmatch(cell) else cell


def rows_where(runs: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The rows with one of the values of each condition COLUMN=VALUE,VALUE; nan is an empty cell.

    ValueError for another form, a value that no row has, and conditions that no row fulfils.
    """
    kept = np.ones(len(runs), dtype=bool)
    for condition in conditions:
        name, equals, values = condition.partition("=")
        if not equals:
            raise ValueError(f"where is {shown(condition)}; it must be COLUMN=VALUE,VALUE")
        column = runs[known("column", name.strip(), map(str, runs.columns))]
        cells = np.array([as_cell(cell) for cell in column])
        wanted = known_list(f"{name} in where", values, dict.fromkeys(cells), as_cell)
        kept &= np.isin(cells, wanted)
    if not kept.any():
        raise ValueError(f"where is {shown(' '.join(conditions))}; no row has all of that")
    return runs[kept].reset_index(drop=True)


def as_cell(value: Any) -> str:
    """A value as text: equal numbers are equal texts, however they are written."""
    whole = isinstance(value, int | np.integer) or (
        isinstance(value, str) and WHOLE.fullmatch(value) is not None
    )
    if isinstance(value, bool | np.bool_) or (whole and abs(int(value)) > EXACT):
        return str(value).removeprefix("+")
    try:
        return repr(float(value))
    except ValueError:
        return str(value)


def check_one_row_a_run(runs: pd.DataFrame, converged: str | None) -> None:
    """Raise ValueError where several checkpoints of a run enter, which are no runs of their own."""
    entering = runs[~runs[converged].isin([False])] if converged in runs else runs
    keys = [name for name in (*HYPER, SEED) if name in runs]
    if "checkpoint" in runs and keys and entering.duplicated(keys).any():
        what = "several checkpoints of a run; give the folder of the study, or choose rows"
        raise ValueError(f"the table has {what}, as with --where first_below_0.3=True")


def measures_of(runs: pd.DataFrame) -> Sequence[str]:
    """The measures of a study that are known of any run: columns with an error beside them."""
    named = [name for name in runs if f"{name}_error" in runs]
    found = [name for name in named if runs[name].notna().any()]
    if not found:
        raise ValueError("no column has an error beside it; name the measures with --measures")
    return found


def gap_of(runs: pd.DataFrame) -> str:
    """The gap that a study compares measures with."""
    for name in GAPS:
        if name in runs and runs[name].notna().any():
            return name
    raise ValueError("the table has no column gap; name what is to be predicted with --target")


def hyper_of(runs: pd.DataFrame) -> Sequence[str]:
    """The hyper-parameters of a study that vary by themselves: no others determine them."""
    found: list[str] = []
    for name in HYPER:
        if name in runs and numbered(runs, [*found, name]).max() > numbered(runs, found).max():
            found.append(name)
    if not found:
        raise ValueError("no column is a hyper-parameter that varies; name some with --hyper")
    return found
