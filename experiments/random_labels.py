"""Does sharpness follow the gap across label noise, and at one level of it?

    python experiments/random_labels.py                 the MLP
    python experiments/random_labels.py --model lenet   LeNet

Ibayashi, Hamaguchi and Imaizumi (2021, arXiv 2106.12612) redraw a fraction 0, 0.1 ... 1 of the
labels and train an MLP and LeNet; minimum sharpness and the accuracy gap then have a raw Kendall's
tau of 0.864 and 0.677, and within one level 0.48 and 0.03. Here the labels of FashionMNIST
(`apt-get install dataset-fashion-mnist`), which stands in for MNIST, by SGD with learning rate 0.1
until the training loss is below 0.01. Accuracy on 2,000 held out examples with their own labels. An
interrupted study continues where it was. `--smoke` runs every step on a few digits.
"""

from pathlib import Path

import tyro

from jaxsharp.cli import main

LEVELS = ",".join(str(level / 10) for level in range(11))
STUDY = f"--dataset fashion_mnist --holdout 2000 --epochs 800 --vary label_noise={LEVELS}"
SMOKE = "--dataset digits --train-size 150 --epochs 1 --vary label_noise=0.0,0.5"
SHARED = "--optimizers sgd --sam none"
MEASURES = (
    *("minimum_sharpness", "top_eigenvalue", "random_perturbation", "hessian_trace"),
    *("frobenius_norm", "adaptive_perturbation", "asam_sharpness", "fisher_rao_norm"),
    *("relative_flatness", "gradient_norm", "parameter_norm", "distance_from_initialization"),
    "margin",
)


def random_labels(
    *,
    out: Path = Path("runs/random_labels"),
    model: str = "mlp",
    train_size: int = 1000,
    data_dir: Path | None = None,
    seeds: int = 5,
    shard: str | None = None,
    smoke: bool = False,
) -> None:
    """Run the study of label noise.

    Args:
        out: Folder of the study.
        model: Network, mlp or lenet as in the paper.
        train_size: Training examples.
        data_dir: Directory with the official files of FashionMNIST.
        seeds: Runs at each level.
        shard: One part of the runs, as in 1/2, into a folder of its own; `jaxsharp merge` joins.
        smoke: A few digits, one small network, one epoch.
    """
    full = [*STUDY.split(), "--model", model, "--train-size", str(train_size)]
    arguments = [*(SMOKE.split() if smoke else full), *SHARED.split()]
    arguments += ["--measures", ",".join(MEASURES[:3] if smoke else MEASURES)]
    arguments += ["--seeds", str(seeds), "--out", str(out)]
    if data_dir is not None:
        arguments += ["--data-dir", str(data_dir)]
    if shard is not None:
        arguments += ["--shard", shard]
    main(["study", *arguments])


if __name__ == "__main__":
    tyro.cli(random_labels)
