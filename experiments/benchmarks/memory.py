"""Do programs over many members stay within the memory that they are given?

    python experiments/benchmarks/memory.py --out DIR

Every program is compiled for 1, 4, 16 and 64 members, by the plan of the CPU, where members follow
each other, and by that of accelerators, where they are vmapped; both on the device at hand. Counted
are the bytes that XLA sets aside beside arguments and results (`memory_analysis`); nothing runs.
About a quarter of an hour on two cores; `--smoke` takes few examples and members.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pandas as pd
import tables
import tasks
import tyro

from jaxsharp.core import Budget
from jaxsharp.measures import MEASURES, Options, Trained
from jaxsharp.studies.measuring import VECTORS
from jaxsharp.training.members import over_members

MIB = 2**20
NOTES = """
- allowed: a chunk, what is kept, and for each member that is vmapped, or for one, {vectors} vectors
  like the parameters. Data, parameters and results are arguments, and not counted.
- peak: the compiler's plan of what a program needs at once beside its arguments and results.
"""


class Sizes(NamedTuple):
    """How large the programs are."""

    smoke: bool = False
    examples: int = 4096
    widths: tuple[int, ...] = (1, 4, 16, 64)
    hidden: int = 512  # of each of three hidden layers of the wide network
    chunk: int = 4 * MIB
    kept: int = 32 * MIB


SMOKE = Sizes(True, 64, (1, 4), 8, MIB // 64, MIB // 16)


def memory(*, out: Path = Path("runs/benchmarks-memory"), smoke: bool = False) -> None:
    """Compile the programs and compare their peaks with the budget.

    Args:
        out: Folder of the tables.
        smoke: Fewer examples and members.
    """
    sizes = SMOKE if smoke else Sizes()
    rows = []
    for (model, measure), vmapped, width in itertools.product(
        works(sizes), (False, True), sizes.widths
    ):
        rows.append(row(model, measure, width, Budget(sizes.chunk, sizes.kept, 0, vmapped), sizes))
        print(*rows[-1].values(), flush=True)
    table = pd.DataFrame(rows)
    command = f"python experiments/benchmarks/memory.py{' --smoke' * smoke}"
    write(out, table, tables.configuration({"command": command, "sizes": sizes._asdict()}))
    print((out / "README.md").read_text())
    if (table["peak_mib"] > table["allowed_mib"]).any():
        sys.exit("a peak is above what is allowed")


def works(sizes: Sizes) -> list[tuple[str, str]]:
    """Networks, and the measures that are taken of them."""
    if sizes.smoke:
        return [("small_mlp", "minimum_sharpness"), ("wide", "top_eigenvalue")]
    names = ("minimum_sharpness", "top_eigenvalue", "random_perturbation")
    return [*(("small_mlp", name) for name in names), ("wide", "top_eigenvalue")] + [
        ("tiny_cnn", name) for name in (*names, "random_perturbation_bn")
    ]


def row(model: str, measure: str, width: int, budget: Budget, sizes: Sizes) -> dict:
    """The peak of a program beside what its members may take together."""
    task = tasks.make_task(model, tasks.fashion_mnist, True, 64, width=sizes.hidden)
    images = jax.ShapeDtypeStruct((sizes.examples, *task.images.shape[1:]), task.images.dtype)

    def rows(tree):
        shape = lambda leaf: jax.ShapeDtypeStruct((width, *leaf.shape), leaf.dtype)  # noqa: E731
        return jax.tree.map(shape, tree)

    def member(at, labels, key, images, part):
        data = images, labels
        return MEASURES[measure].arrays(task.network, at, data, key, Options(), part)

    labels = jax.ShapeDtypeStruct((sizes.examples,), jnp.int32)
    members = rows((Trained(task.params, task.stats), labels, jax.random.key(0)))
    program = jax.jit(over_members(member, None, budget)).lower(members, images).compile()
    vector = sum(leaf.nbytes for leaf in jax.tree.leaves(task.params))
    vectors = VECTORS * vector * (width if budget.vmapped else 1)
    return {
        "network": model,
        "measure": measure,
        "plan": "accelerator" if budget.vmapped else "cpu",
        "members": width,
        "vector_mib": vector / MIB,
        "allowed_mib": (budget.total + vectors) / MIB,
        "peak_mib": program.memory_analysis().temp_size_in_bytes / MIB,
    }


def write(out: Path, table: pd.DataFrame, config: dict) -> None:
    """Write counts.csv, config.json and README.md."""
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "counts.csv", index=False)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "README.md").write_text(page(table, config))


def page(table: pd.DataFrame, config: dict) -> str:
    """A line for each measure and plan: peak and what is allowed at every width."""
    sizes = config["sizes"]
    lines = []
    for names, part in table.groupby(["network", "measure", "plan"], sort=False):
        peaks = [f"{r.peak_mib:.3g} of {r.allowed_mib:.3g}" for r in part.itertuples()]
        lines.append([*names, f"{part['vector_mib'].iloc[0]:.2g}", *peaks])
    columns = ["network", "measure", "plan", "a vector, MiB"]
    columns += [f"{width} members" for width in sizes["widths"]]
    worst = (table["peak_mib"] / table["allowed_mib"]).max()
    return f"""# Memory

    {config["command"]}

JAX {config["versions"]["jax"]} on {config["device"]}; {sizes["examples"]} examples, a budget of
{sizes["chunk"] / MIB:g} MiB for chunks and {sizes["kept"] / MIB:g} MiB for what is kept, of which
members that are vmapped have equal parts. Peak of what is allowed, MiB; the largest share is
{worst:.2f}.

{tables.markdown(columns, lines)}{NOTES.format(vectors=VECTORS)}"""


if __name__ == "__main__":
    tyro.cli(memory)
