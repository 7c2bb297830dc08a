"""Does sharpness follow the gap across label noise, and at one level of it?

    python experiments/random_labels.py

Ibayashi, Hamaguchi and Imaizumi (2021, arXiv 2106.12612) redraw a fraction 0, 0.1 ... 1 of the
labels and train an MLP and LeNet; minimum sharpness and the accuracy gap then have a raw Kendall's
tau of 0.864 and 0.677, and within one level 0.48 and 0.03. Here the labels of FashionMNIST
(`apt-get install dataset-fashion-mnist`), which stands in for MNIST, by SGD with learning rate 0.1
until the training loss is below 0.01. Accuracy on 2,000 held out examples with their own labels. An
interrupted study continues where it was. `--smoke` runs every step on a few digits.

All other options are those of `jaxsharp study`, and come after those of this experiment: LeNet in
fewer epochs is

    python experiments/random_labels.py --model lenet --train-size 500 --holdout 1000 \\
        --batch-size 32
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxsharp.cli import main

LEVELS = ",".join(str(level / 10) for level in range(11))
STUDY = "--dataset fashion_mnist --model mlp --train-size 1000 --holdout 2000 --epochs 800"
NOISE = f"--vary label_noise={LEVELS}"
SMOKE = "--dataset digits --train-size 150 --epochs 1 --vary label_noise=0.0,0.5"
SHARED = "--optimizers sgd --sam none --seeds 5"
MEASURES = (
    *("minimum_sharpness", "top_eigenvalue", "random_perturbation", "hessian_trace"),
    *("frobenius_norm", "adaptive_perturbation", "asam_sharpness", "fisher_rao_norm"),
    *("relative_flatness", "gradient_norm", "parameter_norm", "distance_from_initialization"),
    "margin",
)


@dataclass(frozen=True)
class RandomLabels:
    """Where the study is written, and its size; other options are those of `jaxsharp study`."""

    out: Path = Path("runs/random_labels")
    """Folder of the study."""
    smoke: bool = False
    """A few digits, one small network, one epoch."""


def random_labels(part: RandomLabels, options: list[str]) -> None:
    """Run the study of label noise."""
    arguments = SMOKE.split() if part.smoke else [*STUDY.split(), *NOISE.split()]
    arguments += [*SHARED.split(), "--out", str(part.out)]
    measures = ",".join(MEASURES[:3] if part.smoke else MEASURES)
    main(["study", *arguments, "--measures", measures, *options])


if __name__ == "__main__":
    random_labels(*tyro.cli(RandomLabels, description=__doc__, return_unknown_args=True))
