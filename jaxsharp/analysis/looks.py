"""How runs look in every figure: by optimizer, by sharpness-aware variant, by what is varied.

An optimizer has a colour and a shape. A varied setting is told by the shade of the colour, light to
dark with its value, a second one by size. Others are not told apart, and the legend says so.
"""

import itertools
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from jaxsharp.analysis import canvas
from jaxsharp.core.choices import short

DOT = {"marker": "o", "linestyle": ""}
LIGHT, DARK = 0.6, 0.45  # shares of white and black at the ends of a range
SMALL, LARGE = 0.6, 1.4  # times the usual size
USUAL = {part: canvas.STYLE[f"lines.{part}"] for part in ("markersize", "linewidth")}


def optimizers(table: pd.DataFrame) -> dict[str, dict]:
    """Colour and marker of each optimizer in a table."""
    names = list(table["optimizer"].unique())
    looks = zip(canvas.colors(len(names)), itertools.cycle(canvas.MARKERS), strict=False)
    return {name: {"color": c, "marker": m} for name, (c, m) in zip(names, looks, strict=False)}


def variants(table: pd.DataFrame) -> list[str]:
    """The sharpness-aware variants in a table, none first."""
    return sorted(table["sam"].unique(), key=lambda name: name != "none")


def variant_colors(table: pd.DataFrame) -> dict[str, str]:
    """A colour for each variant in a table; none has the first of all in every figure."""
    others = itertools.cycle(canvas.PALETTE[1:])
    return {sam: canvas.PALETTE[0] if sam == "none" else next(others) for sam in variants(table)}


def variant_label(sam: str) -> str:
    """What a variant is called."""
    return {"none": "without SAM"}.get(sam, sam)


class Varied:
    """Shade and size of runs by the settings that a study varies; `names` may be empty."""

    def __init__(self, table: pd.DataFrame, names: Sequence[str]):
        self.names = list(names)
        self.levels: list[dict[float, float]] = []
        for name in self.names[:2]:
            values = np.sort(table[name].dropna().unique())
            self.levels.append(dict(zip(values, np.linspace(-1, 1, len(values)), strict=True)))

    @property
    def columns(self) -> list[str]:
        """The settings that are told apart."""
        return self.names[:2]

    def color(self, color: str, run: Mapping | pd.Series) -> str:
        """A colour, lighter or darker by the first setting."""
        if not self.names or len(self.levels[0]) < 2:
            return color
        return shaded(color, self.levels[0].get(run[self.names[0]], 0.0))

    def size(self, run: Mapping | pd.Series) -> float:
        """Times the usual size, by the second setting."""
        if len(self.names) < 2 or len(self.levels[1]) < 2:
            return 1.0
        level = self.levels[1].get(run[self.names[1]], 0.0)
        return SMALL + (LARGE - SMALL) * (level + 1) / 2

    def keys(self, **look) -> list[Line2D]:
        """Entries of a legend, grey."""
        keys = []
        for name, levels in zip(self.names, self.levels, strict=False):
            for value in levels:
                run = {self.names[0]: np.nan, **dict.fromkeys(self.names[1:2], np.nan), name: value}
                size = {part: usual * self.size(run) for part, usual in USUAL.items()}
                text = f"{words(name)} {short(value)}"
                keys.append(canvas.key(text, self.color(canvas.GREY, run), **look, **size))
        if len(self.names) > 2:
            others = ", ".join(map(words, self.names[2:]))
            keys.append(canvas.key(f"not told apart: {others}", linestyle=""))
        return keys


def words(name: str) -> str:
    """A column's name as text."""
    return name.replace("_", " ")


def shaded(color: str, level: float) -> str:
    """A colour mixed with white for a level down to -1, with black for one up to 1."""
    share, other = (LIGHT * -level, 1.0) if level < 0 else (DARK * level, 0.0)
    mixed = (1 - share) * np.asarray(mpl.colors.to_rgb(color)) + share * other
    return mpl.colors.to_hex(tuple(mixed))
