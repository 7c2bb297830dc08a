"""Files that are written completely or not at all; folders that one process uses at a time.

What a folder holds may come from anybody. `check_tree` refuses links and whatever else would lead
out of it, before anything of it is read; against somebody who changes the folder meanwhile, only
the permissions of the file system help.
"""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import re
import socket
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import pandas as pd

from jaxsharp.core.choices import construct, shown

TEMPORARY = ".tmp-"
"""What the names of unfinished files and folders begin with; a killed process leaves some."""
LOCK, HOLDER = ".lock", ".lock.json"
OWN = (TEMPORARY, LOCK)
FOREIGN = re.compile(r"\..*|.*~|#.*#|Thumbs\.db|desktop\.ini|lost\+found")
PATIENCE_S = 1.0  # a reader that asks who holds a lock takes it for an instant
LARGEST = 2**26  # bytes of a text: a history of half a million epochs
DEEPEST = 20  # objects and lists of JSON in each other


class InUseError(ValueError):
    """A folder that another process writes to; the message is one line."""


class ForeignError(ValueError):
    """Something in a folder that no run or study has there; the message is one line."""


@dataclass(frozen=True)
class Holder:
    """What a process that locks a folder says of itself."""

    pid: int
    host: str


def is_foreign(name: str) -> bool:
    """Whether a name is one that systems and editors leave anywhere, and that nobody here reads."""
    return FOREIGN.fullmatch(name) is not None and not name.startswith(OWN)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder so that nothing takes it for a whole one; the new path."""
    for number in itertools.count(1):
        aside = path.with_name(f"damaged-{path.name}" + (f"-{number}" if number > 1 else ""))
        if not aside.exists():
            return path.rename(aside)


@contextlib.contextmanager
def spoken_of(path: Path) -> Iterator[None]:
    """Errors of the system name ``path``: not what is written on the way to it, nor nothing."""
    try:
        yield
    except OSError as error:
        others = error.filename is not None and TEMPORARY not in str(error.filename)
        if error.errno is None or (others and error.filename2 is None):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_tree(path: Path) -> None:
    """Raise ForeignError unless all below a folder is files and folders with printable names.

    Links to elsewhere are not followed, and pipes and devices not opened. ``path`` itself is the
    user's word, and may be a link. What is foreign is passed over, like the links to nowhere that
    Emacs leaves beside the files it edits.
    """
    folders = [path] if path.is_dir() else []
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if is_foreign(entry.name):
                    continue
                mode = entry.stat(follow_symlinks=False).st_mode
                if not entry.name.isprintable():
                    what, valid = "a name that cannot be printed", "move it elsewhere"
                elif stat.S_ISLNK(mode):
                    what, valid = "a link", "put what it leads to in its place"
                elif not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                    what, valid = "neither file nor folder", "move it elsewhere"
                else:
                    folders += [Path(entry.path)] if stat.S_ISDIR(mode) else []
                    continue
                raise ForeignError(f"{path} holds {entry.path!a}, {what}; {valid}")


def read_bytes(path: Path) -> bytes:
    """Content of a file that holds a text; ForeignError for what is no file, or far too large."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise ForeignError(f"{path} is not a file; it must be one")
    if found.st_size > LARGEST:
        raise ForeignError(f"{path} has {found.st_size} bytes; it must have at most {LARGEST}")
    return path.read_bytes()


