"""What do sharpness-aware steps cost beside plain ones, and the optimizers beside the gradient?

    python experiments/benchmarks/optimizers.py --out DIR

SimpleBatch and MLP_1 on FashionMNIST (`apt-get install dataset-fashion-mnist`) in batches of 128,
20 training steps in one compiled program, the pixels normalized in it. Contenders take turns in
one process. About half an hour on two cores; `--smoke` runs all of it on a few digits. Timings mean
something on a quiet machine only.

| work | question |
|---|---|
| variants | SAM, its variants and optax.contrib.sam beside plain SGD; m-SAM beside SAM |
| arithmetic | what share of a step is the optimizer's own arithmetic? |
"""

import sys
from pathlib import Path

import tyro
from curvature import use_threads

NOTES = """
- A time is that of all steps of one program; `examples` counts the examples of these steps.
- first call: preparation, compilation and first run.
- error: of the way from the first to the last weights, the relative difference from steps in
  float64 that are written out; for sgd, SAM and m-SAM.
- Every step keeps BatchNorm's statistics of the clean pass, which costs momentum_sam a forward
  pass that it does not need otherwise.
- "updates alone" take no gradients: one gradient, times another number in every step, which may
  stay in the cache. "step beyond sgd's" is a difference of two steps: with gradients between the
  updates, but as noisy as both.
"""


def optimizers(
    *,
    out: Path = Path("runs/benchmarks-optimizers"),
    repeats: int = 5,
    threads: int = 2,
    smoke: bool = False,
) -> None:
    """Run the benchmark.

    Args:
        out: Folder of the tables.
        repeats: Rounds in which all contenders take turns.
        threads: Cores used.
        smoke: A tiny network and data.
    """
    use_threads(threads)
    import measuring
    import tables
    import training

    sizes = training.SMOKE if smoke else training.Sizes()
    works = [*training.variant_works(sizes), *training.arithmetic_works(sizes)]
    command = f"python experiments/benchmarks/optimizers.py --repeats {repeats}"
    command += f" --threads {threads}{' --smoke' if smoke else ''}"
    options = {"command": command, "repeats": repeats, "cores": threads, "sizes": sizes._asdict()}
    rows = []
    for work in works:
        rows += measuring.measure(work, work.setup(), repeats)
        tables.write(out, rows, works, options, "Optimizer benchmark", NOTES)
    print((out / "README.md").read_text())
    if wrong := tables.wrong(rows):
        sys.exit(wrong)


if __name__ == "__main__":
    tyro.cli(optimizers)
