"""Studies as a page shows them, made without training, and what a page says of them."""

import html
import json
import re

import numpy as np
import pandas as pd

from jaxsharp.analysis.page import Study, page_of
from jaxsharp.analysis.results import study_result

MEASURES = ("minimum_sharpness", "top_eigenvalue", "random_perturbation")
OPTIMIZERS = ("sgd", "heavy_ball", "adagrad", "adam", "adabound")
RATES = tuple(0.001 * 2.0**i for i in range(10))
LAST = 200
NAN, INFINITY = float("nan"), float("inf")


def many_runs(optimizers=OPTIMIZERS, rates=RATES, seeds=5, sam=("none", "sam")):
    """500 runs with no digit alike; every eighth did not converge."""
    axes = {"optimizer": optimizers, "sam": sam, "learning_rate": rates, "seed": range(seeds)}
    runs = pd.MultiIndex.from_product(axes.values(), names=axes).to_frame(index=False)
    rng, num = np.random.default_rng(0), len(runs)
    runs["dataset"], runs["model"] = "digits", "small_mlp"
    runs["converged"], runs["diverged"] = np.arange(num) % 8 > 0, False
    runs["epochs"] = LAST
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        runs[name] = rng.random(num)
    runs["gap"] = runs["train_accuracy"] - runs["test_accuracy"]
    runs["loss_gap"] = runs["test_loss"] - runs["train_loss"]
    for name in MEASURES:
        runs[name] = rng.lognormal(size=num)
        runs[f"{name}_error"] = runs[name] / 10
        runs[f"{name}_finished"] = True
    return runs


def history_of(runs, axes, epochs=LAST):
    """Curves of all runs that fall from one, of the losses, the accuracies and one measure."""
    table = runs[[*axes, "seed"]].merge(pd.DataFrame({"epoch": range(1, epochs + 1)}), how="cross")
    rng = np.random.default_rng(1)
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        table[name] = rng.random(len(table)) / table["epoch"]
    return table


def study_of(runs, axes=("optimizer", "sam"), measures=MEASURES, epochs=LAST, **more):
    """A study of these runs, with a history."""
    history = history_of(runs, axes, epochs)
    result = study_result(runs, list(axes), list(measures))
    return Study(**{"name": "made", "result": result, "axes": axes, "history": history, **more})


def content_of(page):
    """What the script of a page reads."""
    (text,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', page)
    return json.loads(text)


def small_page(**more):
    """A page on twelve runs."""
    runs = many_runs(("sgd", "adam"), RATES[:1], 3)
    return page_of([study_of(runs, epochs=5, **more)])


def title_of(page):
    """The title of a page."""
    return html.unescape(re.search(r"<title>(.*?)</title>", page)[1])
