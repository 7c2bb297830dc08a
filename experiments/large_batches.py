"""Do large batches reach sharper minima, in Keskar's box, and worse ones?

    python experiments/large_batches.py

Keskar et al. (2017, arXiv 1609.04836) train F1, five layers of 512 units with BatchNorm and ReLU,
by Adam with batches of 256 and of a tenth of the training set. Their metric 2.1, the largest rise
of the loss in the box |d| <= eps (|theta| + 1) as percent of 1 + loss, is 205 +- 70 after large
batches and 1.23 +- 0.83 after small ones, at eps 1e-3 in the full space (five seeds).

Here on 2,000 examples of FashionMNIST (`apt-get install dataset-fashion-mnist`), which stands in
for MNIST, with batches of 16 and of a tenth, 200, until the training loss is below 0.01; eps 1e-3
and 5e-4, in the full space and in random subspaces of dimension 100. An interrupted study continues
where it was. `--smoke` takes a few digits.
"""

import itertools
from pathlib import Path

import pandas as pd
import tyro
from flax import nnx

from jaxsharp import runs
from jaxsharp.analysis import geometric_mean_interval
from jaxsharp.cli import main

MEASURES = "keskar_sharpness,keskar_subspace_sharpness"
BOXES = (1e-3, 5e-4)
STUDY = (
    "--dataset fashion_mnist --train-size 2000 --holdout 2000 --epochs 100 --vary batch_size=16,200"
)
SMOKE = "--dataset digits --train-size 100 --epochs 1 --vary batch_size=10,50"


class F1(nnx.Module):
    """Dense layers, each followed by BatchNorm and ReLU, and a dense output layer."""

    def __init__(self, rngs: nnx.Rngs, inputs: int, width: int, depth: int, outputs: int = 10):
        sizes = [inputs, *[width] * depth]
        pairs = itertools.pairwise(sizes)
        self.dense = nnx.List([nnx.Linear(*pair, rngs=rngs) for pair in pairs])
        self.norms = nnx.List([nnx.BatchNorm(width, rngs=rngs) for _ in self.dense])
        self.last = nnx.Linear(width, outputs, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(len(x), -1) / 255
        for dense, norm in zip(self.dense, self.norms, strict=True):
            x = nnx.relu(norm(dense(x)))
        return self.last(x)


def f1(rngs: nnx.Rngs) -> F1:
    """F1 for FashionMNIST."""
    return F1(rngs, 784, 512, 5)


def small_f1(rngs: nnx.Rngs) -> F1:
    """A smaller one for images of 8 by 8."""
    return F1(rngs, 64, 16, 2)


def large_batches(
    *,
    out: Path = Path("runs/large_batches"),
    data_dir: Path | None = None,
    seeds: int = 5,
    smoke: bool = False,
) -> None:
    """Train with small and with large batches and look for the worst point of the box.

    Args:
        out: Folder of the study and the table.
        data_dir: Directory with the official files of FashionMNIST.
        seeds: Runs of each batch size.
        smoke: A few digits, one epoch.
    """
    model = f"{__file__}:{'small_f1' if smoke else 'f1'}"
    light = ["--ascent-steps", "2", "--subspaces", "2"] if smoke else []
    place = [] if data_dir is None else ["--data-dir", str(data_dir)]
    grid = SMOKE if smoke else STUDY
    arguments = [*grid.split(), "--model", model, "--seeds", str(seeds)]
    arguments += ["--optimizers", "adam", "--sam", "none", "--out", str(out), *place]
    main(["study", *arguments, "--measures", MEASURES, *light])
    rows = []
    for run in sorted((out / "runs").iterdir()):
        for eps in BOXES[1:]:
            box = ["--measures", MEASURES, "--box-eps", str(eps), "--model", model]
            main(["sharpness", str(run), *box, *light, *place, "--quiet"])
        config, measured = runs.read_run_config(run), runs.read_sharpness(run)
        for taken in measured.itertuples():
            settings = dict(pair.split("=") for pair in taken.settings.split())
            row = {"batch_size": config.settings.batch_size, "seed": config.seed}
            row |= {"box_eps": float(settings["box_eps"]), "measure": taken.measure}
            rows.append(row | {"value": taken.value, "error": taken.error})
    table = pd.DataFrame(rows)
    table.to_csv(out / "boxes.csv", index=False)
    summary = summarize(table)
    summary.to_csv(out / "boxes-summary.csv", index=False)
    print(summary.to_string(index=False))


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Over seeds, for each measure, box and batch size: mean and standard deviation, as the paper
    has them, and the geometric mean with its 95 % interval."""
    names = ("measure", "box_eps", "batch_size")
    rows = []
    for key, part in table.groupby(list(names)):
        of = part["value"]
        row = dict(zip(names, key, strict=True)) | {"runs": len(of), "mean": of.mean()}
        found = geometric_mean_interval(of)
        row |= {"deviation": of.std(), "geometric_mean": found.mean}
        rows.append(row | {"low": found.low, "high": found.high})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    tyro.cli(large_batches)
