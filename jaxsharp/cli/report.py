"""What a person reads at the end of a command."""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from jaxsharp.analysis.coefficients import Coefficient
from jaxsharp.analysis.statistics import unfinished
from jaxsharp.runs import directory
from jaxsharp.studies.grid import StudyConfig
from jaxsharp.studies.study import StudyResult


def print_study(
    console: Console, config: StudyConfig, result: StudyResult, out: Path, seconds: float
) -> None:
    """One table of the study, its correlations, and where its files are."""
    title = (
        f"{config.dataset}, {config.model}, {config.seeds} seeds: mean ± half of the 95 % interval"
    )
    table = Table(title=title)
    columns = {
        "test_accuracy": ("test accuracy %", 100.0),
        "gap": ("gap, points", 1.0),
        **{name: (name.replace("_", " "), 1.0) for name in config.measures},
    }
    table.add_column("optimizer", no_wrap=True)
    table.add_column("SAM")
    for name in config.vary:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_column("converged", justify="right")
    for heading, _ in columns.values():
        table.add_column(heading, justify="right")
    for row in result.summary.to_dict("records"):
        ended = f"{row['converged']}/{row['runs']}"
        if row["diverged"]:
            ended += f", {row['diverged']} diverged"
        cells = [interval(row, name, factor) for name, (_, factor) in columns.items()]
        varied = ["-" if math.isnan(row[name]) else f"{row[name]:g}" for name in config.vary]
        table.add_row(row["optimizer"], row["sam"], *varied, ended, *cells)
    console.print(table)
    for name, found in result.correlations.items():
        left_out = ", ".join(f"{n} {reason}" for reason, n in found.excluded.items() if n)
        console.print(
            f"{name} against gap, {found.num_runs} runs"
            f"{f' ({left_out} left out)' if left_out else ''}: "
            f"Kendall's tau {coefficient(found.raw)}, "
            f"among equal hyper-parameters {coefficient(found.within)}",
            highlight=False,
            soft_wrap=True,
        )
    names = "runs.csv, history.csv, summary.csv, correlations.csv, training.png, sharpness.png"
    for line in unfinished_lines(config, result):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"{out}: {names} ({seconds:.0f} s)", highlight=False, soft_wrap=True)


def coefficient(found: Coefficient) -> str:
    """Value and interval of a correlation coefficient, or why it has none."""
    if math.isnan(found.value):
        return "undefined"
    if found.remark:
        return f"{found.value:+.2f} (no interval: {found.remark})"
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def interval(row: dict, name: str, factor: float) -> str:
    """Mean and half width of an interval, the mean to four digits."""
    mean, half = factor * row[name], factor * (row[f"{name}_high"] - row[f"{name}_low"]) / 2
    out = row.get(f"{name}_unfinished", 0)
    note = f" ({out} unfinished)" if out else ""
    if math.isnan(mean):
        return f"-{note}"
    return f"{mean:.4g}{note}" if math.isnan(half) else f"{mean:.4g} ± {half:.2g}{note}"


def unfinished_lines(config: StudyConfig, result: StudyResult) -> list[str]:
    """A line for each measure with values that it did not finish, which names their runs."""
    lines = []
    for name in config.measures:
        out = result.runs[unfinished(result.runs, name)]
        runs = [" ".join(map(str, run)) for run in out[[*config.axes(), "seed"]].to_numpy()]
        if runs:
            lines.append(
                f"{name} is unfinished, and in no mean or correlation, of {', '.join(runs)}"
            )
    return lines


def print_run(console: Console, path: Path, measures: Mapping[str, str] | None = None) -> None:
    """End of training and measures of a single run (`directory.row`), and where its files are."""
    row = pd.Series(directory.row(path, measures))
    table = Table(title=str(path), show_header=False)
    for name, value in row.items():
        table.add_row(name, f"{value:.6g}" if isinstance(value, float) else str(value))
    console.print(table)
