"""The look of all figures: style, panels, colours, legends, and how a file is written."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxsharp.analysis import ticks

# Okabe and Ito, then two of Tol: told apart under common colour-vision deficiencies, and in print.
BLUE, RED = "#0072B2", "#D55E00"
PALETTE = (BLUE, RED, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255", "#999933")
MARKERS = ("o", "s", "^", "D", "v", "P", "*", "<", ">")
GREY = "#595959"
NOTHING = "no usable runs"
STYLE = {
    "font.size": ticks.FONT,
    "axes.titlesize": 8.2,
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
FORMATS = tuple(suffix[1:] for suffix in METADATA)


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


def save_as(figure: Figure, path: str | os.PathLike, formats: Sequence[str]) -> None:
    """Write a figure in each of some `FORMATS`, `path` being without a suffix.

    A file that is there in another format, of an earlier time, is written anew too, so that no two
    show different figures. Raises ValueError for a format that is none.
    """
    path = Path(path)
    paths = {known: path.with_name(f"{path.name}.{known}") for known in FORMATS}
    if unknown := sorted(set(formats) - set(paths)):
        raise ValueError(f"format is {unknown[0]!r}; it must be one of {', '.join(FORMATS)}")
    for known, each in paths.items():
        if known in formats or each.exists():
            save(figure, each)


def style() -> AbstractContextManager:
    """The look of all figures, whatever the user's matplotlibrc says, for the time of a block."""
    return matplotlib.style.context(["default", STYLE])


def panels(num: int, *, width: float, height: float, **share: bool) -> tuple[Figure, list[Axes]]:
    """A figure with at least one and otherwise `num` panels, at most three a row."""
    num = max(num, 1)
    columns = 2 if num == 4 else min(num, 3)
    figure, axes = grid(-(-num // columns), columns, width=width, height=height, **share)
    for spare in axes.ravel()[num:]:
        spare.remove()
    return figure, list(axes.ravel()[:num])


def grid(
    rows: int, columns: int, *, width: float, height: float, **share: bool | str
) -> tuple[Figure, np.ndarray]:
    """A figure with panels in rows and columns, at least one."""
    rows, columns = max(rows, 1), max(columns, 1)
    figure = Figure(figsize=(max(width * columns, 4.2), height * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **share)
    for panel in axes.ravel():
        ticks.space(panel.xaxis)
        ticks.space(panel.yaxis)
    return figure, axes


def label(panels: list[Axes], x: str | None, y: str) -> None:
    """Label the outer axes, or say that there is nothing to see."""
    for panel in panels:
        place = panel.get_subplotspec()
        if place.is_first_col() or len(panels) == 1:
            panel.set_ylabel(y)
        if x is not None:
            ticks.space(panel.xaxis, whole=True)
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
    """Below the panels, with as many columns as fit; none of no keys."""
    if not keys:
        return
    columns = num_columns(keys, figure.get_figwidth())
    figure.legend(handles=keys, loc="outside lower center", ncols=columns)


def colors(num: int) -> list[str]:
    """Colours to tell apart; beyond the palette, shades of one map."""
    if num <= len(PALETTE):
        return list(PALETTE[:num])
    return [mpl.colors.to_hex(c) for c in mpl.colormaps["viridis"](np.linspace(0, 0.95, num))]
