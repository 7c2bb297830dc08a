"""Single tries of faults: each does one fault to a study in ``out`` and says how it ended."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import diverging
import numpy as np
from studies import (
    Place,
    Unexpected,
    end,
    must_finish,
    must_have_tables,
    must_refuse,
    start,
    wait,
)

from jaxsharp.core.choices import counted
from jaxsharp.studies import interrupts


class Skipped(Exception):
    """A fault that cannot be done on this machine."""


def kill(place: Place, out: Path, seed: int) -> str:
    """SIGKILL: the same command ends with the same tables."""
    process = start(place, out)
    wait(process, out, np.random.default_rng(seed).uniform(0, place.seconds))
    process.kill()
    process.communicate()
    must_finish(place, out)
    return "same tables"


def damage(place: Place, out: Path, seed: int) -> str:
    """One file cut off, deleted or changed in a byte: same tables, or one line that names the file.

    Of a finished study or of one that was killed.
    """
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        shutil.copytree(place.finished, out)
    else:
        process = start(place, out)
        wait(process, out, rng.uniform(0, place.seconds))
        process.kill()
        process.communicate()
    kinds: dict[str, list[Path]] = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.stat().st_size:
            kinds.setdefault(path.suffix, []).append(path)
    if not kinds:
        return "killed before there were files"
    path = kinds[rng.choice(sorted(kinds))]
    path = path[rng.integers(len(path))]
    how = str(rng.choice(["cut off", "deleted", "changed"]))
    harm(path, how, rng)
    code, lines = end(start(place, out))
    name = path.relative_to(out)
    try:
        if code == 0:
            must_have_tables(place, out)
            return "same tables"
        # The folder of a checkpoint stands for its files.
        folders = [str(out / parent) for parent in name.parents if len(parent.parts) > 2]
        must_refuse(code, lines, names=[str(path), *folders])
        return "named"
    except Unexpected as failure:
        raise Unexpected(f"{name} {how}: {failure}") from None


def harm(path: Path, how: str, rng: np.random.Generator) -> None:
    """Cut off a file, delete it, or change one of its bytes."""
    content = bytearray(path.read_bytes())
    position = int(rng.integers(len(content)))
    if how == "deleted":
        path.unlink()
    elif how == "cut off":
        path.write_bytes(content[:position])
    else:
        content[position] ^= int(rng.integers(1, 256))
        path.write_bytes(content)


def full_disk(place: Place, out: Path, seed: int) -> str:
    """A tmpfs too small for the study: one line; once it is larger, the same tables."""
    rng = np.random.default_rng(seed)
    size = sum(path.stat().st_blocks * 512 for path in place.finished.rglob("*"))
    disk = out.parent
    limit = f"size={int(rng.uniform(0.05, 0.9) * size)}"
    mount = ["mount", "-t", "tmpfs", "-o", limit, "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        raise Skipped("a tmpfs may not be mounted here")
    try:
        code, lines = end(start(place, out))
        if code != 0:
            must_refuse(code, lines)
        ended = "one line, then same tables" if code else "it sufficed"
        subprocess.run(["mount", "-o", "remount,size=256m", str(disk)], check=True)
        must_finish(place, out)
        return ended
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def no_permission(place: Place, out: Path, seed: int) -> str:
    """Write permission removed from folders and files: one line; once it is back, the same tables.

    Permissions do not hold root back, who runs without that capability.
    """
    prefix = ()
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            raise Skipped("root needs setpriv for that")
        prefix = ("setpriv", "--bounding-set", "-dac_override", "--")
    process = start(place, out, prefix=prefix)
    wait(process, out, np.random.default_rng(seed).uniform(0, place.seconds))
    process.send_signal(signal.SIGSTOP)
    set_modes(out.parent, 0o555, 0o444)
    process.send_signal(signal.SIGCONT)
    code, lines = end(process)
    set_modes(out.parent, 0o755, 0o644)
    if code != 0:
        must_refuse(code, lines)
    must_finish(place, out)
    return "one line, then same tables" if code else "it had ended"


def set_modes(top: Path, folder_mode: int, file_mode: int) -> None:
    """Set the permissions of a folder and all below it."""
    for folder, _, names in os.walk(top):
        Path(folder).chmod(folder_mode)
        for name in names:
            (Path(folder) / name).chmod(file_mode)


def divergence(place: Place, out: Path, seed: int) -> str:
    """One member of a group with learning rate 1e6 or NaN weights: the others bit for bit as ever.

    It is marked as diverged.
    """
    if wrong := diverging.difference(out, seed):
        raise Unexpected(wrong)
    return "others unchanged"


def diverging_study(place: Place, out: Path, seed: int) -> str:
    """A study with a learning rate of 1e6 to 1e30 among its axes: rows of the other rate as ever.

    Runs that diverged are marked, and have no measures.
    """
    rate = 10.0 ** np.random.default_rng(seed).integers(6, 31)
    tables = []
    for other in (0.05, rate):
        folder = out.with_name(f"rate{other:g}")
        code, lines = end(start(place, folder, "--vary", f"learning_rate=0.1,{other:g}"))
        if code != 0:
            raise Unexpected(f"learning rate {other:g}, code {code}: {' / '.join(lines)}")
        tables.append(folder / "runs.csv")
    if wrong := diverging.table_difference(*tables, rate):
        raise Unexpected(f"learning rate {rate:g}: {wrong}")
    return "others unchanged"


def rivals(place: Place, out: Path, seed: int) -> str:
    """Two processes at once: one ends with the same tables, the other refuses in one line."""
    processes = [start(place, out)]
    time.sleep(np.random.default_rng(seed).uniform(0, 0.2))
    processes.append(start(place, out))
    (code, _), (other, lines) = sorted(map(end, processes))
    if code != 0:
        raise Unexpected(f"codes {code} and {other}: {' / '.join(lines)}")
    must_refuse(other, lines)
    must_have_tables(place, out)
    return "one refused"


def interrupt(place: Place, out: Path, seed: int) -> str:
    """SIGINT: one line how to go on, and going on the same tables."""
    return signalled(place, out, seed, signal.SIGINT)


def terminate(place: Place, out: Path, seed: int) -> str:
    """SIGTERM: the same."""
    return signalled(place, out, seed, signal.SIGTERM)


def hang_up(place: Place, out: Path, seed: int) -> str:
    """SIGHUP, as from a closed terminal: the same."""
    return signalled(place, out, seed, signal.SIGHUP)


def early(place: Place, out: Path, seed: int) -> str:
    """Any of the three in the first five seconds of the process, also while modules are imported.

    In its first tenths of a second, in which Python itself starts, it hears no signal yet: it may
    end without a word, or with one of Python's.
    """
    rng = np.random.default_rng(seed)
    seconds, which = rng.uniform(0, 5), signal.Signals(rng.choice(interrupts.SIGNALS))
    process = start(place, out)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    heard = hears(process)
    process.send_signal(which)
    if not heard:
        process.communicate()
        must_finish(place, out)
        return f"{which.name} as Python started, then same tables"
    return f"{which.name}: {judged(place, out, process)}"


def late(place: Place, out: Path, seed: int) -> str:
    """Any of the three after the first five seconds, up to the end of an uninterrupted run.

    In its second half, if that takes less than ten. Where the process has ended before, the machine
    is faster than it was: it is started again.
    """
    rng = np.random.default_rng(seed)
    whole, which = place.whole, signal.Signals(rng.choice(interrupts.SIGNALS))
    while True:
        begin, process = time.monotonic(), start(place, out)
        try:
            process.wait(rng.uniform(min(5, whole / 2), whole))
        except subprocess.TimeoutExpired:
            process.send_signal(which)
            return f"{which.name}: {judged(place, out, process)}"
        whole = time.monotonic() - begin
        remove(out)


def hears(process: subprocess.Popen) -> bool:
    """Whether the program of a process, and not Python alone, handles signals; or it has ended."""
    if process.poll() is not None:
        return True
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*(\w+)", status, re.M)
    return bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def signalled(place: Place, out: Path, seed: int, which: signal.Signals) -> str:
    """Send a signal at a random moment, then run the command again."""
    process = start(place, out)
    wait(process, out, np.random.default_rng(seed).uniform(0, place.seconds))
    process.send_signal(which)
    return judged(place, out, process)


def judged(place: Place, out: Path, process: subprocess.Popen) -> str:
    """How a process ends that got a signal: at most two lines, and going on the same tables.

    One that ended as if there had been none has them already.
    """
    code, lines = end(process)
    if code != 0:
        must_refuse(code, lines, names=["continue"], expected=130)
    else:
        must_have_tables(place, out)
    if len(lines) > 2:
        raise Unexpected(f"{len(lines)} lines: {' / '.join(lines)}")
    must_finish(place, out)
    return f"{counted(len(lines), 'line')}, then same tables" if code else "it had ended"


def remove(folder: Path) -> None:
    """Remove what a try left."""
    set_modes(folder, 0o755, 0o644)
    shutil.rmtree(folder)


ATTEMPTS: dict[str, Callable[[Place, Path, int], str]] = {
    attempt.__name__: attempt
    for attempt in (
        *(kill, damage, full_disk, no_permission, divergence, diverging_study),
        *(rivals, interrupt, terminate, hang_up, early, late),
    )
}
