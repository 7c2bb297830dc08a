"""What does minimum sharpness cost at a standard error of 1 %, beside the exact form?

    python experiments/benchmarks/minimum_sharpness.py --out DIR

SimpleBatch, trained for some steps on FashionMNIST: the sampled measure and the exact one over the
same examples; and the sampled one for a head of 100 classes beside 10, for each example. Processor
time of calls that were compiled before, in turn, so that other work on the machine changes the
ratios little.
"""

import functools
import json
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
import tables
import tasks
import tyro

from jaxsharp import data, measures, networks


class Sizes(NamedTuple):
    """Examples, rounds, steps of training, and the relative standard error."""

    smoke: bool = False
    model: str = "simple_batch"
    examples: int = 10_000
    rounds: int = 3
    steps: int = 160
    rtol: float = 0.01


SMOKE = Sizes(True, "small_mlp", 600, 1, 20, 0.1)


def minimum_sharpness(
    *, out: Path = Path("runs/benchmarks-minimum-sharpness"), smoke: bool = False, rounds: int = 3
) -> None:
    """Time the measure.

    Args:
        out: Folder of the tables.
        smoke: Fewer examples and another network.
        rounds: How often each form is timed.
    """
    sizes = (SMOKE if smoke else Sizes())._replace(rounds=rounds)
    task = tasks.make_task(
        sizes.model, tasks.fashion_mnist, smoke, sizes.examples, steps=sizes.steps
    )
    at = task.network, task.params, task.stats, task.batch
    many = with_classes(task, 100)
    sampled, few = (measures.Options(measure_rtol=rtol) for rtol in (sizes.rtol, 0.9))
    forms = {
        "exact": functools.partial(taken, at, measures.Options()),
        "sampled": functools.partial(taken, at, sampled),
        "256 examples of 10 classes": functools.partial(taken, at, few),
        "256 examples of 100 classes": functools.partial(taken, many, few),
    }
    seconds = {name: [] for name in forms}
    records = {name: form() for name, form in forms.items()}  # compiles
    for _ in range(sizes.rounds):
        for name, form in forms.items():
            start = time.process_time()
            form()
            seconds[name].append(time.process_time() - start)
    rows = [
        {
            "form": name,
            "examples": records[name].examples,
            "exact": records[name].exact,
            "value": records[name].value,
            "error": records[name].error,
            "median_s": np.median(seconds[name]),
        }
        for name in forms
    ]
    ratios = {
        "exact / sampled": np.divide(seconds["exact"], seconds["sampled"]),
        "100 classes / 10": np.divide(*(seconds[name] for name in list(forms)[:1:-1])),
    }
    command = "python experiments/benchmarks/minimum_sharpness.py" + " --smoke" * smoke
    config = tables.configuration({"command": command, "sizes": sizes._asdict()})
    write(out, pd.DataFrame(rows), ratios, config)
    print((out / "README.md").read_text())


def taken(at: tuple, options: measures.Options) -> measures.Record:
    """The measure, to its end."""
    key = jax.random.key(0)
    names = ["minimum_sharpness"]
    return measures.measure(*at, names, key=key, options=options)["minimum_sharpness"]


def with_classes(task: tasks.Task, num: int) -> tuple:
    """The model of a task with so many classes, at its initialization, and the task's images."""
    images = np.asarray(task.batch[0])
    labels = np.arange(len(images)) % num
    network = networks.load(
        task.model, data.from_arrays((images, labels), (images[:num], labels[:num]))
    )
    return network, *network.init(jax.random.key(0)), (images, labels)


def write(out: Path, rows: pd.DataFrame, ratios: dict, config: dict) -> None:
    """Write timings.csv, config.json and README.md."""
    out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(out / "timings.csv", index=False)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    columns = "| form | examples | exact | value | error | processor seconds |"
    lines = [columns, "| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| {r.form} | {r.examples} | {r.exact} | {r.value:.5g} | {r.error:.2g} "
        f"| {r.median_s:.3g} |"
        for r in rows.itertuples()
    ]
    found = [
        f"| {name} | {np.median(x):.3g} ({x.min():.3g} to {x.max():.3g}) | {bound} |"
        for (name, x), bound in zip(ratios.items(), ("at least 8", "at most 1.3"), strict=True)
    ]
    lines += ["", "| ratio | median (range of rounds) | target |", "| --- | --- | --- |", *found]
    head = f"# Minimum sharpness from samples\n\n    {config['command']}\n\n"
    (out / "README.md").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    tyro.cli(minimum_sharpness)
