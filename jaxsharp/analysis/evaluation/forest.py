"""Measures against coefficients with intervals, controls beside them."""

import numpy as np
from matplotlib.figure import Figure

from jaxsharp.analysis import canvas, looks
from jaxsharp.analysis.evaluation.evaluating import Evaluation
from jaxsharp.analysis.hypotheses import EXPLORATORY

PANELS = {
    "raw": "raw tau",
    "within": "tau within configurations",
    "given_all": "tau given loss and settings",
}
LOOKS = {
    "measure": {"color": canvas.BLUE, "marker": "o"},
    "hypothesis": {"color": canvas.BLUE, "marker": "o"},
    EXPLORATORY: {"color": canvas.BLUE, "marker": "D", "markerfacecolor": "white"},
    "control": {"color": canvas.GREY, "marker": "s", "markerfacecolor": "white"},
}


def forest(found: Evaluation) -> Figure:
    """Return a figure with a row a measure, then a row a control, and a panel a coefficient.

    Bars are intervals; a point without one has none (the table says why), a row without a point no
    coefficient. Measures with a hypothesis have the expected sign behind their names, others are
    diamonds.
    """
    rows, names = found.table, [looks.words(name) for name in found.table["measure"]]
    kinds = rows["kind"]
    if "hypothesis" in rows:
        stated = kinds.eq("measure") & rows["hypothesis"].ne(EXPLORATORY)
        kinds = kinds.where(kinds.ne("measure"), EXPLORATORY).mask(stated, "hypothesis")
        signs = rows["hypothesis"].where(stated, "")
        names = [
            f"{name} ({sign})" if sign else name for name, sign in zip(names, signs, strict=True)
        ]
    shown = {kind: look for kind, look in LOOKS.items() if kinds.eq(kind).any()}
    places = np.arange(len(rows))[::-1]
    with canvas.style():
        height = 0.22 * len(rows) + 0.9
        figure, panels = canvas.grid(1, len(PANELS), width=2.7, height=height, sharey=True)
        for panel, (name, title) in zip(panels[0], PANELS.items(), strict=True):
            panel.axvline(0, color=canvas.GREY, linewidth=0.8)
            for kind, look in shown.items():
                chosen = kinds.eq(kind) & rows[name].notna()
                part = rows[chosen]
                ends = [part[name] - part[f"{name}_low"], part[f"{name}_high"] - part[name]]
                where = places[chosen.to_numpy()]
                bars = np.nan_to_num(np.stack(ends).astype(np.float64))
                panel.errorbar(part[name], where, xerr=bars, linestyle="", **look)
            panel.set(title=title, xlim=(-1.05, 1.05), ylim=(-0.6, len(rows) - 0.4))
            panel.grid(axis="y", visible=False)
        panels[0, 0].set_yticks(places, names)
        panels[0, 1].set_xlabel(
            f"Kendall's \N{GREEK SMALL LETTER TAU} with {looks.words(found.target)}, "
            f"{100 * found.confidence:g} % intervals"
        )
        keys = [canvas.key(kind, linestyle="", **look) for kind, look in shown.items()]
        canvas.legend(figure, keys)
    return figure
