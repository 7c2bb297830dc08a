"""What do the measures cost at a stated error, beside the exact forms?

    python experiments/benchmarks/measures.py --out DIR
    python experiments/benchmarks/measures.py --works all --out DIR    the whole catalogue

SimpleBatch, trained for some steps on FashionMNIST. `minimum_sharpness`: the measure at a standard
error of 1 % and the exact one over 10,000 examples; `classes`: the sampled one for a head of 100
classes beside 10, for each example; `defaults`: the three default measures over 5,000 examples, at
1 % with the top eigenvalue by a tenth of the examples, beside their exact forms, and one gradient
of the loss over these examples; `eigenvalue`: its products, over all or most over a sample; `all`:
all measures once. Processor time of calls that were compiled before, in turn, so that other work on
the machine changes the ratios little; of `all` the time with compiling.
"""

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
import tables
import tasks
import tyro

from jaxsharp import core, data, measures, networks


class Sizes(NamedTuple):
    """Examples of the sampled measure and of the others, rounds, steps of training, the error."""

    smoke: bool = False
    model: str = "simple_batch"
    many: int = 10_000
    examples: int = 5_000
    rounds: int = 3
    steps: int = 160
    rtol: float = 0.01


SMOKE = Sizes(True, "small_mlp", 600, 300, 1, 20, 0.2)
DEFAULTS = ("minimum_sharpness", "top_eigenvalue", "random_perturbation")
WORKS = ("minimum_sharpness", "classes", "defaults", "eigenvalue", "all")
TARGETS = {
    "exact / sampled minimum sharpness": "at least 8",
    "100 classes / 10": "at most 1.3",
    "exact / sampled defaults": "at least 6",
    "sampled defaults / gradient": "at most 12",
    "products from a random start / from a sample": "at least 2.5",
    "minutes of all measures": "under 10",
}


def compare_measures(
    *,
    out: Path = Path("runs/benchmarks-measures"),
    works: tuple[str, ...] = WORKS[:-1],
    smoke: bool = False,
    rounds: int = 3,
) -> None:
    """Time the measures.

    Args:
        out: Folder of the tables.
        works: Which comparisons to make.
        smoke: Fewer examples and another network.
        rounds: How often each form is timed.
    """
    if unknown := sorted(set(works) - set(WORKS)):
        raise SystemExit(f"works has {unknown[0]}; valid are {', '.join(WORKS)}")
    sizes = (SMOKE if smoke else Sizes())._replace(rounds=rounds)
    rows, ratios = [], {}
    for work in works:
        found, compared = BY_NAME[work](sizes)
        rows += [{"work": work, **row} for row in found]
        ratios |= compared
    command = "python experiments/benchmarks/measures.py" + " --smoke" * smoke
    command += f" --works {' '.join(works)} --rounds {rounds}"
    config = tables.configuration({"command": command, "works": works, "sizes": sizes._asdict()})
    write(out, pd.DataFrame(rows), ratios, config)
    print((out / "README.md").read_text())


def minimum_sharpness(sizes: Sizes) -> tuple[list[dict], dict]:
    """The exact form beside the sampled one."""
    at = task_of(sizes, sizes.many)
    exact, sampled = (taken(at, DEFAULTS[:1], rtol) for rtol in (None, sizes.rtol))
    rows, seconds = timed({"exact": exact, "sampled": sampled}, sizes.rounds)
    return rows, {"exact / sampled minimum sharpness": np.divide(*seconds)}


def classes(sizes: Sizes) -> tuple[list[dict], dict]:
    """The sampled form of 256 examples with 100 classes and with 10."""
    at = task_of(sizes, sizes.many)
    forms = {
        "256 examples of 100 classes": taken(with_classes(at, sizes.model, 100), DEFAULTS[:1], 0.9),
        "256 examples of 10 classes": taken(at, DEFAULTS[:1], 0.9),
    }
    rows, seconds = timed(forms, sizes.rounds)
    return rows, {"100 classes / 10": np.divide(*seconds)}


def defaults(sizes: Sizes) -> tuple[list[dict], dict]:
    """The three default measures in either form, and one gradient."""
    at = task_of(sizes, sizes.examples)
    network, params, stats, batch = at
    loss = network.frozen_loss(stats, batch[1])

    @jax.jit
    def gradient(params):
        return core.mean_over_chunks(lambda chunk: jax.grad(loss)(params, chunk), batch, 250)

    forms = {
        "exact": taken(at, DEFAULTS),
        "sampled": taken(at, DEFAULTS, sizes.rtol, 0.1),
        "gradient": lambda: jax.block_until_ready(gradient(params)) and {},
    }
    rows, (exact, sampled, one) = timed(forms, sizes.rounds)
    ratios = {"exact / sampled defaults": exact / sampled}
    return rows, ratios | {"sampled defaults / gradient": sampled / one}


