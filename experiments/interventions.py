"""Do interventions that lower the largest eigenvalue lower the test error too?

    python experiments/interventions.py

Kaur, Cohen and Lipton (2022, arXiv 2206.10654) find that larger learning rates and SAM lower the
largest eigenvalue of the Hessian at all batch sizes, while what they do for generalization vanishes
at large ones. Here SimpleBatch on 1,000 examples of FashionMNIST (`apt-get install
dataset-fashion-mnist`) is trained by SGD until the training loss is below 0.5. From that checkpoint
of each seed on, tails with batches of 32 and 128, and each with three learning rates and with SAM
of two radii, go to a loss below 0.05. What a tail changes is taken beside the tail with learning
rate 0.1 and without SAM, of the same seed and batch size. An interrupted experiment continues where
it was. `--smoke` takes a few digits.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import pandas as pd
import tyro
from jaxtyping import PyTree

from jaxsharp import data, networks, runs, studies
from jaxsharp.analysis import geometric_mean_interval, mean_interval
from jaxsharp.training.epochs import streams

MEASURES = ("top_eigenvalue", "minimum_sharpness")
NUMBERS = {"train_size": 1000, "holdout": 5000}
RATE = 0.1
# Learning rates and radii of the tails; radius 0 is SGD alone.
TAILS = [(0.05, 0.0), (RATE, 0.0), (0.2, 0.0), (RATE, 0.05), (RATE, 0.1)]


def interventions(
    *,
    out: Path = Path("runs/interventions"),
    data_dir: Path | None = None,
    seeds: int = 5,
    smoke: bool = False,
) -> None:
    """Train to the checkpoints and on from them, and compare the tails.

    Args:
        out: Folder of the two studies and the tables.
        data_dir: Directory with the official files of FashionMNIST.
        seeds: Checkpoints, and tails of each kind.
        smoke: A few digits, a small network, one epoch.
    """
    name, numbers = ("digits", {"train_size": 150}) if smoke else ("fashion_mnist", NUMBERS)
    dataset = data.load(name, **numbers, data_dir=data_dir)
    network = networks.load("small_mlp" if smoke else "simple_batch", dataset)
    sgd = {"optimizers": ["sgd"], "seeds": seeds, "epochs": 1 if smoke else 100}

    first = out / "start"
    studies.run(
        network, dataset, **sgd, sam=["none"], measures=MEASURES[:1], loss_below=0.5, out=first
    )
    started = [first / "runs" / f"sgd-seed{seed}" for seed in range(seeds)]
    network = starting_from(network, [runs.load_parameters(run) for run in started])

    sgd |= {"measures": MEASURES, "measure_rtol": 0.03, "loss_below": 0.05}
    sizes = (30,) if smoke else (32, 128)
    rates = {"learning_rate": [rate for rate, rho in TAILS if not rho], "batch_size": sizes}
    radii = {"rho": [rho for _, rho in TAILS if rho], "batch_size": sizes}
    studies.run(network, dataset, **sgd, sam=["none"], vary=rates, out=out / "rates")
    studies.run(network, dataset, **sgd, sam=["sam"], vary=radii, out=out / "sam")
    tails = pd.concat([pd.read_csv(out / part / "runs.csv") for part in ("rates", "sam")])
    tails.to_csv(out / "runs.csv", index=False)
    table = compare(tails)
    table.to_csv(out / "interventions.csv", index=False)
    print(table.to_string(index=False))


def starting_from(
    network: networks.Network, starts: list[tuple[PyTree, PyTree]]
) -> networks.Network:
    """The network whose run with seed i begins with the i-th parameters and statistics."""
    keys = jnp.stack([jax.random.key_data(streams(seed).init) for seed in range(len(starts))])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)

    def init(key):
        place = jnp.argmax((keys == jax.random.key_data(key)).all(axis=-1))
        return jax.tree.map(lambda leaf: leaf[place], stacked)

    return network._replace(init=init)


def compare(tails: pd.DataFrame) -> pd.DataFrame:
    """What each tail changes beside the plain one of the same seed and batch size: factors of the
    measures, geometric means, and differences of accuracies, with 95 % intervals."""
    tails = tails.assign(rho=tails["rho"].fillna(0.0))
    rows = []
    for size, part in tails.groupby("batch_size"):
        of = part.set_index(["learning_rate", "rho", "seed"]).sort_index()
        plain = of.loc[(RATE, 0.0)]
        for rate, rho in TAILS:
            tail = of.loc[(rate, rho)]
            row = {"batch_size": size, "learning_rate": rate, "rho": rho}
            row |= {"runs": len(tail), "converged": int(tail["converged"].sum())}
            found = {}
            if (rate, rho) != (RATE, 0.0):
                for name in MEASURES:
                    found[f"{name}_factor"] = geometric_mean_interval(tail[name] / plain[name])
                for name in ("test_accuracy", "gap"):
                    change = tail[name] - plain[name]
                    found[f"{name}_change"] = mean_interval(change, within=(-2, 2))
            for name, interval in found.items():
                row |= {name: interval.mean, f"{name}_low": interval.low}
                row |= {f"{name}_high": interval.high}
            row |= {name: geometric_mean_interval(tail[name]).mean for name in MEASURES}
            rows.append(row | {"test_accuracy": tail["test_accuracy"].mean()})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    tyro.cli(interventions)
