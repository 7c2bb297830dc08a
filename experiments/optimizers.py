"""Do SAM and ASAM reach flatter minima or better ones, whatever the optimizer?

    python experiments/optimizers.py

Six optimizers alone, with SAM (rho 0.05) and with ASAM (rho 0.5), SimpleBatch on 10,000 examples of
FashionMNIST (`apt-get install dataset-fashion-mnist`), three seeds, 15 epochs for all, so that no
run has more steps than another. Test accuracy on 10,000 examples; minimum sharpness and top
eigenvalue over the first 2,000 training examples. Made for an accelerator: about three hours on two
CPU cores. An interrupted study continues where it was. `--smoke` runs every step on a few digits.
"""

from pathlib import Path

import tyro

from jaxsharp.cli import main

STUDY = "--dataset fashion_mnist --model simple_batch --train-size 10000 --epochs 15"
STUDY += " --measure-size 2000"
SMOKE = "--dataset digits --train-size 150 --epochs 1 --optimizers sgd,adashift --measure-size 50"
SHARED = "--sam none,sam,asam --loss-below None --measures minimum_sharpness,top_eigenvalue"


def optimizers(
    *,
    out: Path = Path("runs/optimizers"),
    data_dir: Path | None = None,
    seeds: int = 3,
    shard: str | None = None,
    smoke: bool = False,
) -> None:
    """Run the study of optimizers.

    Args:
        out: Folder of the study.
        data_dir: Directory with the official files of FashionMNIST.
        seeds: Runs of each combination.
        shard: One part of the runs, as in 1/2, into a folder of its own; `jaxsharp merge` joins.
        smoke: A few digits, one small network, one epoch.
    """
    arguments = [*(SMOKE if smoke else STUDY).split(), *SHARED.split()]
    arguments += ["--seeds", str(seeds), "--save-every", "1", "--out", str(out)]
    if data_dir is not None:
        arguments += ["--data-dir", str(data_dir)]
    if shard is not None:
        arguments += ["--shard", shard]
    main(["study", *arguments])


if __name__ == "__main__":
    tyro.cli(optimizers)
