"""Study A: do optimizers, with and without SAM, reach minima of different sharpness and gap?

    python experiments/study_a.py --data-dir DIR

Six optimizers, each with and without SAM, on three CNNs and two data sets: 72 combinations of one
seed, up to 200 epochs each, one folder for each data set and network. Made for an accelerator: on
two CPU cores an epoch of the smallest network takes about a minute. An interrupted study continues
where it was. `--smoke` runs every step on a few digits.

DIR holds the official CIFAR-10 files; without its test file, `--holdout 10000` evaluates on the
last training examples instead. FashionMNIST may come from the operating system's package.
"""

from pathlib import Path

import tyro

from jaxsharp.cli import main

DATASETS = ("fashion_mnist", "cifar10")
MODELS = ("simple_batch", "middle_batch", "complex_batch")
SMOKE = ["--train-size", "150", "--epochs", "1", "--optimizers", "sgd,adashift"]


def study_a(
    *,
    out: Path = Path("runs/study_a"),
    data_dir: Path | None = None,
    holdout: int = 0,
    seeds: int = 1,
    smoke: bool = False,
) -> None:
    """Run study A.

    Args:
        out: Folder of the studies.
        data_dir: Directory with the official files of the data sets.
        holdout: Evaluate CIFAR-10 on its last N training examples.
        seeds: Runs of each combination.
        smoke: A few digits, one small network, one epoch.
    """
    pairs = [(dataset, model) for dataset in DATASETS for model in MODELS]
    for dataset, model in [("digits", "small_mlp")] if smoke else pairs:
        arguments = ["--dataset", dataset, "--model", model, "--seeds", str(seeds)]
        arguments += ["--out", str(out / f"{dataset}-{model}")]
        if dataset == "cifar10":
            arguments += ["--holdout", str(holdout)]
        if data_dir is not None:
            arguments += ["--data-dir", str(data_dir)]
        main(["study", *arguments, *(SMOKE if smoke else [])])


if __name__ == "__main__":
    tyro.cli(study_a)
