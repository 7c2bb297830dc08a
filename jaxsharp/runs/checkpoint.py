"""Saving and restoring pytrees of arrays, checked against sums.

PATH/arrays.npz   the arrays by their paths in the tree, as NumPy writes them
PATH/NAME         texts that belong to the arrays
PATH/SHA256SUMS   one line a file, as `sha256sum --check` reads it

Other files that systems and editors put there are nobody's: not read, and no damage.

Not orbax: on a full or forbidden disk its threads write tracebacks and wait for each other for
minutes, and a small state takes it ten times as long.
"""

import math
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxsharp.core.choices import shown
from jaxsharp.runs import files

ARRAYS, SUMS = "arrays.npz", "SHA256SUMS"
NAME = re.compile(r"[\w.-]{1,255}", re.ASCII)

# What the reading of an archive raises that is none, or is encrypted, packed or cut off.
UNREADABLE = (
    *(OSError, KeyError, ValueError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)


class DamagedError(ValueError):
    """A checkpoint that is not as it was written; the message is one line and names the file."""


def save(path: Path, tree: PyTree, texts: Mapping[str, str] | None = None) -> None:
    """Write the arrays of ``tree`` to the new folder ``path``, complete or not at all.

    ``texts`` are files beside them, by name. One rename makes everything appear, after all of it
    is on the disk. What killed processes left unfinished beside ``path`` is removed, so that one
    process at a time may save there.
    """
    path = path.resolve()
    temporary = path.with_name(files.TEMPORARY + path.name)
    with files.spoken_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent)
        try:
            temporary.mkdir()
            leaves = {name: np.asarray(leaf) for name, leaf in enumerate_leaves(tree)}
            np.savez(temporary / ARRAYS, allow_pickle=False, **leaves)
            for name, text in (texts or {}).items():
                (temporary / name).write_text(text, encoding="utf-8", newline="")
            names = sorted({ARRAYS, *(texts or {})})
            sums = [f"{files.digest(temporary / name)}  {name}\n" for name in names]
            (temporary / SUMS).write_text("".join(sums), encoding="utf-8", newline="")
            files.sync_tree(temporary)
            os.rename(temporary, path)
        except BaseException:
            remove_unfinished(path.parent)
            raise
        files.sync(path.parent)


def remove_unfinished(folder: Path) -> None:
    """Remove what was begun in a folder of checkpoints and not finished."""
    for path in folder.glob(f"{files.TEMPORARY}*/"):
        shutil.rmtree(path, ignore_errors=True)


def verify(path: Path, only: str | None = None, texts: Iterable[str] = ()) -> str | None:
    """What is wrong with a checkpoint, or ``only`` one file of it, in one line; None if nothing.

    Found are files that were changed, cut off or removed since ``save``, also from the list of
    sums, if they are named in ``texts`` or hold the arrays. What was added beside them is ignored.
    """
    if not (path / SUMS).is_file():
        return f"{SUMS} is missing"
    try:
        sums = read_sums(path)
        for name in sorted({ARRAYS, *texts, *sums}) if only is None else [only]:
            if not NAME.fullmatch(name):
                return f"{SUMS} has {shown(name)}, which is no name of a file there"
            if not (path / name).is_file():
                return f"{name} is missing"
            if name not in sums:
                return f"{name} is not listed in {SUMS}"
            if files.digest(path / name) != sums[name]:
                return f"{name} is not as it was written"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
    except files.ForeignError as error:
        return str(error)
    return None


def read_sums(path: Path) -> dict[str, str]:
    """The sums of a checkpoint's files by name."""
    text = files.read_bytes(path / SUMS).decode(errors="replace")
    lines = text.removesuffix("\n").split("\n")
    return {line[66:] or line: line[:64] for line in lines if line}


