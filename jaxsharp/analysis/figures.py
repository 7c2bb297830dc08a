"""Curves, drawn from tables alone: no global state, and equal tables give equal files.

Tables are those of ``runs``, a row a run and epoch; spectra are drawn from their quadrature rules.
"""

from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxsharp.analysis import canvas, looks, ticks
from jaxsharp.curvature.density import SpectralDensity

LOSSES = ["train_loss", "test_loss"]


def training_curves(history: pd.DataFrame, varied: Sequence[str] = ()) -> Figure:
    """Return the loss of every run against the epoch, a panel for each optimizer, on equal axes.

    Colour tells the SAM variant, shade and width the settings `varied`, a dashed line the test
    loss. Each run has its own thin line: runs end at different epochs, so a mean over seeds would
    jump where one ends. A dot is the end of a run, a cross that of one whose loss did not stay
    finite. The axis is logarithmic if all losses are positive, and ends at the largest loss of the
    runs that stayed finite.
    """
    measured = ("epoch", "_loss", "_accuracy")
    of_a_run = [name for name in history if not name.endswith(measured)]
    losses, top = _losses(run for _, run in history.groupby(of_a_run, dropna=False))
    with canvas.style():
        num = history["optimizer"].nunique()
        colors, shades = looks.variant_colors(history), looks.Varied(history, varied)
        figure, panels = canvas.panels(num, width=3.1, height=2.5, sharex=True, sharey=True)
        optimizers = history.groupby("optimizer", sort=False)
        for panel, (optimizer, part) in zip(panels, optimizers, strict=False):
            panel.set_title(optimizer)
            for _, run in part.groupby(of_a_run, sort=False, dropna=False):
                color = shades.color(colors[run["sam"].iloc[0]], run.iloc[0])
                width = 0.9 * shades.size(run.iloc[0])
                _draw_run(panel, run, "loss", color, top=top, linewidth=width, alpha=0.8)
        _scale_loss(panels, losses, top)
        canvas.label(panels, "epoch", "loss (nats)")
        keys = [canvas.key(looks.variant_label(sam), color) for sam, color in colors.items()]
        canvas.legend(figure, [*keys, *shades.keys(), *_line_keys(losses)])
    return figure


def tracked_curves(
    history: pd.DataFrame, names: Sequence[str], axes: Sequence[str], varied: Sequence[str] = ()
) -> Figure:
    """Return what was followed along training, a row a quantity and a column an optimizer.

    Of each run a line through the epochs that have a value, and beside it its edges, dashed and
    dotted: the columns NAME_edge and NAME_edge_large. ``axes`` and seed tell the runs apart.
    Colours, shades and widths are those of `training_curves`.
    """
    with canvas.style():
        colors, shades = looks.variant_colors(history), looks.Varied(history, varied)
        columns = list(history.groupby("optimizer", sort=False))
        size = {"width": 3.1, "height": 2.3}
        figure, panels = canvas.grid(len(names), len(columns), sharex=True, sharey="row", **size)
        for row, name in zip(panels, names, strict=True):
            ends = {"": "-", "_edge": "--", "_edge_large": ":"}
            lines = {name + end: style for end, style in ends.items() if name + end in history}
            for panel, (optimizer, part) in zip(row, columns, strict=True):
                panel.set_title(optimizer)
                for _, run in part.groupby([*axes, "seed"], sort=False, dropna=False):
                    look = {"color": shades.color(colors[run["sam"].iloc[0]], run.iloc[0])}
                    look |= {"linewidth": 0.9 * shades.size(run.iloc[0]), "alpha": 0.8}
                    for column, style in lines.items():
                        seen = run[np.isfinite(run[column].to_numpy(dtype=np.float64))]
                        mark = "." if column == name and len(seen) == 1 else ""
                        if len(seen):
                            panel.plot(seen["epoch"], seen[column], style, marker=mark, **look)
            values = history[list(lines)].to_numpy(dtype=np.float64)
            values = values[np.isfinite(values)]
            if values.size and values.min() > 0:
                for panel in row:
                    ticks.scale_log(panel.yaxis, values.min(), values.max())
            canvas.label(list(row), "epoch" if name == names[-1] else None, looks.words(name))
        keys = [canvas.key(looks.variant_label(sam), color) for sam, color in colors.items()]
        keys += [*shades.keys(), canvas.key("edge", linestyle="--")]
        if any(f"{name}_edge_large" in history for name in names):
            keys.append(canvas.key("edge of large batches", linestyle=":"))
        canvas.legend(figure, keys)
    return figure


