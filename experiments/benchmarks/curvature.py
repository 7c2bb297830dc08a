"""How fast are jaxsharp's products, eigenpairs and traces beside PyTorch, JAX and their libraries?

    pip install -e '.[bench]'
    python experiments/benchmarks/curvature.py --out DIR

Contenders take turns in one process on the same weights and data; peak memory is measured in a
process for each. Peers that are not installed are left out with a line. About half an hour on two
cores, FashionMNIST needed (`apt-get install dataset-fashion-mnist`); `--smoke` runs all of it on a
few digits. Timings mean something on a quiet machine only.

| work | question |
|---|---|
| products | a Hessian product beside a gradient, PyTorch and curvlinops |
| eigenpairs | top 5 eigenpairs beside PyHessian, curvlinops, hessian-eigenthings, matfree |
| examples | is streaming linear in time, constant in memory? |
| traces | exact traces beside backward passes by example and class; estimates beside the peers' |
| step | what a Lanczos step costs beyond its product, at 10 million parameters |
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Literal

import tyro

Name = Literal["products", "eigenpairs", "examples", "traces", "step"]
NAMES: tuple[Name, ...] = ("products", "eigenpairs", "examples", "traces", "step")

NOTES = """
- first call: preparation, compilation and first run. memory: growth of the process while preparing
  and running once, compilation included, over data, weights and modules; each in a process of its
  own.
- error: of a product, the relative difference from float64; of eigenpairs, the largest residual
  ||H v - value v|| / |value| of unit vectors, the product in float64; of exact traces, the largest
  relative difference from float64; of estimates, the relative error.
- "linearized" and "graph kept" time what every further product costs; the others begin anew.
- PyHessian has its default tolerance; matfree and hessian-eigenthings, which have no stopping rule,
  are told the number of steps that jaxsharp took. The inputs of PyTorch are normalized beforehand.
"""


def curvature(
    *,
    out: Path = Path("runs/benchmarks"),
    repeats: int = 5,
    works: tuple[Name, ...] = NAMES,
    threads: int = 2,
    memory: bool = True,
    smoke: bool = False,
    worker: str = "",
) -> None:
    """Run the benchmark.

    Args:
        out: Folder of the tables.
        repeats: Rounds in which all contenders take turns.
        works: What to measure.
        threads: Cores used.
        memory: Measure peak memory, one process for each contender.
        smoke: Tiny networks and data; the memory of one contender alone.
        worker: Only print the memory of one contender, "work/contender".
    """
    use_threads(threads)
    import measuring
    import tables

    sizes, groups = _groups(smoke)
    if worker:
        chosen = {
            f"{w.name}/{c.name}": (w, c) for g in groups.values() for w in g for c in w.contenders
        }
        print(json.dumps({"memory": measuring.memory_growth(*chosen[worker])}))
        return
    chosen = [work for name in works for work in groups[name]]
    command = f"python experiments/benchmarks/curvature.py --repeats {repeats} --threads {threads}"
    command += f" --works {' '.join(works)}{' --smoke' if smoke else ''}"
    options = {"command": command, "repeats": repeats, "cores": threads, "sizes": sizes._asdict()}
    rows = []
    for work in chosen:
        measured = measuring.measure(work, work.setup(), repeats)
        for row in measured:
            if memory and not (smoke and rows):
                row = row._replace(memory=_memory(work.name, row.contender, threads, smoke))
            rows.append(row)
        tables.write(out, rows, chosen, options, "Curvature benchmark", NOTES)
    print((out / "README.md").read_text())
    if wrong := tables.wrong(rows):
        sys.exit(wrong)


def _groups(smoke):
    """The sizes and the works by name."""
    import spectra
    import works

    sizes = works.SMOKE if smoke else works.Sizes()
    made = {
        "products": works.product_works,
        "eigenpairs": spectra.eigen_works,
        "examples": works.example_works,
        "traces": spectra.trace_works,
        "step": works.step_works,
    }
    return sizes, {name: make(sizes) for name, make in made.items()}


def _memory(work, contender, threads, smoke):
    import measuring

    arguments = [__file__, "--worker", f"{work}/{contender}", "--threads", str(threads)]
    return measuring.memory_in_subprocess(arguments + ["--smoke"] * smoke)


def use_threads(threads: int) -> None:
    """Hold the process to some cores, before JAX counts them, and PyTorch to as many threads."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False


if __name__ == "__main__":
    tyro.cli(curvature)
