"""Times of contenders in turn, their peak memory in processes of their own, their accuracy."""

import gc
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

STATUS = Path("/proc/self/status")
PAUSE = 0.05  # seconds for the threads of the contender before to fall asleep


class Contender(NamedTuple):
    """One way to do a work.

    `place(task)` brings data and weights to where they are used; `prepare(placed)` returns the
    function that is timed; `read(placed, result)` returns its answer, as the work's check takes
    it, and the number of products. `needs` are the modules that it imports.
    """

    name: str
    prepare: Callable
    examples: int
    needs: tuple[str, ...] = ()
    place: Callable = lambda task: task
    read: Callable = lambda placed, result: (result, None)


class Target(NamedTuple):
    """A number made of the rows called `names`: `value(*rows)`, one entry a round.

    It should be at most or at least `bound`, as `sense` says; "" if nothing is demanded.
    """

    text: str
    names: tuple[str, ...]
    value: Callable
    sense: str = ""
    bound: float = float("nan")


class Work(NamedTuple):
    """Contenders that get the same answer on one task.

    `check(task, examples, answer)` returns the error and a remark; with an error above `tolerance`
    the run fails once its tables are written.
    """

    name: str
    setup: Callable
    contenders: list[Contender]
    targets: list[Target]
    check: Callable | None = None
    tolerance: float = float("inf")


class Row(NamedTuple):
    """What was measured of a contender; `memory` in bytes, times in seconds."""

    work: str
    contender: str
    examples: int
    products: int | None
    first: float
    seconds: np.ndarray
    memory: float
    error: float
    remark: str

    def per(self, *fields: str) -> np.ndarray:
        """The times per example, per product, or both."""
        return self.seconds / np.prod([float(getattr(self, field)) for field in fields])


def ratio(text, numerator, denominator, sense="", bound=float("nan"), per=()) -> Target:
    """The target for the time of one contender over that of another in the same round."""

    def value(a, b):
        return a.per(*per) / b.per(*per)

    return Target(text, (numerator, denominator), value, sense, bound)


def measure(work: Work, task: Any, repeats: int) -> list[Row]:
    """Rows without memory: every contender once, then all in turn `repeats` times."""
    ready, times = [], {}
    for contender in work.contenders:
        if lacks := missing(contender):
            print(f"{work.name}: {contender.name} left out, {lacks}", flush=True)
            continue
        placed = contender.place(task)
        start = time.perf_counter()
        try:
            run = contender.prepare(placed)
            result = finish(run())
        except Exception as error:
            if not contender.needs:
                raise
            print(f"{work.name}: {contender.name} failed: {error!r}"[:300], flush=True)
            continue
        first = time.perf_counter() - start
        print(f"{work.name}: {contender.name}, first call {first:.3g} s", flush=True)
        ready.append((contender, placed, run, result, first))
    gc.freeze()  # what is here now need not be looked at after every run
    for _ in range(repeats):
        for contender, _, run, _, _ in ready:
            gc.collect()  # PyHessian's graphs are cycles
            time.sleep(PAUSE)
            start = time.perf_counter()
            finish(run())
            times.setdefault(contender.name, []).append(time.perf_counter() - start)
    gc.unfreeze()
    return [_row(work, task, *entry, times[entry[0].name]) for entry in ready]


def _row(work, task, contender, placed, _, result, first, seconds):
    answer, products = contender.read(placed, result)
    error, remark = float("nan"), ""
    if work.check is not None and answer is not None:
        error, remark = work.check(task, contender.examples, answer)
        if not error <= work.tolerance:
            remark += f"WRONG, allowed {work.tolerance:g}"
            print(f"{work.name}: {contender.name} has error {error:.1e}, {remark}", flush=True)
    sizes = (contender.examples, products, first, np.array(seconds), float("nan"))
    return Row(work.name, contender.name, *sizes, error, remark)


def missing(contender: Contender) -> str:
    """Why a contender cannot run here; empty if it can."""
    for name in contender.needs:
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    if "torch" in contender.needs and jax.default_backend() != "cpu":
        import torch

        if not torch.cuda.is_available():
            return "torch has no CUDA"
    return ""


def finish(result):
    """Wait until a result is there."""
    jax.block_until_ready(result)
    if "torch" in sys.modules and jax.default_backend() != "cpu":
        sys.modules["torch"].cuda.synchronize()
    return result


def memory_growth(work: Work, contender: Contender) -> int:
    """Bytes by which preparing and running once exceed the data, weights and imported modules."""
    placed = contender.place(work.setup())
    for name in contender.needs:
        importlib.import_module(name)
    before = _memory(peak=False)
    run = contender.prepare(placed)
    finish(run())
    return _memory(peak=True) - before


def _memory(peak: bool) -> int:
    """Bytes in use now, forgetting former peaks, or the peak since then."""
    if jax.default_backend() != "cpu":
        used = jax.local_devices()[0].memory_stats()
        used = used["peak_bytes_in_use" if peak else "bytes_in_use"]
        if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
            cuda = sys.modules["torch"].cuda
            used += cuda.max_memory_allocated() if peak else cuda.memory_allocated()
        return used
    if not STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not ru_maxrss: a child begins with that of its parent, and it cannot be reset.
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")
    field = "VmHWM" if peak else "VmRSS"
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def memory_in_subprocess(arguments: list[str]) -> float:
    """Run the script with arguments that make it print `memory_growth`; NaN if it fails."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"memory not measured: {done.stderr.strip()[-300:]}", flush=True)
        return float("nan")
    return float(json.loads(done.stdout.splitlines()[-1])["memory"])