def read_text(path: Path, name: str) -> str:
    """A text that was saved with the arrays, checked alone; DamagedError if it is not as then."""
    if (reason := verify(path, only=name)) is not None:
        raise DamagedError(f"checkpoint {path} cannot be read: {reason}")
    try:
        return files.read_bytes(path / name).decode()
    except ValueError as error:
        raise ValueError(f"checkpoint {path} cannot be read: {name}: {error}") from None


def load(path: Path, like: PyTree) -> PyTree:
    """Read what ``save`` wrote, with the structure, shapes and dtypes of ``like``.

    ``like`` holds arrays or ShapeDtypeStructs. Nothing but arrays is read, into a structure that
    is known. Raises DamagedError before anything is read if a file is not as it was written, and
    ValueError, naming the directory, if it does not hold such a tree.
    """
    if (reason := verify(path)) is not None:
        raise DamagedError(f"checkpoint {path} cannot be read: {reason}")
    leaves = []
    try:
        with zipfile.ZipFile(path / ARRAYS) as found:
            leaves = [read_leaf(found, name, leaf) for name, leaf in enumerate_leaves(like)]
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"checkpoint {path} cannot be read: {reason}") from error
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def load_nested(path: Path, *fields: str) -> list[dict[str, Any]]:
    """Each of the ``fields`` of a tree that ``save`` wrote, as nested dictionaries of arrays.

    No structure need be known: keys, indices and names of fields are texts in the order in which
    they were saved, and a field without arrays is empty. Raises as ``load`` does.
    """
    if (reason := verify(path)) is not None:
        raise DamagedError(f"checkpoint {path} cannot be read: {reason}")
    nested: dict[str, Any] = {field: {} for field in fields}
    try:
        with zipfile.ZipFile(path / ARRAYS) as found:
            for name in (member.removesuffix(".npy") for member in found.namelist()):
                *outer, last = name.split(".")[1:]
                if [*outer, last][0] in fields:
                    place = nested
                    for key in outer:
                        place = place.setdefault(key, {})
                    place[last] = read_leaf(found, name)
    except (*UNREADABLE, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"checkpoint {path} cannot be read: {reason}") from error
    return [nested[field] for field in fields]


def read_leaf(archive: zipfile.ZipFile, name: str, leaf: PyTree | None = None) -> np.ndarray:
    """An array of an archive that is like ``leaf``; ValueError, and it is not read, if it is not.

    So an array takes the memory that is known, or else that of the archive, and not what the
    archive says of it.
    """
    with archive.open(f"{name}.npy") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is of another version of NumPy's format")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        if leaf is None:
            packed = archive.getinfo(f"{name}.npy").compress_type != zipfile.ZIP_STORED
            if packed or dtype.kind not in "biufc":
                raise ValueError(f"it has {name} as {dtype}, packed or not of numbers")
            leaf = jax.ShapeDtypeStruct(shape, dtype)
        # NumPy does not know the types of low precision, and writes them as bytes.
        raw = dtype.names is None and dtype.kind == leaf.dtype.kind == "V"
        alike = dtype.itemsize == leaf.dtype.itemsize if raw else dtype == leaf.dtype
        if shape != leaf.shape or not alike:
            raise ValueError(f"it has {name} as {dtype}{shape}; expected {leaf.dtype}{leaf.shape}")
        size = math.prod(shape) * dtype.itemsize
        content = bytearray(file.read(size + 1))
    if len(content) != size:
        raise ValueError(f"{name} has {len(content)} bytes or more; expected {size}")
    array = np.frombuffer(content, leaf.dtype) if size else np.empty(0, leaf.dtype)
    return array.reshape(shape, order="F" if by_column else "C")


def enumerate_leaves(tree: PyTree) -> list[tuple[str, PyTree]]:
    """Leaves of a tree with their paths as names, so that no container type is stored."""
    leaves = jax.tree.leaves_with_path(tree)
    keystr = jax.tree_util.keystr
    return [(f"tree.{keystr(path, simple=True, separator='.')}", leaf) for path, leaf in leaves]
