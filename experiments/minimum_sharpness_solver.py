"""Does the published solver of minimum sharpness reach the minimum?

    python experiments/minimum_sharpness_solver.py

Ibayashi et al. (2021, arXiv 2106.12612) minimize the traces of a network's Hessian over its
rescalings by 10,000 steps of gradient descent with a decaying rate, from v = 0. The problem is
convex, and `measures.minimize_over_scales` solves it with a certificate, the duality gap. Here
both, from the same exact traces, on networks that six optimizers trained on FashionMNIST (`apt-get
install dataset-fashion-mnist`) until the training loss is below 0.01: an MLP, and
SimpleBatch, which has BatchNorm. Also 100 times as many steps of theirs. An interrupted study
continues where it was. `--smoke` takes a few digits.
"""

import dataclasses
import importlib.metadata
import json
import platform
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.stats
import tyro

from jaxsharp import curvature, data, measures, networks, runs
from jaxsharp.cli import main

MODELS = ("mlp", "simple_batch")
STEPS = {"published": 10_000, "published_100": 1_000_000}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is trained."""

    dataset: str = "fashion_mnist"
    models: tuple[str, ...] = MODELS
    train_size: int = 1000
    holdout: int = 1000
    epochs: int = 200
    optimizers: str = "sgd,heavy_ball,adagrad,adam,adashift,adabound"


SMOKE = Sizes("digits", ("small_mlp",), 150, 0, 1, "sgd,adam")


def minimum_sharpness_solver(
    *,
    out: Path = Path("runs/minimum_sharpness_solver"),
    data_dir: Path | None = None,
    seeds: int = 1,
    smoke: bool = False,
) -> None:
    """Train the networks and solve for each by both.

    Args:
        out: Folder of the studies and the table.
        data_dir: Directory with the official files of FashionMNIST.
        seeds: Networks of each optimizer.
        smoke: A few digits, one small network, one epoch.
    """
    sizes = SMOKE if smoke else Sizes()
    rows = []
    for model in sizes.models:
        study = out / model
        arguments = ["--dataset", sizes.dataset, "--model", model, "--sam", "none"]
        arguments += ["--holdout", str(sizes.holdout)]
        arguments += ["--train-size", str(sizes.train_size), "--epochs", str(sizes.epochs)]
        arguments += ["--optimizers", sizes.optimizers, "--seeds", str(seeds)]
        arguments += ["--measures", "num_parameters", "--out", str(study)]
        place = [] if data_dir is None else ["--data-dir", str(data_dir)]
        main(["study", *arguments, *place])
        kept = {"train_size": sizes.train_size, "holdout": sizes.holdout}
        dataset = data.load(sizes.dataset, data_dir=data_dir, **kept)
        rows += [solved(run, dataset) for run in sorted((study / "runs").iterdir())]
    table = pd.DataFrame(rows)
    table.to_csv(out / "solutions.csv", index=False)
    figure(table, out / "solvers.png")
    versions = {p: importlib.metadata.version(p) for p in ("jax", "optax", "numpy", "scipy")}
    machine = {"python": platform.python_version(), "machine": platform.machine(), **versions}
    settings = dataclasses.asdict(sizes) | {"seeds": seeds, "steps": STEPS, "made_with": machine}
    (out / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
    print(table.to_string(index=False))
    print(found(table).to_string(index=False))


def solved(run: Path, dataset: data.Dataset) -> dict:
    """Minimum sharpness of a trained run by both solvers, from the same exact traces."""
    config = runs.read_run_config(run)
    network = networks.load(config.model, dataset)
    params, stats = networks.place_weights(network, *runs.load_parameters(run))

    def outputs(params, stats, image):
        return network.evaluate(params, stats, image[None])[0]

    images = dataset.train.images
    traces = curvature.exact_traces(outputs, params, stats, images)
    traces = np.array(jax.tree.leaves(traces), np.float64)
    image = jax.ShapeDtypeStruct(images.shape[1:], images.dtype)
    exponents = curvature.analyze(outputs, params, stats, image).exponents
    ours = measures.minimize_over_scales(traces, exponents)
    row = {"model": config.model, "optimizer": config.optimizer, "seed": config.seed}
    row |= {"trace": traces.sum(), "minimum": ours.value, "duality_gap": ours.error}
    for name, steps in STEPS.items():
        theirs = measures.ibayashi_minimum(traces, exponents, num_steps=steps)
        row |= {name: theirs.value, f"{name}_over_minimum": theirs.value / ours.value}
    return row


def found(table: pd.DataFrame) -> pd.DataFrame:
    """How far above the minimum each solver ends, by network, and whether it keeps the order."""
    rows = []
    for name in STEPS:
        for model, part in table.groupby("model", sort=False):
            ratio = part[f"{name}_over_minimum"]
            row = {"solver": name, "steps": STEPS[name], "model": model, "networks": len(part)}
            row |= {"least": ratio.min(), "median": ratio.median(), "most": ratio.max()}
            tau = scipy.stats.kendalltau(part[name], part["minimum"])
            rows.append(row | {"kendall_tau": tau.statistic})
    return pd.DataFrame(rows)


def figure(table: pd.DataFrame, path: Path) -> None:
    """The trace and both solutions of every network over its minimum."""
    drawn, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    names = [f"{r.model} {r.optimizer}" for r in table.itertuples()]
    for column, mark in (("trace", "_"), ("published", "o"), ("published_100", "^")):
        axis.semilogy(table[column] / table["minimum"], mark, label=column)
    axis.axhline(1, color="k", linestyle="--", linewidth=0.8)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axis.set(ylabel="value over the certified minimum")
    axis.legend(fontsize="small")
    drawn.savefig(path, dpi=120)


if __name__ == "__main__":
    tyro.cli(minimum_sharpness_solver)
