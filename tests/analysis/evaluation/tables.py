"""Tables of runs that are hard in some way, and plain loops over their pairs."""

import itertools
import math

import numpy as np
import pandas as pd

from jaxsharp.analysis.evaluation.samples import sample

NAN = float("nan")


def runs_of(kind):
    """A table with two numeric hyper-parameters and one of texts, 5 seeds, or what `kind` says."""
    rng = np.random.default_rng(7)
    grid = itertools.product([0.1, 0.01, 0.001], [32, 64], ["a", "b"], range(5))
    runs = pd.DataFrame(list(grid), columns=["rate", "size", "name", "seed"])
    runs["train_loss"] = np.exp(rng.normal(size=len(runs)) + 0.3 * runs["size"] / 32)
    runs["x"] = np.exp(rng.normal(size=len(runs)) + np.log10(runs["rate"]))
    runs["gap"] = np.log(runs["x"]) + runs["train_loss"] + rng.normal(size=len(runs))
    runs["error"] = 0.0
    if kind == "ties":
        runs["x"], runs["gap"] = np.ceil(3 * runs["x"]), np.round(runs["gap"] / 2)
        runs["train_loss"] = np.round(runs["train_loss"])
    elif kind == "errors":
        runs["error"] = 0.3 * runs["x"] * rng.uniform(size=len(runs))
    elif kind == "missing hyper":
        runs.loc[runs["name"] == "a", "rate"] = NAN
    elif kind == "one seed":
        runs = runs[runs["seed"] == 0]
    elif kind == "unequal":
        runs = runs[rng.uniform(size=len(runs)) < 0.6]
    return runs.reset_index(drop=True)


KINDS = ["plain", "ties", "errors", "missing hyper", "one seed", "unequal"]
HYPER = ["rate", "size", "name"]


def sampled(runs, **options):
    usual = {"error": "error", "loss": "train_loss", "hyper": HYPER, "seed": "seed"}
    return sample(runs, "x", "gap", **{**usual, **options})


def sign_x(a, b):
    within = abs(a.x - b.x) < 2 * math.hypot(a.error, b.error)
    return 0 if within else np.sign(a.x - b.x)


def sign_y(a, b):
    return np.sign(a.gap - b.gap)


def values_of(run, names=HYPER):
    """Hyper-parameters that compare equal where both are missing."""
    return tuple(str(getattr(run, name)) for name in names)


def naive_tau(rows, keep=lambda a, b: True):
    both = in_x = in_y = 0
    for a, b in itertools.combinations(rows, 2):
        if keep(a, b):
            both += sign_x(a, b) * sign_y(a, b)
            in_x, in_y = in_x + sign_x(a, b) ** 2, in_y + sign_y(a, b) ** 2
    return both / math.sqrt(in_x * in_y) if in_x * in_y else NAN


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