def eigenvalue(sizes: Sizes) -> tuple[list[dict], dict]:
    """Products from a random start, and most of them over a twentieth of the examples, five keys.

    Those of the twentieth count as the share that they cost, rounded up.
    """
    network, params, stats, batch = task_of(sizes, sizes.examples)
    rows, cost = [], {}
    for share in (0.0, 0.05):
        options = measures.Options(eigenvalue_sample=share)
        for seed in range(2 if sizes.smoke else 5):
            arguments = (network, params, stats, batch, ["top_eigenvalue"])
            table = measures.measure(*arguments, key=jax.random.key(seed), options=options)
            found = table["top_eigenvalue"]
            cost.setdefault(share, []).append(found.cost)
            row = {"form": f"sample of {share:g}", "measure": "top_eigenvalue"}
            rows.append(row | of_record(found))
    ratio = np.divide(cost[0.0], cost[0.05])
    return rows, {"products from a random start / from a sample": ratio}


def everything(sizes: Sizes) -> tuple[list[dict], dict]:
    """Every measure of the catalogue once, with compiling."""
    network, params, stats, batch = task_of(sizes, sizes.examples)
    initial = network.init(jax.random.key(0))[0]
    rows, total = [], 0.0
    for name in ["num_parameters"] if sizes.smoke else measures.MEASURES:
        start = time.perf_counter()
        arguments = (network, params, stats, batch, [name])
        table = measures.measure(*arguments, key=jax.random.key(0), initial=initial)
        seconds = time.perf_counter() - start
        total += seconds
        rows.append(
            {"form": "once", "measure": name, "median_s": seconds, **of_record(table[name])}
        )
        print(f"{name} {seconds:.0f} s", flush=True)
    return rows, {"minutes of all measures": np.array([total / 60])}


BY_NAME = dict(
    zip(WORKS, (minimum_sharpness, classes, defaults, eigenvalue, everything), strict=True)
)


def task_of(sizes: Sizes, examples: int) -> tuple:
    """Network, parameters, statistics and data."""
    task = tasks.make_task(
        sizes.model, tasks.fashion_mnist, sizes.smoke, examples, steps=sizes.steps
    )
    return task.network, task.params, task.stats, task.batch


def taken(at: tuple, names: tuple, rtol: float | None = None, sample: float = 0.0) -> Callable:
    """A function that takes the measures."""
    options = measures.Options(measure_rtol=rtol, eigenvalue_sample=sample)
    key = jax.random.key(0)
    return functools.partial(measures.measure, *at, list(names), key=key, options=options)


def with_classes(at: tuple, model: str, num: int) -> tuple:
    """The model with so many classes, at its initialization, and the images."""
    images = np.asarray(at[3][0])
    labels = np.arange(len(images)) % num
    made = data.from_arrays((images, labels), (images[:num], labels[:num]))
    network = networks.load(model, made)
    return network, *network.init(jax.random.key(0)), (images, labels)


def timed(forms: dict[str, Callable], rounds: int) -> tuple[list[dict], list[np.ndarray]]:
    """Rows of the measures that the forms take, and their processor seconds in turn."""
    records = {name: form() for name, form in forms.items()}  # compiles
    seconds = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            start = time.process_time()
            form()
            seconds[name].append(time.process_time() - start)
    rows = []
    for name, found in records.items():
        row = {"form": name, "median_s": np.median(seconds[name])}
        each = [{"measure": m, **of_record(r)} for m, r in found.items()]
        rows += [row | record for record in each or [{"measure": "gradient"}]]
    return rows, [np.array(each) for each in seconds.values()]


def of_record(record: measures.Record) -> dict:
    """What the table has of a record."""
    names = ("value", "error", "finished", "exact", "examples", "directions", "cost")
    return {name: getattr(record, name) for name in names}


def write(out: Path, rows: pd.DataFrame, ratios: dict, config: dict) -> None:
    """Write timings.csv, config.json and README.md."""
    out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(out / "timings.csv", index=False)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    lines = ["| comparison | median (range) | target |", "| --- | --- | --- |"]
    lines += [
        f"| {name} | {np.median(x):.3g} ({x.min():.3g} to {x.max():.3g}) | {TARGETS[name]} |"
        for name, x in ratios.items()
    ]
    lines += ["", "| work | form | measure | value | error | examples | cost | seconds |"]
    lines += ["| --- " * 8 + "|"]
    lines += [
        f"| {r.work} | {r.form} | {r.measure} | {r.value:.5g} | {r.error:.2g} "
        f"| {r.examples:g} | {r.cost:g} | {getattr(r, 'median_s', np.nan):.3g} |"
        for r in rows.itertuples()
    ]
    head = f"# Measures at a stated error\n\n    {config['command']}\n\n"
    (out / "README.md").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    tyro.cli(compare_measures)
