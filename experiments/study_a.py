"""Study A: do optimizers, with and without SAM, reach minima of different sharpness and gap?

    python experiments/study_a.py --data-dir DIR
    jaxsharp evaluate runs/study_a/fashion_mnist.csv

Six optimizers, each with and without SAM, on three CNNs and two data sets: 72 combinations of one
seed, up to 200 epochs each, one folder for each data set and network, by one command (`jaxsharp
study --dataset A,B --model X,Y`). Made for an accelerator: on
two CPU cores an epoch of the smallest network takes about a minute. An interrupted study continues
where it was. `--smoke` runs every step on a few digits.

All other options are those of `jaxsharp study`, and each of the six studies gets them: a subset is

    python experiments/study_a.py --datasets fashion_mnist --models simple_batch \\
        --optimizers sgd,adam --train-size 5000 --epochs 40 --loss-below 0.1 --seeds 3

Runs are measured at their ends and, when all are trained, at epochs 50, 100, 150 and 200. Each data
set gets a table DATASET.csv of all its runs, also where studies were interrupted, with those of
`runs.csv` and `checkpoints.csv` and the gap in points, 100 (training - test accuracy). What the
measures predict, `jaxsharp evaluate` says: over all runs (raw), among runs of equal optimizer,
variant and network (within), where one of these alone differs (Psi); of half of them with
`--where sam=none`, of one optimizer with `--where optimizer=sgd`, of runs that went on with
`--where epoch=50 --unconverged`.

DIR holds the official CIFAR-10 files; without its test file, `--holdout 10000` evaluates on the
last training examples of each data set instead (`--datasets` takes one). FashionMNIST may come from
the operating system's package.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pandas as pd
import tyro

from jaxsharp.cli import main
from jaxsharp.runs.files import write_table

Data = Literal["fashion_mnist", "cifar10"]
Model = Literal["simple_batch", "middle_batch", "complex_batch"]
SMOKE = "--train-size 150 --epochs 51 --optimizers sgd,adashift".split()
CHECKPOINTS = "50,100,150,200,final"
FIRST = ["optimizer", "sam", "model", "seed", "epoch", "train_loss", "train_accuracy"]
FIRST += ["test_loss", "test_accuracy", "gap_points"]


@dataclass(frozen=True)
class StudyA:
    """Which part of study A to run; other options are those of `jaxsharp study`."""

    datasets: tuple[Data, ...] = get_args(Data)
    """Data sets."""
    models: tuple[Model, ...] = get_args(Model)
    """Networks."""
    out: Path = Path("runs/study_a")
    """Folder of the studies and tables."""
    data_dir: Path | None = None
    """Directory with the official files of the data sets."""
    holdout: int = 0
    """Evaluate on the last N training examples in the place of the test set."""
    smoke: bool = False
    """A few digits, one small network, 51 epochs."""


def study_a(part: StudyA, options: list[str]) -> None:
    """Run the studies, and write the tables of what there is at the end."""
    datasets, models = part.datasets, part.models
    if part.smoke:
        datasets, models, options = ("digits",), ("small_mlp",), [*SMOKE, *options]
    alone = f"{datasets[0]}-{models[0]}" if len(datasets) * len(models) == 1 else ""
    folder = str(part.out / alone)
    names = ["--dataset", ",".join(datasets), "--model", ",".join(models), "--seeds", "1"]
    files = [] if part.data_dir is None else ["--data-dir", str(part.data_dir)]
    holdout = ["--holdout", str(part.holdout)]
    try:
        main(["study", *names, *options, *holdout, *files, "--out", folder])
        main(["sharpness", folder, "--epochs", CHECKPOINTS, *files, "--quiet"])
    finally:
        for dataset in datasets:
            folders = [part.out / f"{dataset}-{model}" for model in models]
            if tables := [rows_of(each) for each in folders if (each / "runs.csv").is_file()]:
                write_table(part.out / f"{dataset}.csv", pd.concat(tables, ignore_index=True))


def rows_of(folder: Path) -> pd.DataFrame:
    """The runs of a study as rows of the joined table: their ends, and checkpoints if measured."""
    file = folder / "checkpoints.csv"
    table = pd.read_csv(file if file.is_file() else folder / "runs.csv")
    table = table.assign(gap_points=100 * table["gap"]).rename(columns={"epochs": "epoch"})
    return table[[*FIRST, *(name for name in table if name not in FIRST)]]


if __name__ == "__main__":
    study_a(*tyro.cli(StudyA, description=__doc__, return_unknown_args=True))
