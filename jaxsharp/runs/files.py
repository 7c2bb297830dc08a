"""Files that are written completely or not at all; folders that one process uses at a time."""

import contextlib
import csv
import hashlib
import io
import json
import os
import socket
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import filelock
import pandas as pd

TEMPORARY = ".tmp-"
"""What the names of unfinished files and folders begin with; a killed process leaves some."""
LOCK, HOLDER = ".lock", ".lock.json"
PATIENCE_S = 1.0  # a reader that asks who holds a lock takes it for an instant


class InUseError(ValueError):
    """A folder that another process writes to; the message is one line."""


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a file so that a reader finds the old content or the new one, and nothing between.

    After a power failure too if ``durable``; that waits for the disk. Raises OSError, and leaves
    the old content and no temporary file, if the disk is full or not writable.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
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
    first, *lines = path.read_text(errors="replace").removesuffix("\n").split("\n")
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
    try:
        held = filelock.FileLock(path / LOCK).acquire(timeout=PATIENCE_S, poll_interval=0.02)
    except filelock.Timeout:
        raise InUseError(
            f"{path} is in use by {said_holder(path)}; wait for it, or choose another folder"
        ) from None
    with held:
        try:
            who = {"pid": os.getpid(), "host": socket.gethostname()}
            write_text(path / HOLDER, json.dumps(who) + "\n", durable=False)
            yield
        finally:
            with contextlib.suppress(OSError):  # what ended the block is what the user must see
                (path / HOLDER).unlink(missing_ok=True)


def holder(path: Path) -> str | None:
    """The process that has the lock of a folder, in words; None if no process has it."""
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
        who = json.loads((path / HOLDER).read_text())
        return f"process {who['pid']} on {who['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
