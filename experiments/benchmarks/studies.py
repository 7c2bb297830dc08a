"""A small study by the command line: started, awaited, its end judged."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TABLES = ("runs.csv", "history.csv", "summary.csv", "correlations.csv")
COMMON = (
    "--train-size 200 --batch-size 20 --loss-below 1.5"
    " --measures minimum_sharpness --save-every 1 --quiet"
)
STUDY = f"--optimizers sgd,adam --sam none,sam --seeds 2 --epochs 8 {COMMON}"
SMOKE = f"--optimizers sgd --sam none --seeds 2 --epochs 8 {COMMON}"
LIMIT = 600.0  # seconds that no run needs


class Unexpected(Exception):
    """A try that did not end as it should."""


class Place(NamedTuple):
    """A folder for tries, and what an uninterrupted run of the same command left and needed.

    ``seconds`` are from the moment at which its folder appeared, ``whole`` from its start.
    """

    folder: Path
    arguments: tuple[str, ...]
    environment: dict[str, str]
    finished: Path
    tables: dict[str, bytes]
    seconds: float
    whole: float


def make_place(folder: Path, study: str) -> Place:
    """Run the study twice without a fault: the first run compiles, the second is the measure."""
    for name in ("home", "cache", "bytecode"):
        (folder / name).mkdir()
    environment = {
        **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
        "HOME": str(folder / "home"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }
    place = Place(folder, tuple(study.split()), environment, folder / "finished", {}, 0.0, 0.0)
    for out in (folder / "compiled", place.finished):
        started, process = time.monotonic(), start(place, out)
        wait(process, out, 0.0)
        begin = time.monotonic()
        code, lines = end(process)
        if code != 0:
            raise RuntimeError(f"without a fault the study ended with code {code}: {lines}")
        seconds, whole = (time.monotonic() - moment for moment in (begin, started))
    tables = {name: (place.finished / name).read_bytes() for name in TABLES}
    place = place._replace(tables=tables, seconds=seconds, whole=whole)
    must_have_tables(place, folder / "compiled")
    return place


def start(place: Place, out: Path, *more: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen:
    """Start the command line, with ``more`` options, by the command ``prefix``."""
    command = [sys.executable, "-m", "jaxsharp", "study", *place.arguments, *more]
    return subprocess.Popen(
        [*prefix, *command, "--out", str(out)],
        cwd=ROOT,
        env=place.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait(process: subprocess.Popen, out: Path, seconds: float) -> None:
    """Wait until ``out`` appears, then some seconds, or until the process ends."""
    while process.poll() is None and not out.exists():
        time.sleep(0.005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def end(process: subprocess.Popen) -> tuple[int, list[str]]:
    """Exit code of a process and the lines that it wrote to stderr; no traceback is expected."""
    try:
        _, text = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Unexpected(f"no end within {LIMIT:g} s") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Traceback" in text or process.returncode < 0:
        print(text[:3000], flush=True)
        raise Unexpected(f"traceback or crash, code {process.returncode}: {lines[-1:]}")
    return process.returncode, lines


def must_finish(place: Place, out: Path) -> None:
    """Run the command; Unexpected unless it ends with the right tables."""
    code, lines = end(start(place, out))
    if code != 0:
        raise Unexpected(f"run again, code {code}: {' / '.join(lines)}")
    must_have_tables(place, out)


def must_have_tables(place: Place, out: Path) -> None:
    """Unexpected unless the tables are those of the uninterrupted run."""
    for name, content in place.tables.items():
        if not (out / name).is_file():
            raise Unexpected(f"no {name}")
        if (out / name).read_bytes() != content:
            raise Unexpected(f"other {name}")


def must_refuse(code: int, lines: list[str], *, names: list[str] = (), expected: int = 2) -> None:
    """Unexpected unless a run ended with a code and one line that has one of the names.

    Warnings of jaxsharp, and what it says to a signal, may stand before it.
    """
    final = lines[-1] if lines else ""
    errors = sum(line.startswith("jaxsharp: error: ") for line in lines)
    foreign = not all(line.startswith("jaxsharp: ") for line in lines)
    if code != expected or not lines or foreign or errors > 1:
        raise Unexpected(f"code {code}, not {expected} and one line: {' / '.join(lines)}")
    if names and not any(name in final for name in names):
        raise Unexpected(f"the line does not name {names[0]}: {final}")
