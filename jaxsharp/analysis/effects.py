"""Figures of gap and measures against the settings that a study varies.

A point is the mean over the seeds of one combination, bars are its interval, a line joins
combinations that differ in the setting alone. A hollow point has runs that did not converge.
`looks` says how lines are told apart.
"""

import string
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from jaxsharp.analysis import canvas, looks, ticks
from jaxsharp.analysis.comparisons import GAPS, LABELS, label_rows
from jaxsharp.core.choices import short

INTERVAL = "mean and 95 % interval"
APART = 0.25  # lines to both sides of a value, in distances to the nearest other
LEAST = 4  # times the smallest value, from which on a setting has a logarithmic axis


def against_setting(
    summary: pd.DataFrame, setting: str, measures: Sequence[str], varied: Sequence[str]
) -> Figure:
    """Return gap and measures against one of the settings that a study varies.

    A row of panels for each sharpness-aware variant, a column for each quantity. `summary` is that
    of `summarize` by optimizer, variant and all of `varied`; the mean of a measure is whichever
    that has. Positive numbers from one to `LEAST` times as large on stand on a logarithmic axis,
    other values at equal distances. Means that are all positive have a logarithmic axis, which
    cuts off bars that reach beyond a tenth or ten times of all means.
    """
    summary = summary[summary[setting].notna()]
    variants, by_optimizer = looks.variants(summary), looks.optimizers(summary)
    others = [name for name in varied if name != setting]
    names = [*(name for name in GAPS if f"{name}_mean" in summary), *measures]
    with canvas.style():
        shades, scale = looks.Varied(summary, others), Scale(summary[setting])
        sharing = {"sharex": True, "sharey": "col"}
        shape = (len(variants), len(names))
        figure, rows = canvas.grid(*shape, width=3.2, height=2.6, **sharing)
        for name, column in zip(names, rows.T, strict=True):
            for sam, panel in zip(variants, column, strict=False):
                part = summary[summary["sam"] == sam]
                _draw_lines(panel, part, name, (setting, scale), by_optimizer, shades)
            if name in measures:
                _scale_means(list(column), [summary], name)
            column[0].set_title({**GAPS, **LABELS}.get(name, looks.words(name)))
            column[-1].set_xlabel(looks.words(setting))
        label_rows(rows, variants, INTERVAL)
        for panel in rows.ravel():
            scale.draw(panel)
        keys = [canvas.key(name, **look) for name, look in by_optimizer.items()]
        canvas.legend(figure, [*keys, *shades.keys(**looks.DOT), *_hollow_keys([summary])])
    return figure


def side_by_side(
    summaries: Mapping[str, pd.DataFrame],
    measure: str,
    *,
    optimizers: Sequence[str] | None = None,
) -> Figure:
    """Return a measure against several settings, a panel each, (a), (b) ..., with one axis of it.

    `summaries` has for each setting the table of `summarize` by optimizer and that setting.
    Axes are as in `against_setting`. With `optimizers` these alone are drawn, as they look among
    all. Raises ValueError for no setting, and for a table without the columns of one.
    """
    if not summaries:
        raise ValueError("summaries is empty; it must have a table for each setting")
    for setting, table in summaries.items():
        needed = {"optimizer", setting, mean_of(table, measure), f"{measure}_low"}
        if missing := sorted(needed - set(table)):
            raise ValueError(f"the table of {setting} has no column {missing[0]}")
    by_optimizer = looks.optimizers(pd.concat(summaries.values()))
    drawn = list(by_optimizer) if optimizers is None else list(optimizers)
    tables = {k: table[table["optimizer"].isin(drawn)] for k, table in summaries.items()}
    with canvas.style():
        height = 2.9 if len(tables) > 1 else 3.2
        figure, panels = canvas.panels(len(tables), width=3.4, height=height, sharey=True)
        alike = looks.Varied(summaries[next(iter(summaries))], ())
        scales = [Scale(table[setting]) for setting, table in tables.items()]
        found = zip(panels, tables.items(), scales, strict=True)
        for index, (panel, (setting, table), scale) in enumerate(found):
            _draw_lines(panel, table, measure, (setting, scale), by_optimizer, alike)
            panel.set_xlabel(looks.words(setting))
            if len(tables) > 1:
                panel.set_title(f"({string.ascii_lowercase[index]})", loc="left")
        canvas.label(panels, None, LABELS.get(measure, looks.words(measure)))
        _scale_means(panels, list(tables.values()), measure)
        for panel, scale in zip(panels, scales, strict=True):
            scale.draw(panel)
        keys = [canvas.key(name, **by_optimizer[name]) for name in drawn]
        canvas.legend(figure, [*keys, *_hollow_keys(list(tables.values()))])
    return figure


