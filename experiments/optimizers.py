"""Do SAM and ASAM reach flatter minima or better ones, whatever the optimizer?

    python experiments/optimizers.py                       after equal steps
    python experiments/optimizers.py --loss-below 0.1      at equal training loss

Six optimizers alone, with SAM (rho 0.05) and with ASAM (rho 0.5), SimpleBatch on 10,000 examples of
FashionMNIST (`apt-get install dataset-fashion-mnist`), three seeds. All run for 15 epochs, so that
none has more steps than another; or until the first epoch that ends below a training loss, 60 at
most. Test accuracy on 10,000 examples; minimum sharpness and top eigenvalue over the first 2,000
training examples. Made for an accelerator: 15 epochs for all take three hours on two CPU cores. An
interrupted study continues where it was. `--smoke` runs every step on a few digits.
"""

from pathlib import Path

import tyro

from jaxsharp.cli import main

STUDY = "--dataset fashion_mnist --model simple_batch --train-size 10000 --measure-size 2000"
SMOKE = "--dataset digits --train-size 150 --optimizers sgd,adashift --measure-size 50"
SHARED = "--sam none,sam,asam --measures minimum_sharpness,top_eigenvalue --save-every 1"


def optimizers(
    *,
    out: Path = Path("runs/optimizers"),
    data_dir: Path | None = None,
    seeds: int = 3,
    loss_below: float | None = None,
    shard: str | None = None,
    smoke: bool = False,
) -> None:
    """Run the study of optimizers.

    Args:
        out: Folder of the study.
        data_dir: Directory with the official files of FashionMNIST.
        seeds: Runs of each combination.
        loss_below: Training loss at which runs end; without it they end after equal steps.
        shard: One part of the runs, as in 1/2, into a folder of its own; `jaxsharp merge` joins.
        smoke: A few digits, one small network, one epoch.
    """
    arguments = [*(SMOKE if smoke else STUDY).split(), *SHARED.split()]
    epochs = 1 if smoke else 15 if loss_below is None else 60
    arguments += ["--epochs", str(epochs), "--loss-below", str(loss_below)]
    arguments += ["--seeds", str(seeds), "--out", str(out)]
    if data_dir is not None:
        arguments += ["--data-dir", str(data_dir)]
    if shard is not None:
        arguments += ["--shard", shard]
    main(["study", *arguments])


if __name__ == "__main__":
    tyro.cli(optimizers)
