"""Every figure, drawn from tables alone: no global state, and equal tables give equal files.

Tables are those of ``runs``: a row a run, or a row a run and epoch. Figures say what they leave
out: a run that diverged has no point, and a panel without points says that there are none.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from jaxsharp.stats import Coefficient, Correlation

# Okabe and Ito: told apart under the common colour-vision deficiencies, and in print.
BLUE, RED = "#0072B2", "#D55E00"
PALETTE = (BLUE, RED, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#595959"
LABELS = {
    "minimum_sharpness": "minimum sharpness (rescaled Hessian trace)",
    "top_eigenvalue": "largest eigenvalue of the Hessian",
    "random_perturbation": "rise of the loss at random points (nats)",
    "random_perturbation_bn": "rise of the loss at random points,\nBatchNorm recomputed (nats)",
}
LOSSES = ["train_loss", "test_loss"]
NOTHING = "no usable runs"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 5.5,
    "savefig.dpi": 160,
    "svg.hashsalt": "jaxsharp",
}
# What a file says of its making must not change from one day to the next.
METADATA = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}


def training_curves(history: pd.DataFrame) -> Figure:
    """Return the loss of every run against the epoch, a panel for each optimizer, on equal axes.

    Colour tells SAM, a dashed line the test loss. Each run has its own thin line: runs end at
    different epochs, so a mean over seeds would jump where one ends. A dot is the end of a run, a
    cross that of one whose loss did not stay finite. The axis is logarithmic if all losses are
    positive, and ends at the largest loss of the runs that stayed finite.
    """
    losses, top = _losses(run for _, run in history.groupby(["optimizer", "sam", "seed"]))
    with _style():
        num = history["optimizer"].nunique()
        figure, panels = _panels(num, width=3.1, height=2.5, sharex=True, sharey=True)
        optimizers = history.groupby("optimizer", sort=False)
        for panel, (optimizer, part) in zip(panels, optimizers, strict=False):
            panel.set_title(optimizer)
            for (sam, _), run in part.groupby(["sam", "seed"], sort=False):
                color = RED if sam else BLUE
                _draw_run(panel, run, "loss", color, top=top, linewidth=0.9, alpha=0.8)
        _scale_loss(panels, losses, top)
        _label(panels, "epoch", "loss (nats)")
        keys = [_key("without SAM", BLUE), _key("with SAM", RED), *_line_keys(losses)]
        _legend(figure, keys, columns=(2, 4, 6))
    return figure


def sharpness_against_gap(
    runs: pd.DataFrame, measures: Sequence[str], correlations: Mapping[str, Correlation]
) -> Figure:
    """Return the generalization gap of every run against its sharpness, a panel for each measure.

    Colour tells the optimizer, a hollow marker SAM, a cross a run that did not converge: it is
    drawn, but no part of the coefficients in the title. Bars are NAME_error to both sides. Values
    that are all positive get a logarithmic axis. Raises ValueError for a measure that has no
    correlation.
    """
    missing = [name for name in measures if name not in correlations]
    if missing:
        raise ValueError(f"correlations lacks {missing}; it has {list(correlations)}")
    optimizers = list(runs["optimizer"].unique())
    colors = dict(zip(optimizers, _colors(len(optimizers)), strict=True))
    with _style():
        figure, panels = _panels(len(measures), width=3.6, height=3.6, sharey=True)
        for panel, name in zip(panels, measures, strict=False):
            _draw_points(panel, runs, name, colors)
            panel.set_title(_correlation_title(correlations[name]))
            panel.set_xlabel(LABELS.get(name, name.replace("_", " ")))
        _label(panels, None, "generalization gap (percentage points)")
        keys = [_key(name, c, marker="o", linestyle="") for name, c in colors.items()]
        keys.append(_key("without SAM", marker="o", linestyle=""))
        keys.append(_key("with SAM", marker="o", linestyle="", markerfacecolor="white"))
        keys.append(_key("unconverged", marker="X", linestyle=""))
        _legend(figure, keys, columns=(3, 5, 9))
    return figure


def run_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Return loss and accuracy of labelled runs, drawn as in `training_curves` but for colours."""
    colors = _colors(len(histories))
    losses, top = _losses(histories.values())
    with _style():
        keys = [_key(label, color) for label, color in zip(histories, colors, strict=True)]
        keys += _line_keys(losses)
        columns = len(keys) if sum(len(key.get_label()) + 8 for key in keys) < 110 else 1
        figure, panels = _panels(2, width=3.9, height=2.9 + 0.18 * (len(keys) // columns))
        for history, color in zip(histories.values(), colors, strict=True):
            percent = {name: 100 * history[name] for name in ("train_accuracy", "test_accuracy")}
            _draw_run(panels[0], history, "loss", color, top=top)
            _draw_run(panels[1], history.assign(**percent), "accuracy", color)
        _scale_loss(panels[:1], losses, top)
        _label(panels[:1], "epoch", "loss (nats)")
        _label(panels[1:], "epoch", "accuracy (%)")
        _legend(figure, keys, columns=(columns, columns))
    return figure


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure so that a reader finds the old file or the new one, and nothing between.

    The suffix decides the format: png, pdf or svg. Equal figures give equal bytes. Raises
    ValueError for another suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in METADATA:
        raise ValueError(f"path is {str(path)!r}; its suffix must be one of {', '.join(METADATA)}")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with _style():
            figure.savefig(temporary, format=suffix[1:], metadata=METADATA[suffix])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _style() -> AbstractContextManager:
    """The look of all figures, whatever the user's matplotlibrc says, for the time of a block."""
    return matplotlib.style.context(["default", STYLE])


def _panels(num: int, *, width: float, height: float, **share: bool) -> tuple[Figure, list[Axes]]:
    """A figure with at least one and otherwise `num` panels, at most three a row."""
    num = max(num, 1)
    columns = 2 if num == 4 else min(num, 3)
    rows = -(-num // columns)
    figure = Figure(figsize=(max(width * columns, 4.2), height * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **share).ravel()
    for spare in axes[num:]:
        spare.remove()
    return figure, list(axes[:num])


def _losses(histories: Iterable[pd.DataFrame]) -> tuple[np.ndarray, float]:
    """All losses of some runs, and the largest of those that stay finite (else infinity)."""
    runs = [history[LOSSES].to_numpy(dtype=np.float64).ravel() for history in histories]
    top = max((run.max() for run in runs if run.size and np.isfinite(run).all()), default=np.inf)
    return np.concatenate([*runs, []]), top


def _draw_run(
    panel: Axes, run: pd.DataFrame, quantity: str, color: str, top: float = np.inf, **line
) -> None:
    """One run's train (solid) and test (dashed) curve where finite, its end marked below `top`."""
    good = np.isfinite(run[LOSSES].to_numpy(dtype=np.float64)).all()
    mark = {"marker": "o", "markersize": 3} if good else {"marker": "x", "zorder": 3}
    for split, dashes in (("train", "-"), ("test", "--")):
        values = run[f"{split}_{quantity}"].to_numpy(dtype=np.float64)
        finite = np.isfinite(values)
        if not finite.any():
            continue
        epochs, values = run["epoch"].to_numpy()[finite], values[finite]
        panel.plot(epochs, values, dashes, color=color, **line)
        end = np.minimum(values[-1:], top)
        panel.plot(epochs[-1:], end, color=color, linestyle="", clip_on=False, **mark)


def _scale_loss(panels: list[Axes], losses: np.ndarray, top: float) -> None:
    """Logarithmic if all finite losses are positive; up to `top`, but for a little room."""
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        return
    low, high = finite.min(), min(finite.max(), top)
    for panel in panels:
        if low > 0:
            _scale_log(panel.yaxis, low, high)
        else:
            room = 0.05 * (high - low) or 1.0
            panel.set_ylim(low - room, high + room)


def _scale_log(axis: Axis, low: float, high: float) -> None:
    """Logarithmic from `low` to `high` with some room; ticks at round numbers, written plainly."""
    room = max((high / low) ** 0.05, 1.05)
    low, high = low / room, high * room
    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (low, high)})
    if high / low < 3:
        axis.set_major_locator(MaxNLocator(4))
    elif high / low < 100:
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7) if high / low < 12 else (1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _draw_points(panel: Axes, runs: pd.DataFrame, name: str, colors: dict[str, str]) -> None:
    """The gap of the runs that have one against a measure, with the measure's errors."""
    finite = np.isfinite(runs[[name, "gap"]].astype(np.float64)).all(axis=1)
    runs = runs[finite & ~runs["diverged"].astype(bool)]
    if not len(runs):
        return
    runs = runs.assign(_error=runs.get(f"{name}_error", np.nan))
    kinds = ["optimizer", "sam", "converged"]
    for (optimizer, sam, converged), group in runs.groupby(kinds, sort=False):
        color = colors[optimizer]
        mark = {"fmt": "o" if converged else "X", "markerfacecolor": "white" if sam else color}
        bars = {"xerr": group["_error"], "elinewidth": 0.8}
        panel.errorbar(group[name], group["gap"], color=color, **mark, **bars)
    if (runs[name] > 0).all():
        error = runs["_error"].where(np.isfinite(runs["_error"]), 0.0)
        low, high = runs[name] - error, runs[name] + error
        _scale_log(panel.xaxis, low.where(low > 0, runs[name]).min(), high.max())


def _correlation_title(result: Correlation) -> str:
    """Both coefficients, and the runs behind them."""
    total = result.num_runs + sum(result.excluded.values())
    out = ", ".join(f"{count} {reason}" for reason, count in result.excluded.items() if count)
    return (
        f"Kendall's τ, raw: {_coefficient_text(result.raw, result.confidence)}\n"
        f"within groups: {_coefficient_text(result.within, result.confidence)}\n"
        f"{result.num_runs} of {total} runs{out and f' (out: {out})'}"
    )


def _coefficient_text(coefficient: Coefficient, confidence: float) -> str:
    if np.isnan(coefficient.value):
        return "undefined"
    value, low, high = (f"{v:+.2f}".replace("-", "\N{MINUS SIGN}") for v in coefficient)
    return f"{value} ({100 * confidence:g}%: {low} to {high})"


def _label(panels: list[Axes], x: str | None, y: str) -> None:
    """Label the outer axes, or say that there is nothing to see."""
    for panel in panels:
        place = panel.get_subplotspec()
        if place.is_first_col() or len(panels) == 1:
            panel.set_ylabel(y)
        if x is not None:
            panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            below = place.rowspan.stop * place.get_gridspec().ncols + place.colspan.start
            if below >= len(panels):
                panel.set_xlabel(x)
                panel.tick_params(labelbottom=True)
        if panel.has_data():
            continue
        panel.text(0.5, 0.5, NOTHING, transform=panel.transAxes, ha="center", color=GREY)
        if not any(other.has_data() for other in panels):
            panel.set(xticks=[], yticks=[])
        elif x is None:
            panel.set_xticks([])


def _key(label: str, color: str = GREY, **line) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], color=color, label=label, **line)


def _line_keys(losses: np.ndarray) -> list[Line2D]:
    end = _key("end of a run", marker="o", linestyle="", markersize=3)
    keys = [_key("training data"), _key("test data", linestyle="--"), end]
    if np.isfinite(losses).all():
        return keys
    return [*keys, _key("loss not finite", marker="x", linestyle="")]


def _legend(figure: Figure, keys: list[Line2D], columns: Sequence[int]) -> None:
    """Below the panels, with as many columns as fit below one, two or three panels."""
    width = figure.axes[0].get_gridspec().ncols
    figure.legend(handles=keys, loc="outside lower center", ncols=columns[width - 1])


def _colors(num: int) -> list[str]:
    """Colours to tell apart; beyond the palette, shades of one map."""
    if num <= len(PALETTE):
        return list(PALETTE[:num])
    return [mpl.colors.to_hex(c) for c in mpl.colormaps["viridis"](np.linspace(0, 0.95, num))]
