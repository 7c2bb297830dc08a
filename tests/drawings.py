"""Tables of small studies, their figures, and what is read back from the artists."""

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd

from jaxsharp import analysis

NAN = float("nan")
MEASURES = ["minimum_sharpness", "top_eigenvalue"]
VARIANTS = ("none", "sam", "asam")


def one_history(optimizer="sgd", sam="none", seed=0, epochs=5):
    """A run whose losses fall from 1 and 2, by the epoch, the seed and the variant."""
    epoch = np.arange(1, epochs + 1)
    loss = np.exp(-0.3 * epoch * (1 + 0.1 * seed + 0.02 * len(sam)))
    return pd.DataFrame(
        {
            "optimizer": optimizer,
            "sam": sam,
            "seed": seed,
            "epoch": epoch,
            "train_loss": loss,
            "train_accuracy": 1 - loss / 2,
            "test_loss": 2 * loss,
            "test_accuracy": 0.9 - loss / 2,
        }
    )


def study_history(optimizers=("sgd", "adam"), seeds=3, variants=VARIANTS):
    """Every run of a small study; the later seeds stop later."""
    return pd.concat(
        [
            one_history(optimizer, sam, seed, epochs=5 + seed)
            for optimizer in optimizers
            for sam in variants
            for seed in range(seeds)
        ],
        ignore_index=True,
    )


def study_runs(optimizers=("sgd", "adam"), seeds=3, variants=("none", "sam")):
    """Runs whose sharpness and gap are increasing with the row."""
    keys = [(o, sam, s) for o in optimizers for sam in variants for s in range(seeds)]
    runs = pd.DataFrame(keys, columns=["optimizer", "sam", "seed"])
    row = np.arange(len(runs))
    return runs.assign(
        converged=True,
        diverged=False,
        gap=0.05 + 0.01 * row,
        minimum_sharpness=10.0 * 1.5**row,
        minimum_sharpness_error=0.5 + row,
        top_eigenvalue=row - 1.5,
        top_eigenvalue_error=0.25,
    )


def varied_runs(varied, **options):
    """Such runs at every combination of the values of some settings."""
    tables = []
    for values in itertools.product(*varied.values()):
        runs = study_runs(**options).assign(**dict(zip(varied, values, strict=True)))
        tables.append(runs.assign(minimum_sharpness=runs["minimum_sharpness"] * (1 + sum(values))))
    return pd.concat(tables, ignore_index=True)


def against_gap(runs, measures=MEASURES, varied=()):
    groups = ["optimizer", "sam", *varied]
    correlations = {name: analysis.correlation(runs, name, "gap", groups) for name in measures}
    return analysis.sharpness_against_gap(runs, measures, correlations, varied)


def labels_too_near(figure):
    """Neighbouring tick labels of a drawn figure that touch, or nearly, axis by axis."""
    found = []
    for axis in [axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        shown = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
        boxes = [t.label1.get_window_extent() for t in shown if t.label1.get_visible()]
        found += [(a, b) for a, b in itertools.pairwise(boxes) if a.padded(2).overlaps(b)]
    return found


def curves(panel, linestyle):
    return [line for line in panel.lines if line.get_linestyle() == linestyle]


def marks(panel, marker):
    return [line for line in panel.lines if line.get_marker() == marker]


def containers(panel):
    return [
        (c, c.lines[0].get_marker(), mpl.colors.to_hex(c.lines[0].get_markerfacecolor()))
        for c in panel.containers
    ]


def texts(panel):
    return [text.get_text() for text in panel.texts]


def legend(figure):
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def drawn(figure):
    """The figure, after everything that only happens when it is drawn."""
    figure.draw_without_rendering()
    return figure
