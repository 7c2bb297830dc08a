"""What does it cost to train on arrays that stay in their files, or on the host?

    python experiments/benchmarks/mapped.py --out DIR

Epochs of SmallMLP, which computes little for each byte that it reads, or of another network of the
package (`--model resnet_20 --examples 1280`), on drawn images: held in memory; mapped from a file
of which the pages are in memory; mapped from one of which none is, dropped before every epoch; and
both of these streamed, as for an accelerator that has no room for them, in batches that a thread
reads ahead. They take turns, the streamed ones with a program of their own. Some minutes on two
cores; `--smoke` takes few small images.
"""

import ctypes
import mmap
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro
from curvature import use_threads

DROP = 4  # madvise's MADV_DONTNEED
NOTES = """
- Time is that of one epoch of steps, and of evaluation on all training examples.
- error: the largest difference of a parameter from those of the arrays in memory.
- "streamed": the program asks the host for each batch and each chunk (`core.streaming`), here on
  the CPU, where that is forced. On an accelerator each part crosses the bus besides, which is not
  measured here.
- "dropped": the pages are taken from the process and from the cache of the operating system; what
  lies beneath it (a virtual disk's host) may hold them still.
"""


def mapped(
    *,
    out: Path = Path("runs/benchmarks-mapped"),
    examples: int = 100_000,
    side: int = 32,
    model: str = "small_mlp",
    repeats: int = 5,
    threads: int = 2,
    smoke: bool = False,
) -> None:
    """Run the benchmark.

    Args:
        out: Folder of the tables.
        examples: Training examples.
        side: Pixels of a side of an image, in three colors.
        model: Network that is trained.
        repeats: Rounds in which all take turns.
        threads: Cores used.
        smoke: Few small images.
    """
    use_threads(threads)
    import tables
    from measuring import Row, Target, Work

    if smoke:
        examples, side = 1000, 8
    command = f"python experiments/benchmarks/mapped.py --repeats {repeats} --threads {threads}"
    command += f" --examples {examples} --side {side}" * (not smoke) + " --smoke" * smoke
    command += f" --model {model}" * (model != "small_mlp")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), examples, side)
        times, errors = measured(Path(folder), model, repeats)
    work = f"epoch of {model} on {examples} images of {side} x {side} x 3"
    rows = [
        Row(work, name, examples, None, each[0], np.array(each[1:]), float("nan"), errors[name], "")
        for name, each in times.items()
    ]
    targets = [
        Target(
            f"time that {name} adds",
            ("in memory", name),
            lambda held, read: read.seconds / held.seconds - 1,
            *("<=", 0.15),
        )
        for name in times
        if name != "in memory"
    ]
    options = {"command": command, "repeats": repeats, "cores": threads}
    options |= {"examples": examples, "side": side}
    works = [Work(work, lambda: None, [], targets)]
    tables.write(out, rows, works, options, "Mapped arrays", NOTES)
    print((out / "README.md").read_text())


def write(folder: Path, examples: int, side: int) -> None:
    """A folder of arrays, as `data.load` maps them."""
    rng = np.random.default_rng(0)
    for part, count in (("train", examples), ("test", 100)):
        shape = (count, side, side, 3)
        file = np.lib.format.open_memmap(folder / f"x_{part}.npy", "w+", np.uint8, shape)
        for i in range(0, count, 1000):
            file[i : i + 1000] = rng.integers(0, 256, file[i : i + 1000].shape, np.uint8)
        file.flush()
        np.save(folder / f"y_{part}.npy", np.arange(count) % 10)


def measured(folder: Path, model: str, repeats: int) -> tuple[dict, dict]:
    """Seconds of an epoch, the first with the compilation, and differences, by what was read."""
    import jax

    from jaxsharp import data
    from jaxsharp.core.streaming import streamed
    from jaxsharp.runs import RunConfig, Settings
    from jaxsharp.studies.recipes import beginning, hyper_arrays, make_recipe
    from jaxsharp.studies.workbench import workbench
    from jaxsharp.training.epochs import Data, epoch_program, streams
    from jaxsharp.training.members import stack

    dataset = data.load(str(folder))
    bench = workbench(dataset, model)
    config = RunConfig("mapped", model, "sgd", "none", 0, Settings(epochs=9)).resolved()
    recipe, images = make_recipe(config, bench), dataset.train.images
    program = epoch_program(recipe)
    rows = stack([(beginning(recipe, config, bench), hyper_arrays(config, bench.optimizers))])
    read = {"in memory": np.array(images), "mapped": images, "mapped, dropped": images}
    read |= {"streamed": images, "streamed, dropped": images}
    times, ends = {name: [] for name in read}, {}
    for _ in range(repeats + 1):
        for name, each in read.items():
            if name.endswith("dropped"):
                drop(images, folder / "x_train.npy")
            given = streamed(each) if name.startswith("streamed") else each
            shared = jax.device_put(
                Data(given, dataset.train.labels[None], dataset.test.images, dataset.test.labels)
            )
            start = time.monotonic()
            states, _ = jax.block_until_ready(program(*rows, streams(0).order[None], shared))
            times[name].append(time.monotonic() - start)
            ends[name] = jax.device_get(states.params)
    leaves = {name: jax.tree.leaves(each) for name, each in ends.items()}
    errors = {
        name: max(np.abs(a - b).max() for a, b in zip(each, leaves["in memory"], strict=True))
        for name, each in leaves.items()
    }
    return times, errors


def drop(array: np.ndarray, path: Path) -> None:
    """Take the pages of a mapped file out of the process and the cache."""
    begin = array.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    length = array.ctypes.data + array.nbytes - begin
    if ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), DROP):
        raise OSError("the pages cannot be dropped")
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    tyro.cli(mapped)
