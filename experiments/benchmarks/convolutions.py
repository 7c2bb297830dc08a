r"""What do products with a network of the user's own convolutions cost on this device?

    python experiments/benchmarks/convolutions.py --out DIR
    python experiments/benchmarks/convolutions.py --model resnet_18 --examples 500 --rounds 1 \
        --no-whole

The Hessian product of `curvature.hessian` with its default arguments, of a network of three plain
nnx.Conv (97,290 parameters, strides, no BatchNorm), or of a network of the package with its
convolutions by ``lax.conv``, on random images of 32 x 32 x 3, beside the plain jitted form, `jvp`
of the gradient of all examples at once; and the same product with the convolutions left as XLA has
them. Medians of rounds in turn, on the CPU of processor time, which other work on the machine
changes little; errors are against the plain form, in float64 for the three plain convolutions.
Without the plain form, for which the memory has to hold all examples, against convolutions.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tables
import tyro
from flax import nnx

from jaxsharp import curvature, data, networks
from jaxsharp.curvature import products


class Sizes(NamedTuple):
    """The network, or "" for the plain one and its channels; examples, rounds, the plain form."""

    smoke: bool = False
    model: str = ""
    examples: int = 250
    rounds: int = 5
    whole: bool = True
    channels: tuple[int, ...] = (32, 64, 64)


SMOKE = Sizes(True, "", 8, 2, True, (2, 2, 2))
AS_IS = "left as convolutions"


class Net(nnx.Module):
    """Three convolutions with ReLU, two with stride 2, and a dense layer."""

    def __init__(self, channels, rngs):
        widths = (3, *channels)
        self.convs = nnx.List(
            nnx.Conv(widths[i], widths[i + 1], (3, 3), strides=min(i + 1, 2), rngs=rngs)
            for i in range(3)
        )
        self.last = nnx.Linear(64 * channels[-1], 10, rngs=rngs)

    def __call__(self, x):
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        return self.last(x.reshape(len(x), -1))


def convolutions(
    *,
    out: Path = Path("runs/benchmarks-convolutions"),
    model: str = "",
    examples: int = 250,
    rounds: int = 5,
    whole: bool = True,
    smoke: bool = False,
) -> None:
    """Time the products.

    Args:
        out: Folder of the tables.
        model: One of the package's networks, such as resnet_18, in the place of the plain one.
        examples: Images.
        rounds: How often each form is timed.
        whole: With the plain form, of all examples at once.
        smoke: Fewer examples, channels and rounds.
    """
    whole |= smoke
    sizes = SMOKE if smoke else Sizes(False, model, examples, rounds, whole)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(sizes.examples, 32, 32, 3)).astype(np.float32)
    labels = np.arange(sizes.examples) % 10
    if sizes.model:
        drawn = data.from_arrays((images, labels), (images, labels))
        network = networks.load(sizes.model, drawn, lowering="conv")
    else:
        network = networks.from_nnx(lambda rngs: Net(sizes.channels, rngs))
    params, stats = network.init(jax.random.key(0))
    batch = images, labels = jnp.asarray(images), jnp.asarray(labels)
    loss, vector = network.frozen_loss(stats), jax.tree.map(jnp.ones_like, params)
    forms = {"plain": plain(loss, params, batch)} if whole else {}
    unchecked = {"check": False}
    forms["default"] = curvature.hessian(loss, params, batch, **unchecked)
    if whole:
        forms["recomputed"] = curvature.hessian(loss, params, batch, recompute=True, **unchecked)
    fast, products.fast_in_loops = products.fast_in_loops, lambda fn: fn
    forms[AS_IS] = curvature.hessian(loss, params, batch, **unchecked)
    products.fast_in_loops = fast
    found, beside = {name: form(vector) for name, form in forms.items()}, AS_IS
    if whole:
        beside = "plain"
        with jax.enable_x64(not sizes.model):
            as_is = np.float32 if sizes.model else np.float64
            at, along, inputs = jax.tree.map(
                lambda x: np.asarray(x, as_is), (params, vector, images)
            )
            want = plain(loss, at, (inputs, labels))(along)
    errors = {name: error(each, want if whole else found[beside]) for name, each in found.items()}
    now = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    seconds = {name: [] for name in forms}
    for _ in range(sizes.rounds):
        for name, form in forms.items():
            start = now()
            jax.block_until_ready(form(vector))
            seconds[name].append(now() - start)
    ratios = {name: np.array(times) / np.array(seconds[beside]) for name, times in seconds.items()}
    table = pd.DataFrame(
        [
            {
                "form": name,
                "strategy": getattr(form, "strategy", "all at once"),
                "median_s": np.median(seconds[name]),
                "ratio": np.median(ratios[name]),
                "ratio_min": ratios[name].min(),
                "ratio_max": ratios[name].max(),
                "error": errors[name],
            }
            for name, form in forms.items()
        ]
    )
    command = f"python experiments/benchmarks/convolutions.py{' --smoke' * smoke}"
    if sizes.model:
        command += f" --model {model} --examples {examples} --rounds {rounds}"
    command += " --no-whole" * (not whole)
    config = tables.configuration({"command": command, "sizes": sizes._asdict()})
    write(out, table, config)
    print((out / "README.md").read_text())


def plain(loss: Callable, params, batch) -> Callable:
    """The product as anybody writes it."""

    @jax.jit
    def product(params, batch, vector):
        gradient = jax.grad(lambda params: loss(params, batch))
        return jax.jvp(gradient, (params,), (vector,))[1]

    return lambda vector: product(params, batch, vector)


def error(found, want) -> float:
    """Largest deviation, relative to the largest entry."""
    found, want = (np.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in (found, want))
    return float(np.abs(found - want).max() / np.abs(want).max())


def write(out: Path, table: pd.DataFrame, config: dict) -> None:
    """Write timings.csv, config.json and README.md."""
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "timings.csv", index=False)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    lines = [
        [
            *(row.form, row.strategy, f"{row.median_s:.3g}"),
            f"{row.ratio:.2f} ({row.ratio_min:.2f} to {row.ratio_max:.2f})",
            f"{row.error:.1g}",
        ]
        for row in table.itertuples()
    ]
    model, whole = config["sizes"]["model"], config["sizes"]["whole"]
    beside = "the plain form" if whole else AS_IS
    columns = ["Hessian product", "how", "seconds", f"times {beside}", "error"]
    reference = beside + " in float64" * (whole and not model)
    page = f"""# Convolutions {f"of {model}" if model else "of the user's own"}

    {config["command"]}

JAX {config["versions"]["jax"]} on {config["device"]}; {config["sizes"]["examples"]} images. On the
CPU convolutions are taken as matrix products (`core.convolutions`), as XLA runs them slowly inside
of loops. Errors: largest deviation from {reference}, relative
to the largest entry.

{tables.markdown(columns, lines)}"""
    (out / "README.md").write_text(page)


if __name__ == "__main__":
    tyro.cli(convolutions)
