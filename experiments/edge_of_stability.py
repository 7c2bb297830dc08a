"""Does training hover where the stability of its own steps ends?

    python experiments/edge_of_stability.py --data-dir DIR

Claims: with full batches the largest eigenvalue of the Hessian rises to 2/lr and stays there (Cohen
et al. 2021, arXiv 2103.00065); heavy ball has its edge at (2 + 2 b)/lr, Adam's preconditioned
eigenvalue at (2 + 2 b1)/((1 - b1) lr), 38/lr at b1 = 0.9 (Cohen et al. 2022, arXiv 2207.14484); SAM
at (|g|/(2 rho)) (sqrt(1 + 8 rho/(lr |g|)) - 1), below 2/lr (Long and Bartlett 2023, arXiv
2309.12488); with minibatches it is the batch sharpness E[g_B' H_B g_B / |g_B|^2] that comes to
2/lr, the largest eigenvalue lies below (arXiv 2412.20553), and with momentum to 2 (1 - b)/lr where
batches are small, to 2 (1 + b)/lr where they are large (arXiv 2604.14108).

The network is that of Cohen et al., 3072-200-200-10 with tanh, its loss half the squared error to
one-hot classes, on CIFAR-10's official training files, pixels normalized by channel. Each case
writes a table of its own and is not run again where that is; `--cases` chooses. `--smoke` takes a
few digits and steps.
"""

import importlib.metadata
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd
import tyro

from jaxsharp import data, optimizers
from jaxsharp.measures import edges


class Case(NamedTuple):
    """Optimizer and rate; steps in all and between measurements; examples a step and in all."""

    optimizer: str
    learning_rate: float
    steps: int
    every: int
    batch_size: int | None = None
    examples: int = 2000


CASES = {
    "gradient-descent-0.02": Case("sgd", 0.02, 8000, 50),
    "heavy-ball-0.03": Case("heavy_ball", 0.03, 4000, 20),
    "adam-0.0004": Case("adam", 0.0004, 4000, 10),
    "sam-0.02": Case("sam", 0.02, 1000, 20),
    "minibatch-0.02": Case("sgd", 0.02, 20000, 500, batch_size=8),
    "minibatch-0.05": Case("sgd", 0.05, 20000, 250, batch_size=8),
    "minibatch-8192-0.02": Case("sgd", 0.02, 80000, 2000, 8, 8192),
    "minibatch-8192-0.05": Case("sgd", 0.05, 80000, 2000, 8, 8192),
    "momentum-8192-0.005": Case("heavy_ball", 0.005, 80000, 2000, 8, 8192),
    "momentum-large-8192-0.03": Case("heavy_ball", 0.03, 8000, 200, 512, 8192),
}
SMALL_BATCH = 16  # at most so many examples; what a small batch is the paper leaves open
MOMENTUM, B1, RHO, HIDDEN = 0.9, 0.9, 0.1, (200, 200)
DRAWN = 400  # batches from which the batch sharpness is estimated


