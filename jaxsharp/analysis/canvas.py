"""The look of all figures: style, panels, axes, colours, legends, and how a file is written."""

import os
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

# Okabe and Ito, then two of Tol: told apart under common colour-vision deficiencies, and in print.
BLUE, RED = "#0072B2", "#D55E00"
PALETTE = (BLUE, RED, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255", "#999933")
MARKERS = ("o", "s", "^", "D", "v", "P", "*", "<", ">")
GREY = "#595959"
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
    temporary.unlink(missing_ok=True)  # never written through, should it be a link
    try:
        with style():
            figure.savefig(temporary, format=suffix[1:], metadata=METADATA[suffix])
        os.replace(temporary, path)
    except OSError as error:  # names what is written on the way, or nothing
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def style() -> AbstractContextManager:
    """The look of all figures, whatever the user's matplotlibrc says, for the time of a block."""
    return matplotlib.style.context(["default", STYLE])


def panels(num: int, *, width: float, height: float, **share: bool) -> tuple[Figure, list[Axes]]:
    """A figure with at least one and otherwise `num` panels, at most three a row."""
    num = max(num, 1)
    columns = 2 if num == 4 else min(num, 3)
    rows = -(-num // columns)
    figure = Figure(figsize=(max(width * columns, 4.2), height * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **share).ravel()
    for spare in axes[num:]:
        spare.remove()
    return figure, list(axes[:num])


def scale_log(axis: Axis, low: float, high: float) -> None:
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


def label(panels: list[Axes], x: str | None, y: str) -> None:
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


def key(label: str, color: str = GREY, **line) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], color=color, label=label, **line)


def num_columns(keys: list[Line2D], width: float) -> int:
    """Columns of a legend that fit a page of this width in inches, 14 letters to the inch."""
    widest = max(len(key.get_label()) for key in keys) + 8  # for the line and the space
    return max(1, min(int(14 * width / widest), len(keys)))


def legend(figure: Figure, keys: list[Line2D]) -> None:
    """Below the panels, with as many columns as fit."""
    columns = num_columns(keys, figure.get_figwidth())
    figure.legend(handles=keys, loc="outside lower center", ncols=columns)


def colors(num: int) -> list[str]:
    """Colours to tell apart; beyond the palette, shades of one map."""
    if num <= len(PALETTE):
        return list(PALETTE[:num])
    return [mpl.colors.to_hex(c) for c in mpl.colormaps["viridis"](np.linspace(0, 0.95, num))]