def holds(path: Path, text: str) -> bool:
    """Whether a file is there and holds a text and nothing else."""
    content = text.encode()
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def read_json(path: Path) -> Any:
    """What a file of JSON holds; ValueError, with what is wrong, for one that is none.

    Stricter than Python: no NaN or infinity, no field twice, nothing nested deeply.
    """

    def once(pairs):
        found = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"the field {shown(name)} is there twice")
            found[name] = value
        return found

    def refuse(constant):
        raise ValueError(f"{constant} is no number of JSON")

    def depth(value, left):
        inner = value.values() if isinstance(value, dict) else value
        if isinstance(value, dict | list):
            if left == 0:
                raise RecursionError
            for each in inner:
                depth(each, left - 1)

    try:
        found = json.loads(read_bytes(path), object_pairs_hook=once, parse_constant=refuse)
        depth(found, DEEPEST)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None
    return found


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a file so that a reader finds the old content or the new one, and nothing between.

    After a power failure too if ``durable``; that waits for the disk. Raises OSError, and leaves
    the old content and no temporary file, if the disk is full or not writable.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    with spoken_of(path):
        temporary.unlink(missing_ok=True)  # never written through: it may be another's second name
        try:
            with open(temporary, "x", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            sync(path.parent)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV; floats are the shortest decimals that read back exactly."""
    write_text(path, table.to_csv(index=False))


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table as CSV in which the last column is the CRC-32 of the row's text before it.

    Cells hold no line breaks, so that damage to one row never reaches another.
    """
    lines = [",".join((*header, "crc32"))]
    for row in rows:
        text = csv_line(row)
        lines.append(f"{text},{zlib.crc32(text.encode()):08x}")
    write_text(path, "\n".join(lines) + "\n")


def read_rows(path: Path, header: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Rows that ``write_rows`` wrote with this header, and the first cells of all other lines."""
    first, *lines = read_bytes(path).decode(errors="replace").removesuffix("\n").split("\n")
    rows, damaged = [], [] if first == ",".join((*header, "crc32")) else [first.split(",")[0]]
    for line in lines:
        text, _, found = line.rpartition(",")
        cells = next(csv.reader([text]), [])
        if found == f"{zlib.crc32(text.encode()):08x}" and len(cells) == len(header):
            rows.append(cells)
        else:
            damaged.append(line.split(",")[0])
    return rows, damaged


def csv_line(row: Sequence) -> str:
    """Cells as a line of CSV without its end; floats are the shortest decimals."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(row)
    return line.getvalue()


def sync(path: Path) -> None:
    """Wait until a file's content, or which names a folder holds, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """``sync`` for a folder and everything below it."""
    for each in (path, *path.rglob("*")):
        sync(each)


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keep other processes out of the folder ``path``, made if there is none, while a block runs.

    The operating system holds the lock, so that no way to end a process leaves it behind. Raises
    InUseError, naming the process that has it, and OSError for a folder that cannot be written.
    """
    path.mkdir(parents=True, exist_ok=True)
    check_lock(path)
    try:
        with spoken_of(path):
            held = filelock.FileLock(path / LOCK).acquire(timeout=PATIENCE_S, poll_interval=0.02)
    except filelock.Timeout:
        raise InUseError(
            f"{path} is in use by {said_holder(path)}; wait for it, or choose another folder"
        ) from None
    with held:
        try:
            who = Holder(os.getpid(), socket.gethostname())
            write_text(path / HOLDER, json.dumps(asdict(who)) + "\n", durable=False)
            yield
        finally:
            with contextlib.suppress(OSError):  # what ended the block is what the user must see
                (path / HOLDER).unlink(missing_ok=True)


def check_lock(path: Path) -> None:
    """Raise ForeignError for a lock that is a link or another file's second name: it is emptied."""
    try:
        found = (path / LOCK).lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise ForeignError(f"{path / LOCK} is not a file of its own; move it elsewhere")


def holder(path: Path) -> str | None:
    """The process that has the lock of a folder, in words; None if no process has it."""
    check_lock(path)
    if not (path / LOCK).is_file():
        return None
    try:
        with filelock.FileLock(path / LOCK).acquire(timeout=0):
            return None
    except filelock.Timeout:
        return said_holder(path)
    except OSError:  # a folder of somebody else: what its process says must do
        return said_holder(path) if (path / HOLDER).is_file() else None


def said_holder(path: Path) -> str:
    """What the process that locked a folder wrote about itself, or that it has not yet."""
    try:
        who = construct(Holder, read_json(path / HOLDER))
        return f"process {who.pid} on {who.host}"
    except (OSError, ValueError):
        return "another process"
