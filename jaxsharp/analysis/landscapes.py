"""The loss along lines and over planes of parameter space, as figures."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from jaxtyping import ArrayLike
from matplotlib.figure import Figure

from jaxsharp.analysis import canvas, ticks

Numbers = ArrayLike | Sequence[float | int]
LEVELS = 12


def loss_lines(
    distances: Numbers, losses: Mapping[str, Numbers], *, label: str = "distance"
) -> Figure:
    """Return labelled losses along lines against the distance, in nats; dots are what was computed.

    ``losses`` has an array like ``distances`` for each line, ``label`` says what distances are. The
    axis is logarithmic where all finite losses are positive and spread over more than a factor of
    10. Losses that are not finite are gaps in a line. Raises ValueError for another number of
    losses than distances.
    """
    distances = np.asarray(distances, np.float64)
    lines = {name: np.asarray(values, np.float64) for name, values in losses.items()}
    for name, values in lines.items():
        if values.shape != distances.shape or values.ndim != 1:
            raise ValueError(
                f"losses of {name} have shape {values.shape}; it must be that of distances, "
                f"{distances.shape}, of one axis"
            )
    colors = dict(zip(lines, canvas.colors(len(lines)), strict=True))
    with canvas.style():
        figure, (panel,) = canvas.panels(1, width=4.6, height=3.2)
        for name, values in lines.items():
            shown = np.where(np.isfinite(values), values, np.nan)
            panel.plot(distances, shown, color=colors[name], marker="o", markersize=2.5)
        finite = _finite(lines.values())
        if finite.size and finite.min() > 0 and finite.max() > 10 * finite.min():
            ticks.scale_log(panel.yaxis, finite.min(), finite.max())
        canvas.label([panel], None, "loss (nats)")
        panel.set_xlabel(label)
        canvas.legend(figure, [canvas.key(name, color) for name, color in colors.items()])
    return figure


def loss_plane(
    xs: Numbers,
    ys: Numbers,
    losses: ArrayLike,
    *,
    points: Mapping[str, tuple[float, float]] | None = None,
    labels: tuple[str, str] = ("distance", "distance"),
) -> Figure:
    """Return the loss over a plane as contours, in nats, with labelled points.

    ``losses`` has a row for every one of ``ys`` and a column for every one of ``xs``, both
    increasing. Levels are logarithmic where all finite losses are positive and spread over more
    than a factor of 10; where the loss is not finite nothing is drawn. Raises ValueError for
    another shape, places that do not increase, and if no loss is finite.
    """
    xs, ys, losses = (np.asarray(values, np.float64) for values in (xs, ys, losses))
    if (
        xs.ndim != 1
        or ys.ndim != 1
        or min(xs.size, ys.size) < 2
        or losses.shape != (*ys.shape, *xs.shape)
    ):
        raise ValueError(
            f"losses have shape {losses.shape} for {xs.size} xs and {ys.size} ys; they must have a "
            "row for each of at least 2 ys, and a column for each of at least 2 xs"
        )
    for name, places in (("xs", xs), ("ys", ys)):
        if not np.all(np.diff(places) > 0):
            raise ValueError(f"{name} do not increase; give them, and the losses, in order")
    finite = _finite([losses])
    if not finite.size:
        raise ValueError("losses hold no finite number; at least one must be")
    low, high = finite.min(), finite.max()
    if low > 0 and high > 10 * low:
        levels, norm = np.geomspace(low, high, LEVELS), mpl.colors.LogNorm(low, high)
    else:
        room = 0.0 if high > low else 0.5 * abs(low) or 0.5
        levels = np.linspace(low - room, high + room, LEVELS)
        norm = mpl.colors.Normalize(levels[0], levels[-1])
    shown = np.ma.array(np.clip(losses, levels[0], levels[-1]), mask=~np.isfinite(losses))
    with canvas.style():
        figure, (panel,) = canvas.panels(1, width=4.6, height=3.6)
        filled = panel.contourf(xs, ys, shown, levels, norm=norm, cmap="viridis")
        panel.contour(xs, ys, shown, levels, norm=norm, colors="white", linewidths=0.4)
        bar = figure.colorbar(filled, ax=panel, label="loss (nats)")
        ticks.space(bar.ax.yaxis)
        named = points or {}
        keys = []
        for (name, place), marker in zip(named.items(), canvas.MARKERS * len(named), strict=False):
            look = {"marker": marker, "linestyle": ""}
            panel.plot(*place, color=canvas.RED, markeredgecolor="white", **look)
            keys.append(canvas.key(name, canvas.RED, **look))
        panel.grid(False)
        panel.set(xlabel=labels[0], ylabel=labels[1])
        canvas.legend(figure, keys)
    return figure


def _finite(arrays) -> np.ndarray:
    values = np.concatenate([*(np.ravel(array) for array in arrays), []])
    return values[np.isfinite(values)]