def run_curves(histories: Mapping[str, pd.DataFrame | list[pd.DataFrame]]) -> Figure:
    """Return loss and accuracy of labelled runs, drawn as in `training_curves` but for colours.

    The runs of one label, which differ in their seeds, say, have one colour.
    """
    of = {k: [runs] if isinstance(runs, pd.DataFrame) else runs for k, runs in histories.items()}
    colors = canvas.colors(len(of))
    pairs = [(run, c) for runs, c in zip(of.values(), colors, strict=True) for run in runs]
    losses, top = _losses(run for run, _ in pairs)
    with canvas.style():
        keys = [canvas.key(label, color) for label, color in zip(of, colors, strict=True)]
        keys += _line_keys(losses)
        rows = -(-len(keys) // canvas.num_columns(keys, 2 * 3.9))
        figure, panels = canvas.panels(2, width=3.9, height=2.9 + 0.18 * rows)
        for history, color in pairs:
            _draw_run(panels[0], history, "loss", color, top=top)
            _draw_run(panels[1], history, "accuracy", color)
        _scale_loss(panels[:1], losses, top)
        canvas.label(panels[:1], "epoch", "loss (nats)")
        canvas.label(panels[1:], "epoch", "accuracy")
        canvas.legend(figure, keys)
    return figure


def spectral_densities(
    densities: Mapping[str, SpectralDensity], *, width: float | None = None
) -> Figure:
    """Return labelled densities of eigenvalues, smoothed, on a logarithmic axis.

    Every eigenvalue is drawn as a normal distribution of standard deviation `width`, by default a
    hundredth of the range of all. Bands are one standard error over the probes to both sides. The
    axis ends at a tenth of the height of a single eigenvalue. A density that is not finite is left
    out. Raises ValueError for a width that is not positive.
    """
    finite = {k: d for k, d in densities.items() if np.isfinite(d.nodes).all()}
    nodes = np.concatenate([np.ravel(d.nodes[d.weights > 0]) for d in finite.values()] or [[0.0]])
    low, high = nodes.min(), nodes.max()
    if width is None:
        width = float((high - low) or abs(high) or 1.0) / 100
    points = jnp.linspace(low - 5 * width, high + 5 * width, 2001)
    smooth = {k: density.smoothed(points, width) for k, density in finite.items()}
    singles = [1 / (d.dimension * width * np.sqrt(2 * np.pi)) for d in finite.values()]
    floor, top = min(singles, default=0.0) / 10, 0.0
    colors = dict(zip(densities, canvas.colors(len(densities)), strict=True))
    with canvas.style():
        figure, (panel,) = canvas.panels(1, width=5.2, height=3.4)
        for label, estimate in smooth.items():
            mean, stderr = (np.asarray(values, np.float64) for values in estimate)
            panel.plot(points, mean, color=colors[label])
            band = {"color": colors[label], "alpha": 0.25, "linewidth": 0}
            edges = (np.maximum(edge, floor / 100) for edge in (mean - stderr, mean + stderr))
            panel.fill_between(points, *edges, **band)
            top = max(top, (mean + stderr).max())
        if finite:
            ticks.scale_log(panel.yaxis, floor, top)
        canvas.label([panel], None, f"density (each eigenvalue {width:.2g} wide)")
        panel.set_xlabel("eigenvalue")
        canvas.legend(figure, [canvas.key(label, color) for label, color in colors.items()])
    return figure


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
            ticks.scale_log(panel.yaxis, low, high)
        else:
            room = 0.05 * (high - low) or 1.0
            panel.set_ylim(low - room, high + room)


def _line_keys(losses: np.ndarray) -> list[Line2D]:
    end = canvas.key("end of a run", marker="o", linestyle="", markersize=3)
    keys = [canvas.key("training data"), canvas.key("test data", linestyle="--"), end]
    if np.isfinite(losses).all():
        return keys
    return [*keys, canvas.key("loss not finite", marker="x", linestyle="")]
