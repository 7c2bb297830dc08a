"""The page of `intervals.py`: coverage as tables in Markdown, and where it was found."""

import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd


def configuration(command: str, seconds: float) -> dict:
    """Command, machine and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    packages = ("jaxsharp", "numpy", "scipy", "pandas")
    return {
        "command": command,
        "processor": ", ".join(sorted(names)) or platform.machine(),
        "seconds": round(seconds),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def page(table: pd.DataFrame, config: dict, coefficients: Sequence[str]) -> str:
    """Smallest and largest coverage over the relations, a row a shape."""
    tables = int(table["tables"].max())
    text = f"""# Coverage of intervals

    {config["command"]}

{config["seconds"]} s on two cores of {config["processor"]}, Python {config["python"]}, \
{", ".join(f"{name} {version}" for name, version in config["versions"].items())}.

Coverage in % of intervals that say 95 %, smallest to largest over the relations; {tables} tables a
kind, so that at 95 % one standard error is {100 * np.sqrt(0.95 * 0.05 / tables):.1f} %. In
brackets: not printed, the rule that needs more was lifted.

{coverage_table(table, coefficients)}
Means over seeds, Student's t, of accuracies (and errors):

{mean_table(table, "mean")}
Geometric means over seeds, Student's t of the logarithm, of positive quantities; a log-normal is
given by the standard deviation of its logarithm:

{mean_table(table, "geometric mean")}"""
    return text


def mean_table(table: pd.DataFrame, kind: str) -> str:
    """A row a distribution in Markdown, a column a number of values."""
    rows = table[table["statistic"] == kind]
    numbers = sorted(rows["runs_per_group"].unique())
    text = f"| values | {' | '.join(map(str, numbers))} |\n|---{'|---' * len(numbers)}|\n"
    for name, part in rows.groupby("relation", sort=False):
        cells = []
        for row in part.sort_values("runs_per_group").itertuples():
            cell = f"{100 * row.coverage:.1f}"
            cells.append(cell if row.printed == "yes" else f"({cell})")
        text += f"| {name} | {' | '.join(cells)} |\n"
    return text


def coverage_table(table: pd.DataFrame, coefficients: Sequence[str]) -> str:
    """A row a shape in Markdown."""
    text = f"| seeds | groups x runs | {' | '.join(coefficients)} |\n|---|---|---|---|---|\n"
    correlations = table[table["statistic"].isin(coefficients)]
    for (seeds, groups, runs), rows in correlations.groupby(
        ["seeds", "groups", "runs_per_group"], sort=False
    ):
        cells = []
        for name in coefficients:
            part = rows[rows["statistic"] == name]
            part = part[part["with_interval"] > 0]
            low, high = 100 * part["coverage"].min(), 100 * part["coverage"].max()
            cell = f"{low:.1f} to {high:.1f}" if len(part) else "-"
            cells.append(cell if (part["printed"] == "yes").all() or cell == "-" else f"({cell})")
        text += f"| {seeds} | {groups:g} x {runs} | {' | '.join(cells)} |\n"
    return text
