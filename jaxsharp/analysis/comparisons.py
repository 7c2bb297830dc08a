"""Figures of sharpness against the gap, and against the settings that a study varies.

A row of panels for each sharpness-aware variant, a column for each quantity. `looks` says how runs
are told apart in a panel.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxsharp.analysis import canvas, looks, ticks
from jaxsharp.analysis.coefficients import Coefficient
from jaxsharp.analysis.statistics import Correlation, unfinished
from jaxsharp.core.choices import counted, short

LABELS = {
    "minimum_sharpness": "minimum sharpness (rescaled Hessian trace)",
    "top_eigenvalue": "largest eigenvalue of the Hessian",
    "random_perturbation": "rise of the loss at random points (nats)",
    "random_perturbation_bn": "rise of the loss at random points,\nBatchNorm recomputed (nats)",
}
# Gaps of runs, positive where training looks better than testing.
GAPS = {
    "gap": "gap (training \N{MINUS SIGN} test accuracy)",
    "loss_gap": "gap of the loss (test \N{MINUS SIGN} training)",
}
OTHERS = "#D5D5D5"


def sharpness_against_gap(
    runs: pd.DataFrame,
    measures: Sequence[str],
    correlations: Mapping[str, Correlation],
    varied: Sequence[str] = (),
    gap: str = "gap",
) -> Figure:
    """Return the generalization gap of every run against its sharpness, a column for each measure.

    ``gap`` is one of `GAPS`. Rows are sharpness-aware variants, each with the runs of the others in
    light grey; colour and shape tell the optimizer, shade and size the settings `varied`. A hollow
    marker is a run that
    did not converge: drawn, but no part of the coefficients in the title, which are over all rows.
    Bars are NAME_error to both sides. A value that is not finished (NAME_finished) is not drawn.
    Values that are all positive get a logarithmic axis. Raises ValueError for a measure that has no
    correlation.
    """
    missing = [name for name in measures if name not in correlations]
    if missing:
        raise ValueError(f"correlations lacks {missing}; it has {list(correlations)}")
    variants, by_optimizer = looks.variants(runs), looks.optimizers(runs)
    runs = runs.assign(_hollow=runs["converged"].notna() & (runs["converged"] == 0))
    with canvas.style():
        shades = looks.Varied(runs, varied)
        height = 3.6 if len(variants) < 2 else 2.7
        sharing = {"sharex": "col", "sharey": True}
        shape = (len(variants), len(measures))
        figure, rows = canvas.grid(*shape, width=3.6, height=height, **sharing)
        for name, column in zip(measures, rows.T, strict=False):
            drawn = _with_points(runs, name, gap)
            for sam, panel in zip(variants, column, strict=False):
                others = drawn[drawn["sam"] != sam]
                if len(others):
                    panel.plot(others[name], others[gap], ".", color=OTHERS, zorder=1)
                _draw_points(panel, drawn[drawn["sam"] == sam], (name, gap), by_optimizer, shades)
                if len(drawn) and (drawn[name] > 0).all():
                    ticks.scale_log(panel.xaxis, *_ends(drawn, name))
            column[0].set_title(_correlation_title(correlations[name], runs))
            column[-1].set_xlabel(LABELS.get(name, looks.words(name)))
        _label_rows(rows, variants, GAPS[gap])
        keys = [canvas.key(name, linestyle="", **look) for name, look in by_optimizer.items()]
        keys += shades.keys(**looks.DOT)
        if runs["_hollow"].any():
            keys.append(canvas.key("unconverged", markerfacecolor="white", **looks.DOT))
        if len(variants) > 1:
            keys.append(canvas.key("runs of the other rows", OTHERS, marker=".", linestyle=""))
        canvas.legend(figure, keys)
    return figure


def against_setting(
    summary: pd.DataFrame, setting: str, measures: Sequence[str], varied: Sequence[str]
) -> Figure:
    """Return gap and measures against one of the settings that a study varies.

    `summary` is that of `summarize` by optimizer, variant and all of `varied`: a point is the mean
    over the seeds of one combination (measures: the geometric mean), bars are its interval, and a
    line joins combinations that differ in the setting alone. Values have equal distances. Bars that
    reach beyond a tenth or ten times of all means are cut off by the axis.
    """
    summary = summary[summary[setting].notna()]
    variants, by_optimizer = looks.variants(summary), looks.optimizers(summary)
    values = np.sort(summary[setting].unique())
    others = [name for name in varied if name != setting]
    columns = {
        f"{gap}_mean": (gap, label) for gap, label in GAPS.items() if f"{gap}_mean" in summary
    }
    columns |= {f"{m}_geomean": (m, LABELS.get(m, looks.words(m))) for m in measures}
    with canvas.style():
        shades = looks.Varied(summary, others)
        sharing = {"sharex": True, "sharey": "col"}
        shape = (len(variants), len(columns))
        figure, rows = canvas.grid(*shape, width=3.2, height=2.6, **sharing)
        for (mean, (name, label)), column in zip(columns.items(), rows.T, strict=True):
            for sam, panel in zip(variants, column, strict=False):
                part = summary[summary["sam"] == sam]
                _draw_lines(panel, part, (mean, name), (setting, values), by_optimizer, shades)
            found = summary[[mean, f"{name}_low", f"{name}_high"]].to_numpy(np.float64)
            if name in measures and np.isfinite(found[:, 0]).any():
                low, high = np.nanmin(found[:, 0]), np.nanmax(found[:, 0])
                ends = max(np.nanmin(found), low / 10), min(np.nanmax(found), high * 10)
                for panel in column:
                    ticks.scale_log(panel.yaxis, *ends)
            column[0].set_title(label)
            column[-1].set_xlabel(looks.words(setting))
        _label_rows(rows, variants, "mean and 95 % interval")
        for panel in rows.ravel():
            named = {float(i): short(value) for i, value in enumerate(values)}
            panel.set_xlim(-0.5, max(len(values), 1) - 0.5)
            ticks.space(panel.xaxis, named=named)
        keys = [canvas.key(name, **look) for name, look in by_optimizer.items()]
        canvas.legend(figure, [*keys, *shades.keys(**looks.DOT)])
    return figure


def _with_points(runs: pd.DataFrame, name: str, gap: str) -> pd.DataFrame:
    """The runs that have a gap and a finished measure, with its error, if there is one."""
    finite = np.isfinite(runs[[name, gap]].astype(np.float64)).all(axis=1)
    runs = runs[finite & ~runs["diverged"].astype(bool) & ~unfinished(runs, name)]
    return runs.assign(_error=runs.get(f"{name}_error", np.nan))


def _draw_points(
    panel: Axes, runs: pd.DataFrame, axes: tuple[str, str], by_optimizer: dict, shades: looks.Varied
) -> None:
    """The gap of runs against a measure, with the measure's errors."""
    kinds = ["optimizer", "_hollow", *shades.columns]
    crowded = (100 / max(len(runs), 100)) ** 0.25
    for _, group in runs.groupby(kinds, sort=False, dropna=False):
        run = group.iloc[0]
        look = by_optimizer[run["optimizer"]]
        color = shades.color(look["color"], run)
        mark = {"fmt": look["marker"], "markerfacecolor": "white" if run["_hollow"] else color}
        mark["markersize"] = looks.USUAL["markersize"] * shades.size(run) * crowded
        bars = {"xerr": group["_error"], "elinewidth": 0.8}
        panel.errorbar(*(group[name] for name in axes), color=color, **mark, **bars)


