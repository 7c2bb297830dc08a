"""What tables have of a run: a row with its configuration, its end, and what was measured.

And how tables are read: ours, and those of the user's own.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from jaxsharp.core.choices import counted, shown
from jaxsharp.optimizers.registry import OPTIMIZERS
from jaxsharp.runs import losses
from jaxsharp.runs.claims import read_run_config
from jaxsharp.runs.columns import ENDS, HISTORY, SHARPNESS, VARIED, epoch_name
from jaxsharp.runs.config import Settings
from jaxsharp.runs.directory import newest_history
from jaxsharp.runs.measurements import is_of, read_checkpoint_sharpness, read_sharpness

NAN = frozenset(("nan", "NaN", "-nan", "-NaN", "1.#IND", "1.#QNAN", "-1.#IND", "-1.#QNAN"))
MISSING = NAN | {"", "NA", "N/A", "n/a", "#NA", "#N/A", "#N/A N/A", "<NA>", "null", "NULL", "None"}
"""What stands for no number, and no truth value."""
WHOLE, TRUTH = re.compile(r"[+-]?[0-9]{1,4000}"), re.compile(r"(?i:true|false)")
NUMBER = re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity)", re.IGNORECASE)
EXACT = 2**53  # whole numbers up to here are floats


def row(
    path: Path,
    measures: Mapping[str, str | None] | None = None,
    optimizers: Mapping[str, Callable] = OPTIMIZERS,
    *,
    epoch: int | None = None,
) -> dict[str, Any]:
    """One row of runs.csv: configuration, end of training, and the record of each measure.

    Hyper-parameters are those that the run used; NaN is one that its optimizer does not have, or
    that one which is not in ``optimizers`` takes by itself. Accuracies and the gaps are fractions,
    losses nats; gaps are positive where the training data look better: of accuracies training -
    test, of losses test - training. ``converged`` is None without a rule for it. ``measures`` are
    those of a study, with their settings; a run may have others, which its table leaves out.
    Without them, the latest record of each counts. A run that was not trained in float32 has a
    column ``compute``. With an ``epoch`` before the last it is the row of the checkpoint there,
    at which it had not converged.
    """
    config = read_run_config(path)
    end, history = newest_history(path)
    name, measured_then = end.name, read_sharpness(path)
    if epoch is not None and epoch < len(history):
        name, earlier = epoch_name(epoch), read_checkpoint_sharpness(path)
        history = history[:epoch]
        measured_then = earlier[earlier["checkpoint"] == name]
    last = history.iloc[-1]
    metrics = {name: float(last[name]) for name in HISTORY[1:]}
    used = {name: getattr(config.settings, name) for name in VARIED} | config.used(optimizers)
    ends: dict[str, bool | None] = {each: name == each for each in ENDS}
    if not config.settings.judged:
        ends["converged"] = None
    table = {
        **{k: getattr(config, k) for k in ("dataset", "model", "optimizer", "sam")},
        **{name: math.nan if value is None else value for name, value in used.items()},
        "seed": config.seed,
        "epochs": int(last["epoch"]),
        **ends,
        **metrics,
        "gap": metrics["train_accuracy"] - metrics["test_accuracy"],
        "loss_gap": metrics["test_loss"] - metrics["train_loss"],
    }
    if config.settings.compute != Settings().compute:
        table["compute"] = config.settings.compute
    for record in measured_then.itertuples():
        if measures is not None and not is_of(measures, record.measure, record.settings):
            continue
        flags = {name: bool(getattr(record, name)) for name in ("finished", "exact")}
        measured = record._asdict() | flags
        table[record.measure] = record.value
        table |= {f"{record.measure}_{name}": measured[name] for name in list(SHARPNESS)[3:]}
    return table


def at_checkpoint(path: Path, found: dict[str, Any], epoch: int | None) -> dict[str, Any]:
    """A `row` at the end or after an epoch before, with the name of the checkpoint.

    And, for each loss at which the run was to be saved, whether this is the first epoch below it.
    """
    end, history = newest_history(path)
    limits = losses.thresholds(read_run_config(path).settings.save_losses)
    first = losses.first_below(history["train_loss"].to_numpy(), limits)
    here = epoch or len(history)
    name = end.name if here == len(history) else epoch_name(here)
    flags = {losses.column(limit): first.get(limit) == here for limit in limits}
    return {"checkpoint": name, **flags, **found}


def parse_csv(content: bytes) -> pd.DataFrame:
    """The table of a CSV file with a header, each column numbers, truth values or texts.

    A word such as nan, NA or None is missing among numbers and truth values, and a text among
    texts, of which only an empty one is missing: so two texts stay two. So do whole numbers, of any
    size. Blanks before a cell and around a name are left out, and so are empty lines. Raises
    ValueError for a file without a header, a column that is there twice, and a line that has not as
    many cells as the header.
    """
    reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), skipinitialspace=True)
    try:
        lines = [(reader.line_num, line) for line in reader if line]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    if not lines:
        raise ValueError("No columns to parse from file")
    (_, header), *rows = lines
    names = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(header)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"it has the column {shown(twice[0])} twice; name one otherwise")
    for number, cells in rows:
        if len(cells) != len(names):
            raise ValueError(
                f"line {number} has {counted(len(cells), 'cell')}, and the header {len(names)}; "
                "they must be as many"
            )
    columns = zip(*(cells for _, cells in rows), strict=True) if rows else [()] * len(names)
    found = {name: values_of(cells) for name, cells in zip(names, columns, strict=True)}
    return pd.DataFrame(found, columns=names)


def values_of(cells: Sequence[str]) -> pd.Series:
    """A column as whole numbers, numbers or truth values, NaN where one is missing; or as texts."""
    absent = [cell in MISSING for cell in cells]
    words, there = (set(cells) & MISSING), [cell for cell in cells if cell not in MISSING]
    if not there and (len(words) < 2 or words <= NAN | {""}):
        return pd.Series(math.nan, range(len(cells)))
    for form, kind in ((WHOLE, int), (NUMBER, float), (TRUTH, lambda cell: cell.lower() == "true")):
        if not there or not all(form.fullmatch(cell.strip()) for cell in there):
            continue
        values = [math.nan if out else kind(cell) for cell, out in zip(cells, absent, strict=True)]
        exact = kind is not int or all(abs(int(cell)) <= EXACT for cell in there)
        plain = kind in (int, float) and exact
        return pd.Series(values) if plain or not any(absent) else pd.Series(values, dtype=object)
    return pd.Series([cell or math.nan for cell in cells], dtype=str)
