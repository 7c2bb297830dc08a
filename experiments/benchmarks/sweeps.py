"""How fast do groups of members train beside PyTorch, and what do saving and compiling cost?

    pip install -e '.[bench]'
    python experiments/benchmarks/sweeps.py --out DIR

Contenders take turns in one process on the same first weights, data and batches. FashionMNIST is
needed (`apt-get install dataset-fashion-mnist`), CIFAR-10 only with `--data-dir`: otherwise MLP_1
gets drawn images of its shape, as time does not depend on them. About ten minutes on two cores;
`--smoke` runs all of it on a few digits. Timings mean something on a quiet machine only.

| works | question |
|---|---|
| training | steps of 16 x mlp_1 and of 4 x simple_batch beside PyTorch, member after member |
| bookkeeping | what share of a group's time goes to saving, progress, histories? |
| compiling | seconds for study A's grid at one network, at first and from the cache |
"""

import json
import sys
from pathlib import Path
from typing import Literal, get_args

import tyro
from curvature import use_threads

Name = Literal["training", "bookkeeping", "compiling"]
NAMES = get_args(Name)

NOTES = """
- first call: preparation, compilation and first run.
- Time is that of all members' training steps, n // batch of them. PyTorch runs forward,
  cross-entropy, backward, step; its data are float tensors that were normalized beforehand, and its
  batches are drawn before the clock starts. It evaluates nothing.
- "training alone" is the engine's epoch with an evaluation mode that costs nothing.
- error: of the first and the last member's loss after the steps, in training mode on one batch, the
  relative difference from steps in float64.
- bookkeeping: wall time of four members' epochs, saved after every one or at the end, beside the
  calls of the compiled program of the latter. The first epoch, with its compilation, is left out.
- compiling: trace, lowering and compilation of the epochs' programs, each time in a new process.
"""


def sweeps(
    *,
    out: Path = Path("runs/benchmarks-sweeps"),
    data_dir: Path | None = None,
    works: tuple[Name, ...] = NAMES,
    repeats: int = 5,
    threads: int = 2,
    smoke: bool = False,
    worker: bool = False,
) -> None:
    """Run the benchmark.

    Args:
        out: Folder of the tables.
        data_dir: Directory with the official files of CIFAR-10.
        works: What to measure.
        repeats: Rounds in which all contenders take turns.
        threads: Cores used.
        smoke: Tiny networks and data.
        worker: Only print the seconds that compiling takes.
    """
    use_threads(threads)
    import groups
    import measuring
    import overheads
    import tables

    from jaxsharp.training.members import cores_as_devices

    cores_as_devices()
    sizes = groups.SMOKE if smoke else groups.Sizes()
    if worker:
        print(json.dumps({"seconds": overheads.compile_seconds(sizes)}))
        return
    command = f"python experiments/benchmarks/sweeps.py --repeats {repeats} --threads {threads}"
    command += f" --works {' '.join(works)}" * (set(works) != set(NAMES))
    command += " --smoke" * smoke + " --data-dir DIR" * (data_dir is not None)
    options = {"command": command, "repeats": repeats, "cores": threads, "sizes": sizes._asdict()}
    done, rows = [], []

    def add(work, measured):
        done.append(work)
        rows.extend(measured)
        tables.write(out, rows, done, options, "Sweep benchmark", NOTES)

    if "training" in works:
        for work in groups.throughput_works(sizes, data_dir):
            add(work, measuring.measure(work, work.setup(), repeats))
    if "bookkeeping" in works:
        add(*overheads.saving_rows(sizes, 1 if smoke else repeats))
    if "compiling" in works:
        arguments = ["--worker", "--threads", str(threads), *["--smoke"] * smoke]
        add(*overheads.compile_rows(sizes, __file__, arguments))
    print((out / "README.md").read_text())
    if wrong := tables.wrong(rows):
        sys.exit(wrong)


if __name__ == "__main__":
    tyro.cli(sweeps)
