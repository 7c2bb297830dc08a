"""Saving and restoring pytrees of arrays, checked against sums.

PATH/arrays.npz   the arrays by their paths in the tree, as NumPy writes them
PATH/NAME         texts that belong to the arrays
PATH/SHA256SUMS   one line a file, as `sha256sum --check` reads it

Not orbax: on a full or forbidden disk its threads write tracebacks and wait for each other for
minutes, and a small state takes it ten times as long.
"""

import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from jaxsharp.runs import files

ARRAYS, SUMS = "arrays.npz", "SHA256SUMS"


class DamagedError(ValueError):
    """A checkpoint that is not as it was written; the message is one line and names the file."""


def save(path: Path, tree: PyTree, texts: Mapping[str, str] | None = None) -> None:
    """Write the arrays of ``tree`` to the new folder ``path``, complete or not at all.

    ``texts`` are files beside them, by name. One rename makes everything appear, after all of it
    is on the disk. What killed processes left unfinished beside ``path`` is removed, so that one
    process at a time may save there.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path.parent)
    temporary = path.with_name(files.TEMPORARY + path.name)
    try:
        temporary.mkdir()
        leaves = {name: np.asarray(leaf) for name, leaf in enumerate_leaves(tree)}
        np.savez(temporary / ARRAYS, allow_pickle=False, **leaves)
        for name, text in (texts or {}).items():
            (temporary / name).write_text(text, encoding="utf-8", newline="")
        sums = [f"{files.digest(temporary / name)}  {name}\n" for name in file_names(temporary)]
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


def file_names(path: Path) -> list[str]:
    """Names of the files of a checkpoint, relative to it and sorted, but for the list of sums."""
    names = (p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir())
    return sorted(name for name in names if name != SUMS)


def verify(path: Path, only: str | None = None) -> str | None:
    """What is wrong with a checkpoint, or ``only`` one file of it, in one line; None if nothing.

    Found are files that were changed, cut off, removed or added since ``save``.
    """
    if not (path / SUMS).is_file():
        return f"{SUMS} is missing"
    try:
        sums = read_sums(path)
        for name in sorted({*sums, *file_names(path)}) if only is None else [only]:
            if not (path / name).is_file():
                return f"{name} is missing"
            if name not in sums:
                return f"{name} is not listed in {SUMS}"
            if files.digest(path / name) != sums[name]:
                return f"{name} is not as it was written"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
    return None


def read_sums(path: Path) -> dict[str, str]:
    """The sums of a checkpoint's files by name."""
    lines = (path / SUMS).read_text(errors="replace").removesuffix("\n").split("\n")
    return {line[66:] or line: line[:64] for line in lines if line}


def read_text(path: Path, name: str) -> str:
    """A text that was saved with the arrays, checked alone; DamagedError if it is not as then."""
    if (reason := verify(path, only=name)) is not None:
        raise DamagedError(f"checkpoint {path} cannot be read: {reason}")
    return (path / name).read_bytes().decode()


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
        with np.load(path / ARRAYS, allow_pickle=False) as found:
            for name, leaf in enumerate_leaves(like):
                got = found[name]
                # NumPy does not know the types of low precision, and gives their bytes.
                got = got.view(leaf.dtype) if got.dtype.kind == "V" else got
                if got.shape != leaf.shape or got.dtype != leaf.dtype:
                    raise ValueError(
                        f"it holds {name} as {got.dtype}{got.shape}; "
                        f"expected {leaf.dtype}{leaf.shape}"
                    )
                leaves.append(got)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from error
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def enumerate_leaves(tree: PyTree) -> list[tuple[str, PyTree]]:
    """Leaves of a tree with their paths as names, so that no container type is stored."""
    leaves = jax.tree.leaves_with_path(tree)
    keystr = jax.tree_util.keystr
    return [(f"tree.{keystr(path, simple=True, separator='.')}", leaf) for path, leaf in leaves]