def _draw_lines(panel, part, column, axis, by_optimizer, shades: looks.Varied) -> None:
    """A line for each optimizer and combination of the other settings, beside each other."""
    (mean, name), (setting, values) = column, axis
    kinds = ["optimizer", *shades.names]
    lines = list(part.groupby(kinds, sort=False, dropna=False))
    offsets = np.linspace(-0.25, 0.25, len(lines)) if len(lines) > 1 else [0.0]
    for offset, (_, line) in zip(offsets, lines, strict=True):
        line = line[np.isfinite(line[mean].astype(np.float64))].sort_values(setting)
        if not len(line):
            continue
        run = line.iloc[0]
        look = by_optimizer[run["optimizer"]]
        bars = np.stack([line[mean] - line[f"{name}_low"], line[f"{name}_high"] - line[mean]])
        places = np.searchsorted(values, line[setting]) + offset
        size = looks.USUAL["markersize"] * shades.size(run)
        mark = {"fmt": f"{look['marker']}-", "markersize": size}
        mark |= {"linewidth": 0.8, "elinewidth": 0.8, "capsize": 1.5}
        color = shades.color(look["color"], run)
        panel.errorbar(places, line[mean], yerr=bars, color=color, **mark)


def _ends(runs: pd.DataFrame, name: str) -> tuple[float, float]:
    """Ends of an axis that has positive values and their bars, but for those that reach zero."""
    error = runs["_error"].where(np.isfinite(runs["_error"]), 0.0)
    low, high = runs[name] - error, runs[name] + error
    return low.where(low > 0, runs[name]).min(), high.max()


def _label_rows(rows: np.ndarray, variants: Sequence[str], text: str) -> None:
    """Labels of the rows, and what is said of panels without points."""
    canvas.label(list(rows.ravel()), None, text)
    if len(variants) > 1:
        for sam, panel in zip(variants, rows[:, 0], strict=True):
            panel.set_ylabel(f"{looks.variant_label(sam)}\n{text}")


def _correlation_title(result: Correlation, runs: pd.DataFrame) -> str:
    """Both coefficients, and the runs behind them."""
    total = result.num_runs + sum(result.excluded.values())
    out = ", ".join(f"{count} {reason}" for reason, count in result.excluded.items() if count)
    ended = ""
    if len(runs) and runs["converged"].isna().all() and "epochs" in runs:
        ended = f" after {counted(runs['epochs'].max(), 'epoch')}"
    return (
        f"Kendall's τ, raw: {_coefficient_text(result.raw, result.confidence)}\n"
        f"within groups: {_coefficient_text(result.within, result.confidence)}\n"
        f"{result.num_runs} of {counted(total, 'run')}{ended}{out and f' (out: {out})'}"
    )


def _coefficient_text(coefficient: Coefficient, confidence: float) -> str:
    if np.isnan(coefficient.value):
        return "undefined"
    value, low, high = (f"{v:+.2f}".replace("-", "\N{MINUS SIGN}") for v in coefficient[:3])
    if coefficient.remark:
        return f"{value} (no interval: {coefficient.remark})"
    return f"{value} ({100 * confidence:g}%: {low} to {high})"
