"""Values as JSON can hold them, which has neither NaN nor infinity."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxsharp.core.choices import shown

DIGITS = 6  # significant ones

Cell = bool | int | float | str | None


def cell(value: Any) -> Cell:
    """A truth value, a number, a text, or None for what is missing."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {cell(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(cell(each)) for each in value)
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return number(float(value))
    return str(value)


def number(value: float, digits: int = DIGITS) -> float | int | str | None:
    """A number with so many significant digits; None for NaN, a text for infinity."""
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}"
    found = float(f"{value:.{digits}g}")
    return int(found) if found.is_integer() and abs(found) < 10**digits else found


def interval(value: float, low: float, high: float, note: str = "") -> list[Cell]:
    """A value, the ends of its interval, and what is said of it."""
    return [*map(number, (value, low, high)), note]


def cells(column: pd.Series) -> list[Cell]:
    """The values of a column."""
    return [cell(value) for value in column]


def numbers(table: pd.DataFrame, name: str) -> pd.Series:
    """A column of numbers, NaN where there is none; ValueError for anything else."""
    found = pd.to_numeric(table[name], errors="coerce")
    wrong = table.loc[found.isna() & table[name].notna(), name]
    if len(wrong):
        raise ValueError(f"column {name} holds {shown(wrong.iloc[0])}; it must hold numbers")
    return found.astype(np.float64)