def initial(key: jax.Array, sizes: tuple[int, ...]) -> list:
    """Weights and biases uniform within 1/sqrt(inputs), as PyTorch begins."""

    def layer(key, fan_in, fan_out):
        draw = partial(jax.random.uniform, minval=-(fan_in**-0.5), maxval=fan_in**-0.5)
        kernel, bias = jax.random.split(key)
        return {"kernel": draw(kernel, (fan_in, fan_out)), "bias": draw(bias, (fan_out,))}

    keys = jax.random.split(key, len(sizes) - 1)
    return [layer(*each) for each in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def outputs(params: list, inputs: jax.Array) -> jax.Array:
    """The network's outputs, tanh between its layers."""
    *hidden, last = params
    for layer in hidden:
        inputs = jnp.tanh(inputs @ layer["kernel"] + layer["bias"])
    return inputs @ last["kernel"] + last["bias"]


def loss(params: list, batch: tuple) -> jax.Array:
    """Half the squared error of an example, mean over examples."""
    inputs, targets = batch
    return jnp.square(outputs(params, inputs) - targets).sum(1).mean() / 2


def optimizer_of(case: Case) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a case."""
    rate = case.learning_rate
    made = {
        "sgd": lambda: optimizers.sgd(rate),
        "heavy_ball": lambda: optimizers.heavy_ball(rate, momentum=MOMENTUM),
        "adam": lambda: optimizers.adam(rate, b1=B1),
        "sam": lambda: optimizers.sam(optimizers.sgd(rate), RHO),
    }[case.optimizer]()
    return optax.with_extra_args_support(made)


def edge_of(case: Case, gradient_norm: float) -> float:
    """Where the steps of a case on a quadratic become unstable, as an eigenvalue."""
    rate = case.learning_rate
    if case.optimizer == "sam":
        return edges.sam_edge(rate, rho=RHO, gradient_norm=gradient_norm)
    if case.optimizer == "adam":
        return edges.adam_edge(rate, b1=B1)
    momentum = MOMENTUM if case.optimizer == "heavy_ball" else 0.0
    if case.batch_size is not None:
        small, large = edges.batch_edges(rate, momentum=momentum)
        return small if case.batch_size <= SMALL_BATCH else large
    return edges.heavy_ball_edge(rate, momentum=momentum)


def steps_of(case: Case, train: tuple) -> Callable:
    """Compiled `f(params, state, key) -> params, state`: the steps between two measurements."""
    tx, count = optimizer_of(case), len(train[0])

    def step(carry, key):
        params, state = carry
        batch = train
        if case.batch_size is not None:
            chosen = jax.random.choice(key, count, (case.batch_size,), replace=False)
            batch = jax.tree.map(lambda x: x[chosen], train)
        gradient = lambda at: jax.grad(loss)(at, batch)  # noqa: E731
        updates, state = tx.update(gradient(params), state, params, grad_fn=gradient)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def steps(params, state, key):
        carry, _ = jax.lax.scan(step, (params, state), jax.random.split(key, case.every))
        return carry

    return steps


@partial(jax.jit, static_argnames="size")
def batch_sharpness(params: list, train: tuple, key: jax.Array, size: int) -> tuple:
    """Mean over random batches of g' H g / |g|^2, both of the batch, and its standard error."""
    options = {"batch_size": size, "rtol": 0.0, "max_batches": DRAWN}
    found = edges.batch_sharpness(loss, params, train, key=key, **options)
    return found.mean, found.stderr


@jax.jit
def state_of(params: list, train: tuple) -> tuple:
    """Loss, accuracy, norm of the gradient."""
    value, gradient = jax.value_and_grad(loss)(params, train)
    right = outputs(params, train[0]).argmax(1) == train[1].argmax(1)
    return value, right.mean(), optax.tree.norm(gradient)


def follow(case: Case, train: tuple, sizes: tuple[int, ...], seed: int) -> pd.DataFrame:
    """Train a case and measure it along the way; ends at 99 % accuracy or its last step."""
    key = jax.random.key(seed)
    params = initial(jax.random.fold_in(key, 0), sizes)
    state, steps = optimizer_of(case).init(params), steps_of(case, train)
    rows, start = [], None
    for index in range(1, case.steps // case.every + 1):
        params, state = steps(params, state, jax.random.fold_in(key, 2 * index))
        value, accuracy, norm = map(float, state_of(params, train))
        diagonal = edges.adam_preconditioner(state) if case.optimizer == "adam" else None
        own = jax.random.fold_in(key, 2 * index + 1)
        options = {"start": start, "diagonal": diagonal, "check": False}
        top = edges.followed_eigenvalue(loss, params, train, key=own, **options)
        start = top.vector
        row = {"step": index * case.every, "loss": value, "accuracy": accuracy}
        row |= {"gradient_norm": norm, "eigenvalue": float(top.value)}
        row |= {"residual": float(top.residual), "products": int(top.num_products)}
        row["edge"] = edge_of(case, norm)
        if case.batch_size is not None:
            found = batch_sharpness(params, train, own, case.batch_size)
            row["batch_sharpness"], row["batch_sharpness_error"] = map(float, found)
        rows.append(row)
        if not np.isfinite(value) or accuracy >= 0.99:
            break
    return pd.DataFrame(rows)


def verdicts(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """How far above or below its edge each case is once it has come within 10 % of it."""
    rows = []
    for name, table in tables.items():
        for what in ("eigenvalue", "batch_sharpness"):
            if what not in table:
                continue
            ratio = table[what] / table["edge"]
            near = np.flatnonzero(ratio > 0.9)
            at = ratio[near[0] :] if len(near) else ratio[:0]
            low, middle, high = at.quantile([0.05, 0.5, 0.95]) if len(at) else [np.nan] * 3
            row = {"case": name, "quantity": what, "measurements": len(table)}
            row |= {"step_at_edge": table["step"].iloc[near[0]] if len(near) else np.nan}
            row |= {"measurements_after": len(at), "median_ratio": middle, "low": low, "high": high}
            rows.append(
                row | {"largest_ratio": ratio.max(), "accuracy": table["accuracy"].iloc[-1]}
            )
    return pd.DataFrame(rows)


def figure(tables: dict[str, pd.DataFrame], path: Path) -> None:
    """Each case's eigenvalue beside its edge."""
    shape = (-(-len(tables) // 3), min(3, len(tables)))
    size = (4 * shape[1], 2.8 * shape[0])
    drawn, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    for axis, (name, table) in zip(axes.flat, tables.items(), strict=False):
        axis.plot(table["step"], table["eigenvalue"], label="largest eigenvalue")
        axis.plot(table["step"], table["edge"], "k--", label="edge")
        if "batch_sharpness" in table:
            axis.plot(table["step"], table["batch_sharpness"], ":", label="batch sharpness")
        axis.set(title=name, xlabel="step", ylabel="sharpness", ylim=(0, None))
        axis.legend(fontsize="small")
    for axis in axes.flat[len(tables) :]:
        axis.remove()
    drawn.savefig(path, dpi=120)


def training_data(smoke: bool, examples: int, data_dir: Path | None) -> tuple:
    """Normalized inputs as vectors, and one-hot classes."""
    if smoke:
        split = data.load("digits", train_size=100).train
    else:
        split = data.load("cifar10", data_dir=data_dir, holdout=10000, train_size=examples).train
    images = split.images.astype(np.float64)
    axes = tuple(range(images.ndim - 1))
    images = (images - images.mean(axes)) / images.std(axes)
    inputs = images.reshape(len(images), -1).astype(np.float32)
    return jnp.asarray(inputs), jnp.asarray(np.eye(10, dtype=np.float32)[split.labels])


def edge_of_stability(
    *,
    out: Path = Path("runs/edge_of_stability"),
    cases: tuple[str, ...] = tuple(CASES),
    examples: int | None = None,
    data_dir: Path | None = None,
    seed: int = 0,
    smoke: bool = False,
) -> None:
    """Follow each case and write history, verdicts and figure.

    Args:
        out: Folder for the tables and the figure.
        cases: Cases to run, of those listed in the file.
        examples: Training examples, a stratified part; those of each case if not given.
        data_dir: Directory with the official files of CIFAR-10.
        seed: Seed of initialization and batches.
        smoke: A few digits, narrow layers, few steps.
    """
    unknown = sorted(set(cases) - set(CASES))
    if unknown:
        raise SystemExit(f"cases has {unknown[0]}; valid are {', '.join(CASES)}")
    out.mkdir(parents=True, exist_ok=True)
    for name in cases:
        file, case = out / f"{name}.csv", CASES[name]
        if file.exists():
            continue
        case = case._replace(examples=examples or case.examples)
        if smoke:
            case = case._replace(steps=20, every=10, batch_size=case.batch_size and 8)
        train = training_data(smoke, case.examples, data_dir)
        sizes = (train[0].shape[1], *((8, 8) if smoke else HIDDEN), 10)
        begun = time.perf_counter()
        table = follow(case, train, sizes, seed)
        file.with_suffix(".tmp").write_text(table.to_csv(index=False))
        file.with_suffix(".tmp").rename(file)
        print(f"{name}: {table['step'].iloc[-1]} steps in {time.perf_counter() - begun:.0f} s")
    tables = {n: pd.read_csv(out / f"{n}.csv") for n in CASES if (out / f"{n}.csv").exists()}
    found = verdicts(tables)
    found.to_csv(out / "verdicts.csv", index=False)
    figure(tables, out / "edges.png")
    versions = {p: importlib.metadata.version(p) for p in ("jax", "optax", "numpy")}
    machine = {"python": platform.python_version(), "machine": platform.machine(), **versions}
    settings = {"examples": examples, "hidden": HIDDEN, "seed": seed, "rho": RHO}
    settings |= {"momentum": MOMENTUM, "b1": B1, "cases": {n: CASES[n]._asdict() for n in tables}}
    (out / "config.json").write_text(json.dumps(settings | {"made_with": machine}, indent=1))
    print(found.to_string(index=False))


if __name__ == "__main__":
    tyro.cli(edge_of_stability)
