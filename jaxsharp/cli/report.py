"""What a person reads at the end of a command."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from jaxsharp.analysis.coefficients import written
from jaxsharp.analysis.means import MIN_VALUES
from jaxsharp.analysis.results import StudyResult
from jaxsharp.analysis.statistics import Correlation, unfinished
from jaxsharp.cli.tables import Column, number, print_fitting
from jaxsharp.core.choices import counted, short
from jaxsharp.runs import tables
from jaxsharp.runs.config import Settings
from jaxsharp.studies.grid import StudyConfig

Writer = Callable[[float, int], str]
NAMES = {"optimizer": "optimizer", "SAM": "sam"}
# Decimals of fractions, significant digits of measures: of a mean, and of the ends of its interval.
DIGITS = ((4, 3), (3, 3), (3, 2))
SHORT = {"converged": "conv."}
GAPS = {
    "gap": "test accuracy and gap (training - test accuracy) are fractions: mean [95 % interval], "
    "Student's t, within their range.",
    "loss_gap": "test loss and loss gap (test - training loss): mean [95 % interval], Student's t.",
}
NOTE = (
    " Measures: geometric mean [95 % interval], Student's t of the "
    "logarithm. Over the seeds of runs that did not diverge; no interval from fewer than "
    f"{MIN_VALUES} or from equal values."
)


def print_study(
    console: Console,
    config: StudyConfig,
    result: StudyResult,
    out: Path,
    seconds: float,
    formats: Sequence[str] = ("png",),
) -> None:
    """The study's summary, its correlations, and where its files are."""
    rows = result.summary.to_dict("records")
    settings = config.settings
    ended = "" if settings.judged else f", {counted(settings.epochs, 'epoch')} each"
    say(console, f"{config.dataset}, {config.model}, {counted(config.seeds, 'seed')}{ended}\n")
    labels = [Column(name, [row[key] for row in rows], True) for name, key in NAMES.items()]
    for name in config.vary:
        values = ["-" if pd.isna(row[name]) else short(row[name]) for row in rows]
        labels.append(Column(name.replace("_", " "), values))
    choices = [value_columns(config, result.gap, rows, *digits) for digits in DIGITS]
    choices.append([c._replace(heading=SHORT.get(c.heading, c.heading)) for c in choices[-1]])
    whole = print_fitting(console, labels, choices)
    say(console, GAPS[result.gap] + NOTE)
    for name, found in result.correlations.items():
        say(console, correlation_line(name, result.gap, found, settings))
    for line in left_out_lines(config, result.runs):
        say(console, line)
    followed = ["tracked"] if config.settings.tracked else []
    figures = ["training", "sharpness", *followed, *(f"vary_{name}" for name in config.vary)]
    tables = [f"{name}.csv" for name in ("runs", "history", "summary", "correlations")]
    wider = "" if whole else "A wider terminal shows more digits in fewer tables; "
    say(console, f"{wider}summary.csv has all digits, runs.csv every run.")
    names = ", ".join(
        [*tables, *(f"{n}.{kind}" for n in figures for kind in formats), "report.html"]
    )
    console.print(f"{out}: {names} ({seconds:.0f} s)", highlight=False, soft_wrap=True)


def say(console: Console, text: str) -> None:
    """A text, broken between words on a terminal; it has no path."""
    console.print(text, highlight=False, soft_wrap=not console.is_terminal)


def value_columns(
    config: StudyConfig, gap: str, rows: list[dict], mean_digits: int, end_digits: int
) -> list[Column]:
    """How the runs of each row ended, and means with their intervals."""
    digits = mean_digits, end_digits
    columns = [Column("runs", [str(row["runs"]) for row in rows])]
    if config.settings.judged:
        columns = [Column("converged", [f"{row['converged']}/{row['runs']}" for row in rows])]
    if any(row["diverged"] for row in rows):
        columns.append(Column("diverged", [str(row["diverged"]) for row in rows]))
    written = dict.fromkeys(("test_accuracy", "gap"), fraction)
    if gap == "loss_gap":
        written = dict.fromkeys(("test_loss", "loss_gap"), number)
    written |= dict.fromkeys(config.measures, number)
    for name, write in written.items():
        cells = [interval(row, name, write, *digits) for row in rows]
        columns.append(Column(name.replace("_", " "), cells))
    return columns


def fraction(value: float, digits: int) -> str:
    """A share of a whole with so many decimals."""
    return f"{value:.{digits}f}"


def interval(row: Mapping[str, Any], name: str, write: Writer, digits: int, end_digits: int) -> str:
    """A mean of a row of summary.csv with the ends of its interval."""
    kind = "mean" if f"{name}_mean" in row else "geomean"
    mean, low, high = (row[f"{name}_{part}"] for part in (kind, "low", "high"))
    out = row.get(f"{name}_unfinished", 0)
    note = f" ({out} unfinished)" if out else ""
    if math.isnan(mean):
        return f"-{note}"
    ends = "" if math.isnan(low) else f" [{write(low, end_digits)}, {write(high, end_digits)}]"
    return f"{write(mean, digits)}{ends}{note}"


def correlation_line(name: str, gap: str, found: Correlation, settings: Settings) -> str:
    """Both coefficients of a measure with the gap, and the runs that they are made of."""
    left_out = ", ".join(f"{n} {reason}" for reason, n in found.excluded.items() if n)
    after = "" if settings.judged else f" after {counted(settings.epochs, 'epoch')}"
    return (
        f"{name} against {gap.replace('_', ' ')}, {counted(found.num_runs, 'run')}{after}"
        f"{f' ({left_out} left out)' if left_out else ''}: "
        f"Kendall's tau {written(found.raw)}, "
        f"among equal hyper-parameters {written(found.within)}"
    )


def left_out_lines(config: StudyConfig, runs: pd.DataFrame) -> list[str]:
    """A line for each measure with values that are in no mean, which names their runs."""
    lines = []
    for name in config.measures:
        stopped = unfinished(runs, name)
        low = (runs[name] <= 0) & ~stopped & ~runs["diverged"].astype(bool)
        for out, text in (
            (stopped, "is unfinished, and in no mean or correlation, of"),
            (low, "is not positive, and so without a geometric mean, of"),
        ):
            named = runs.loc[out, [*config.axes(), "seed"]].to_numpy()
            if len(named):
                lines.append(f"{name} {text} {', '.join(' '.join(map(str, run)) for run in named)}")
    return lines


def print_run(
    console: Console, path: Path, measures: Mapping[str, str | None] | None = None
) -> None:
    """Where the files of a single run are, its settings, end of training and measures.

    The row is that of `tables.row`.
    """
    row = tables.row(path, measures)
    console.print(f"{path}:", highlight=False, soft_wrap=True)
    width = max(map(len, row))
    for name, value in row.items():
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
        absent = value is None or value != value
        say(console, f"  {name:{width}}  {'-' if absent else text}")