def mean_of(summary: pd.DataFrame, name: str) -> str:
    """The column of a quantity's mean: the geometric one, unless there is none."""
    return f"{name}_geomean" if f"{name}_geomean" in summary else f"{name}_mean"


class Scale:
    """Where the values of a setting stand on an axis, and lines beside each other at each."""

    def __init__(self, values: pd.Series):
        self.values = np.sort(values.dropna().unique())
        numbers = np.issubdtype(self.values.dtype, np.number) and len(self.values) > 1
        self.is_log = bool(
            numbers and self.values[0] > 0 and self.values[-1] >= LEAST * self.values[0]
        )
        self.step = (self.values[1:] / self.values[:-1]).min() if self.is_log else 1.0

    def places(self, values: pd.Series, offset: float) -> np.ndarray:
        """Where values stand, moved by a part of the least distance between two."""
        if self.is_log:
            return values.to_numpy(np.float64) * self.step**offset
        return np.searchsorted(self.values, values) + offset

    def draw(self, panel: Axes) -> None:
        """Give the axis of a panel its limits, and ticks at values alone."""
        num = max(len(self.values), 1)
        places = self.values if self.is_log else range(len(self.values))
        named = {float(at): short(v) for at, v in zip(places, self.values, strict=True)}
        if self.is_log:
            room = max(self.step**0.5, (self.values[-1] / self.values[0]) ** 0.05)
            panel.set(xscale="log", xlim=(self.values[0] / room, self.values[-1] * room))
            panel.xaxis.set_minor_locator(NullLocator())
        else:
            panel.set_xlim(-0.5, num - 0.5)
        ticks.space(panel.xaxis, named=named)


def _draw_lines(panel, part, name, axis, by_optimizer, shades: looks.Varied) -> None:
    """A line for each optimizer and combination of the other settings, beside each other."""
    setting, scale = axis
    mean = mean_of(part, name)
    kinds = ["optimizer", *shades.names]
    lines = list(part.groupby(kinds, sort=False, dropna=False))
    offsets = np.linspace(-APART, APART, len(lines)) if len(lines) > 1 else [0.0]
    for offset, (_, line) in zip(offsets, lines, strict=True):
        line = line[np.isfinite(line[mean].astype(np.float64))].sort_values(setting)
        if not len(line):
            continue
        run = line.iloc[0]
        look = by_optimizer[run["optimizer"]]
        bars = np.stack([line[mean] - line[f"{name}_low"], line[f"{name}_high"] - line[mean]])
        places = scale.places(line[setting], offset)
        color = shades.color(look["color"], run)
        size = looks.USUAL["markersize"] * shades.size(run)
        mark = {"color": color, "markersize": size}
        line_and_bars = {"linewidth": 0.8, "elinewidth": 0.8, "capsize": 1.5}
        style = {"fmt": f"{look['marker']}-", **line_and_bars, **mark}
        panel.errorbar(places, line[mean], yerr=bars, **style)
        hollow = _is_hollow(line)
        if hollow.any():
            over = {"linestyle": "", "markerfacecolor": "white", "zorder": 3, **mark}
            panel.plot(places[hollow], line[mean][hollow], look["marker"], **over)


def _is_hollow(summary: pd.DataFrame) -> np.ndarray:
    """Which means have runs that did not converge; none without a rule for it."""
    kept = summary["runs"] - summary["diverged"]
    return (summary["converged"].notna() & (summary["converged"] < kept)).to_numpy(bool)


def _hollow_keys(summaries: Sequence[pd.DataFrame]) -> list[Line2D]:
    if not any(_is_hollow(each).any() for each in summaries):
        return []
    return [canvas.key("not all converged", markerfacecolor="white", **looks.DOT)]


def _scale_means(panels: Sequence[Axes], tables: Sequence[pd.DataFrame], name: str) -> None:
    """A logarithmic axis of means that are all positive, with their bars as far as ten times."""
    parts = [t[[mean_of(t, name), f"{name}_low", f"{name}_high"]] for t in tables]
    found = np.concatenate([part.to_numpy(np.float64) for part in parts])
    means = found[np.isfinite(found[:, 0]), 0]
    if not len(means) or means.min() <= 0:
        return
    ends = max(np.nanmin(found), means.min() / 10), min(np.nanmax(found), means.max() * 10)
    for panel in panels:
        ticks.scale_log(panel.yaxis, *ends)
