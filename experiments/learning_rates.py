"""Does sharpness follow the learning rate, or generalization?

    python experiments/learning_rates.py --data-dir DIR

Andriushchenko et al. (2023, arXiv 2302.07011): worst-case l-inf and average-case l2 sharpness,
adaptive, with logits normalized in the worst case, go with the learning rate, and whether they go
with the test error depends on the set-up. Here SimpleBatch on 2,000 examples of CIFAR-10, the
official files in DIR, by SGD with six learning rates and five seeds until the training loss is
below 0.01. `jaxsharp evaluate` says at the study's end what each measure predicts beyond the
learning rate. An interrupted study continues where it was. `--smoke` takes a few digits.

All other options are those of `jaxsharp study`, and come after those of this experiment: a smaller
form is

    python experiments/learning_rates.py --data-dir DIR --train-size 500 --holdout 1000 --seeds 3
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

from jaxsharp.analysis import correlation
from jaxsharp.cli import main

MEASURES = (
    *("apgd_linf_adaptive", "apgd_linf_adaptive_normalized", "apgd_l2_adaptive_normalized"),
    *("adaptive_perturbation", "minimum_sharpness", "top_eigenvalue"),
)
STUDY = "--dataset cifar10 --model simple_batch --train-size 2000 --holdout 10000 --epochs 200"
RATES = "--vary learning_rate=0.01,0.02,0.05,0.1,0.2,0.4"
SMOKE = "--dataset digits --train-size 150 --epochs 1 --vary learning_rate=0.05,0.1"


@dataclass(frozen=True)
class LearningRates:
    """Where the study is written, and its size; other options are those of `jaxsharp study`."""

    out: Path = Path("runs/learning_rates")
    """Folder of the study."""
    smoke: bool = False
    """A few digits, one small network, one epoch."""


def learning_rates(part: LearningRates, options: list[str]) -> None:
    """Run the grid and correlate each measure with the learning rate and with the test error."""
    arguments = SMOKE.split() if part.smoke else [*STUDY.split(), *RATES.split()]
    arguments += ["--optimizers", "sgd", "--sam", "none", "--seeds", "5", "--out", str(part.out)]
    main(["study", *arguments, "--measures", ",".join(MEASURES), *options])
    table = compare(pd.read_csv(part.out / "runs.csv"))
    table.to_csv(part.out / "learning_rates.csv", index=False)
    print(table.to_string(index=False))


def compare(runs: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau of each measure with learning rate, gap and test accuracy, with intervals."""
    rows = []
    for name in MEASURES:
        for other in ("learning_rate", "gap", "test_accuracy"):
            found = correlation(runs, name, other, ["learning_rate"])
            row = {"measure": name, "with": other, "runs": found.num_runs}
            for kind in ("raw", "within"):
                of = getattr(found, kind)
                row |= {kind: of.value, f"{kind}_low": of.low, f"{kind}_high": of.high}
            rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    learning_rates(*tyro.cli(LearningRates, description=__doc__, return_unknown_args=True))
