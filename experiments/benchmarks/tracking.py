"""What does it cost to follow the top eigenvalue along training?

    python experiments/benchmarks/tracking.py --out DIR

Epochs of SimpleBatch on FashionMNIST (`apt-get install dataset-fashion-mnist`), with and without
`--track top_eigenvalue`, on 2,048 examples after every epoch, taking turns; the first epoch, with
the compilations, is left out. Time is the processor's. About half an hour on two cores; `--smoke`
takes a few digits.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import tyro
from curvature import use_threads

NOTES = """
- Time is processor time of training, evaluation and what is followed, per run of all epochs but the
  first.
- error: the largest difference of a loss or accuracy from the run that follows nothing.
"""


def tracking(
    *,
    out: Path = Path("runs/benchmarks-tracking"),
    examples: int = 60000,
    size: int = 2048,
    epochs: int = 3,
    repeats: int = 3,
    threads: int = 2,
    smoke: bool = False,
) -> None:
    """Run the benchmark.

    Args:
        out: Folder of the tables.
        examples: Training examples of an epoch.
        size: Examples on which the eigenvalue is followed.
        epochs: Epochs that are timed.
        repeats: Rounds in which both take turns.
        threads: Cores used.
        smoke: A tiny network and data.
    """
    use_threads(threads)
    import tables
    from measuring import Row, Target, Work

    from jaxsharp import data
    from jaxsharp.runs import Settings
    from jaxsharp.studies.workbench import workbench

    command = f"python experiments/benchmarks/tracking.py --repeats {repeats} --epochs {epochs}"
    command += f" --examples {examples} --size {size} --threads {threads}" + " --smoke" * smoke
    dataset, model = ("digits", "small_mlp") if smoke else ("fashion_mnist", "simple_batch")
    if smoke:
        examples, size, epochs = 256, 64, 1
    bench = workbench(data.load(dataset, train_size=examples), model)
    plain = Settings(epochs=epochs + 1, loss_below=None)
    both = {
        "nothing followed": plain,
        "top eigenvalue followed": Settings(
            epochs=epochs + 1, loss_below=None, track="top_eigenvalue", track_size=size
        ),
    }
    times = {name: [] for name in both}
    for _ in range(repeats):
        found = {}
        for name, settings in both.items():
            seconds, found[name] = timed(bench, dataset, model, settings)
            times[name].append(seconds)
    plainly, followed = (table.to_numpy() for table in found.values())
    error = np.abs(followed[:, : plainly.shape[1]] - plainly).max()
    work = f"epochs of {model}, {size} examples followed"
    rows = [
        Row(work, name, epochs * examples, None, each[0], np.array(each), float("nan"), error, "")
        for name, each in times.items()
    ]
    target = Target(
        "time that following adds, of training",
        ("nothing followed", "top eigenvalue followed"),
        lambda without, beside: beside.seconds / without.seconds - 1,
        *("<=", 0.2),
    )
    options = {"command": command, "repeats": repeats, "cores": threads}
    options |= {"examples": examples, "size": size, "epochs": epochs}
    works = [Work(work, lambda: None, [], [target])]
    tables.write(out, rows, works, options, "Tracking benchmark", NOTES)
    print((out / "README.md").read_text())


def timed(bench, dataset: str, model: str, settings) -> tuple:
    """Processor seconds of all epochs but the first of a run, and its history."""
    from jaxsharp import runs
    from jaxsharp.runs import RunConfig, claims
    from jaxsharp.studies import Layout, sweep

    config, ends = RunConfig(dataset, model, "sgd", "none", 0, settings), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / config.name
        claims.claim_run(path, config)
        sweep.train(
            *([config], [path], bench),
            save_every=settings.epochs,
            layout=Layout(1),
            report=lambda progress: ends.append(time.process_time()),
        )
        return ends[-1] - ends[0], runs.read_history(path)


if __name__ == "__main__":
    tyro.cli(tracking)
