"""Every figure, drawn from tables alone: no global state, and equal tables give equal files.

Tables are those of ``runs``: a row a run, or a row a run and epoch; spectra are drawn from their
quadrature rules. Figures say what they leave out: a run that diverged has no point, and a panel
without points says that there are none.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxsharp.analysis import canvas
from jaxsharp.analysis.coefficients import Coefficient
from jaxsharp.analysis.statistics import Correlation, unfinished
from jaxsharp.curvature.density import SpectralDensity

LABELS = {
    "minimum_sharpness": "minimum sharpness (rescaled Hessian trace)",
    "top_eigenvalue": "largest eigenvalue of the Hessian",
    "random_perturbation": "rise of the loss at random points (nats)",
    "random_perturbation_bn": "rise of the loss at random points,\nBatchNorm recomputed (nats)",
}
LOSSES = ["train_loss", "test_loss"]


def training_curves(history: pd.DataFrame) -> Figure:
    """Return the loss of every run against the epoch, a panel for each optimizer, on equal axes.

    Colour tells the SAM variant, a dashed line the test loss. Each run has its own thin line: runs
    end at different epochs, so a mean over seeds would jump where one ends. A dot is the end of a
    run, a cross that of one whose loss did not stay finite. The axis is logarithmic if all losses
    are positive, and ends at the largest loss of the runs that stayed finite.
    """
    measured = ("epoch", "_loss", "_accuracy")
    of_a_run = [name for name in history if not name.endswith(measured)]
    losses, top = _losses(run for _, run in history.groupby(of_a_run, dropna=False))
    with canvas.style():
        num = history["optimizer"].nunique()
        looks = {s: {"color": c} for s, c in _by_variant(history, canvas.PALETTE).items()}
        figure, panels = canvas.panels(num, width=3.1, height=2.5, sharex=True, sharey=True)
        optimizers = history.groupby("optimizer", sort=False)
        for panel, (optimizer, part) in zip(panels, optimizers, strict=False):
            panel.set_title(optimizer)
            for _, run in part.groupby(of_a_run, sort=False, dropna=False):
                look = looks[run["sam"].iloc[0]]
                _draw_run(panel, run, "loss", **look, top=top, linewidth=0.9, alpha=0.8)
        _scale_loss(panels, losses, top)
        canvas.label(panels, "epoch", "loss (nats)")
        canvas.legend(figure, [*_variant_keys(looks), *_line_keys(losses)])
    return figure


def sharpness_against_gap(
    runs: pd.DataFrame, measures: Sequence[str], correlations: Mapping[str, Correlation]
) -> Figure:
    """Return the generalization gap of every run against its sharpness, a panel for each measure.

    Colour tells the optimizer, the marker's shape the SAM variant. A hollow marker is a run that
    did not converge: drawn, but no part of the coefficients in the title. Bars are NAME_error to
    both sides. A value that is not finished (NAME_finished) is not drawn. Values that are all
    positive get a logarithmic axis. Raises ValueError for a measure that has no correlation.
    """
    missing = [name for name in measures if name not in correlations]
    if missing:
        raise ValueError(f"correlations lacks {missing}; it has {list(correlations)}")
    optimizers = list(runs["optimizer"].unique())
    colors = dict(zip(optimizers, canvas.colors(len(optimizers)), strict=True))
    markers = _by_variant(runs, canvas.MARKERS)
    with canvas.style():
        figure, panels = canvas.panels(len(measures), width=3.6, height=3.6, sharey=True)
        for panel, name in zip(panels, measures, strict=False):
            _draw_points(panel, runs, name, colors, markers)
            panel.set_title(_correlation_title(correlations[name]))
            panel.set_xlabel(LABELS.get(name, name.replace("_", " ")))
        canvas.label(panels, None, "generalization gap (percentage points)")
        dot = {"marker": "o", "linestyle": ""}
        keys = [canvas.key(name, color, **dot) for name, color in colors.items()]
        keys += _variant_keys({sam: {**dot, "marker": m} for sam, m in markers.items()})
        keys.append(canvas.key("unconverged", markerfacecolor="white", **dot))
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
            percent = {name: 100 * history[name] for name in ("train_accuracy", "test_accuracy")}
            _draw_run(panels[0], history, "loss", color, top=top)
            _draw_run(panels[1], history.assign(**percent), "accuracy", color)
        _scale_loss(panels[:1], losses, top)
        canvas.label(panels[:1], "epoch", "loss (nats)")
        canvas.label(panels[1:], "epoch", "accuracy (%)")
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
            canvas.scale_log(panel.yaxis, floor, top)
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
            canvas.scale_log(panel.yaxis, low, high)
        else:
            room = 0.05 * (high - low) or 1.0
            panel.set_ylim(low - room, high + room)


def _draw_points(panel: Axes, runs: pd.DataFrame, name: str, colors: dict, markers: dict) -> None:
    """The gap of the runs that have one against a finished measure, with the measure's errors."""
    finite = np.isfinite(runs[[name, "gap"]].astype(np.float64)).all(axis=1)
    runs = runs[finite & ~runs["diverged"].astype(bool) & ~unfinished(runs, name)]
    if not len(runs):
        return
    runs = runs.assign(_error=runs.get(f"{name}_error", np.nan))
    kinds = ["optimizer", "sam", "converged"]
    for (optimizer, sam, converged), group in runs.groupby(kinds, sort=False):
        color = colors[optimizer]
        mark = {"fmt": markers[sam], "markerfacecolor": color if converged else "white"}
        bars = {"xerr": group["_error"], "elinewidth": 0.8}
        panel.errorbar(group[name], group["gap"], color=color, **mark, **bars)
    if (runs[name] > 0).all():
        error = runs["_error"].where(np.isfinite(runs["_error"]), 0.0)
        low, high = runs[name] - error, runs[name] + error
        canvas.scale_log(panel.xaxis, low.where(low > 0, runs[name]).min(), high.max())


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
    value, low, high = (f"{v:+.2f}".replace("-", "\N{MINUS SIGN}") for v in coefficient[:3])
    if coefficient.remark:
        return f"{value} (no interval: {coefficient.remark})"
    return f"{value} ({100 * confidence:g}%: {low} to {high})"


def _line_keys(losses: np.ndarray) -> list[Line2D]:
    end = canvas.key("end of a run", marker="o", linestyle="", markersize=3)
    keys = [canvas.key("training data"), canvas.key("test data", linestyle="--"), end]
    if np.isfinite(losses).all():
        return keys
    return [*keys, canvas.key("loss not finite", marker="x", linestyle="")]


def _by_variant(table: pd.DataFrame, looks: Sequence[str]) -> dict[str, str]:
    """A look for each SAM variant in a table; none has the first of them in every figure."""
    found = list(table["sam"].unique())
    others = zip((name for name in found if name != "none"), itertools.cycle(looks[1:]))
    return ({"none": looks[0]} if "none" in found else {}) | dict(others)


def _variant_keys(looks: Mapping[str, dict]) -> list[Line2D]:
    texts = {"none": "without SAM"}
    return [canvas.key(texts.get(sam, sam), **look) for sam, look in looks.items()]
