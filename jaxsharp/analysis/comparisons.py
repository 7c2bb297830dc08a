"""The figure of sharpness against the gap.

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
from jaxsharp.analysis.statistics import Correlation, unfinished, with_columns
from jaxsharp.core.choices import counted

LABELS = {
    "minimum_sharpness": "minimum sharpness (rescaled Hessian trace)",
    "top_eigenvalue": "largest eigenvalue of the Hessian",
    "random_perturbation": "rise of the loss at random points (nats)",
    "random_perturbation_bn": "rise of the loss at random points,\nBatchNorm recomputed (nats)",
    "study_b_sharpness": "rise of the loss at distance 5,\nBatchNorm recomputed (nats)",
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
    hollow = runs["converged"].notna() & (runs["converged"] == 0)
    runs = with_columns(runs, {"_hollow": hollow})
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
        label_rows(rows, variants, GAPS[gap])
        keys = [canvas.key(name, linestyle="", **look) for name, look in by_optimizer.items()]
        keys += shades.keys(**looks.DOT)
        if runs["_hollow"].any():
            keys.append(canvas.key("unconverged", markerfacecolor="white", **looks.DOT))
        if len(variants) > 1:
            keys.append(canvas.key("runs of the other rows", OTHERS, marker=".", linestyle=""))
        canvas.legend(figure, keys)
    return figure


def _with_points(runs: pd.DataFrame, name: str, gap: str) -> pd.DataFrame:
    """The runs that have a gap and a finished measure, with its error, if there is one."""
    finite = np.isfinite(runs[[name, gap]].astype(np.float64)).all(axis=1)
    runs = runs[finite & ~runs["diverged"].astype(bool) & ~unfinished(runs, name)]
    return with_columns(runs, {"_error": runs.get(f"{name}_error", np.nan)})


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


def _ends(runs: pd.DataFrame, name: str) -> tuple[float, float]:
    """Ends of an axis that has positive values and their bars, but for those that reach zero."""
    error = runs["_error"].where(np.isfinite(runs["_error"]), 0.0)
    low, high = runs[name] - error, runs[name] + error
    return low.where(low > 0, runs[name]).min(), high.max()


def label_rows(rows: np.ndarray, variants: Sequence[str], text: str) -> None:
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
