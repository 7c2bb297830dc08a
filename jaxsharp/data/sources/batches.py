"""Batches of any loader as a data set that stays on the disk: one pass, a batch at a time."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxsharp.core.choices import as_plain, shown
from jaxsharp.data.arrays import Digits, as_array, check_alike, check_targets, from_arrays, split
from jaxsharp.data.parts import Dataset
from jaxsharp.data.readers import DataError, Split
from jaxsharp.data.sources.columns import chosen, joined
from jaxsharp.data.sources.tables import CLASSES, mapped_arrays


def from_batches(
    train: Any,
    test: Any = None,
    *,
    out: str | os.PathLike[str],
    targets: str | None = None,
    num_classes: int | None = None,
    holdout: int = 0,
) -> Dataset:
    """The data set of all batches of loaders, written to a new folder ``out`` that `load` maps.

    A loader is an iterable, such as PyTorch's or Grain's DataLoader, or a function that returns
    one, such as a generator's. It is passed over once, and must end; its order is that of the
    examples. A batch is (inputs, targets), or a mapping of columns: the targets are that called
    ``targets``, or else target, label, labels or y; of several others each holds a number an
    example. Arrays may be NumPy's, JAX's, PyTorch's or TensorFlow's, and are as in `from_arrays`;
    batches may differ in length. ``num_classes`` and ``holdout`` as in `from_arrays`.

    What is held in memory is some copies of a batch, and what checks 64 MiB of an array. Raises
    DataError, in one line with the number of the batch from 0, for what `from_arrays` refuses and
    for a batch that is unlike the first. ``out`` is there whole, or not at all.
    """
    folder = Path(out)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise DataError(f"{folder} is there already; choose another folder (out), or load it")
    if test is None and holdout < 1:
        raise DataError(f"holdout is {holdout} without a test part; give test, or at least 1")
    if test is not None and holdout:
        raise DataError(f"holdout is {holdout} beside a test part; give one of them")
    loaders = {"train": train} | ({} if test is None else {"test": test})
    for part, loader in loaders.items():
        if not (callable(loader) or is_loader(loader)):
            raise DataError(f"{part} is of type {type(loader).__name__}; {VALID}")
    with made_whole(folder) as unfinished:
        files: dict[str, Growing] = {}
        with ExitStack() as opened:
            for part, batch in splits_of(loaders, targets, num_classes):
                for letter, array in zip("xy", batch, strict=True):
                    name = f"{letter}_{part}.npy"
                    if name not in files:
                        files[name] = opened.enter_context(growing(unfinished / name, array))
                    files[name].append(array)
        if num_classes is not None:
            write_number(unfinished / f"{CLASSES}.npy", num_classes)
        train, test, _ = mapped_arrays(unfinished)
        return from_arrays(
            train,
            test,
            **{"name": as_plain(folder.resolve().name), "source": str(folder)},
            **{"num_classes": num_classes, "holdout": holdout},
        )


VALID = "it must be an iterable of batches, or a function that returns one"


def is_loader(given: Any) -> bool:
    """Whether something may be an iterable of batches, and is no array, text or single batch."""
    is_other = isinstance(given, Mapping | str | bytes) or hasattr(given, "dtype")
    return isinstance(given, Iterable) and not is_other


def splits_of(
    loaders: dict[str, Any], targets: str | None, num_classes: int | None
) -> Iterator[tuple[str, Split]]:
    """Each batch of the loaders, with its part, as arrays that are kept; DataError that names it.

    All are like the first, of which no example is held.
    """
    first, columns = None, None
    for part, loader in loaders.items():
        batches = loader if is_loader(loader) else loader()
        if not is_loader(batches):
            raise DataError(f"{part} returns {type(batches).__name__}; {VALID}")
        index, digits = -1, (Digits(), Digits())
        for index, batch in enumerate(batches):
            what = f"{part} batch {index}"
            if isinstance(batch, Mapping):
                columns = columns or columns_of(what, batch, targets)
                batch = pair_of(what, batch, *columns)
            found = split(what, batch, digits)
            check_targets(what, found.labels, num_classes)
            if first is None:
                first = Split(*(array[:0].copy() for array in found))
            else:
                check_alike({"train batch 0": first, what: found})
            yield part, found
        if index < 0:
            raise DataError(f"{part} gives no batch; a pass over it must give at least one")
        for name, each in zip(("inputs", "targets"), digits, strict=True):
            each.check(f"{part} {name}")


def columns_of(what: str, batch: Mapping, targets: str | None) -> tuple[list[str], str]:
    """The columns of inputs, in the order that they have in every batch, and that of targets."""
    try:
        return chosen(batch, [], [], targets)
    except DataError as error:
        raise DataError(f"{what}: {error}") from None


def pair_of(what: str, batch: Mapping, inputs: list[str], target: str) -> tuple[Any, Any]:
    """Inputs and targets of a batch of columns."""
    if set(batch) != {*inputs, target}:
        raise DataError(
            f"{what} has the columns {shown(list(batch))}, train batch 0 "
            f"{shown([*inputs, target])}; all must be alike"
        )
    if len(inputs) == 1:
        return batch[inputs[0]], batch[target]
    arrays = {name: as_array(f"{what} {shown(name)}", batch[name]) for name in inputs}
    for name, array in arrays.items():
        if array.shape[:1] != arrays[inputs[0]].shape[:1]:
            raise DataError(
                f"{what} has {shown(name)} of shape {array.shape}, {shown(inputs[0])} of "
                f"{arrays[inputs[0]].shape}; one for each example"
            )
    try:
        return joined(arrays), batch[target]
    except DataError as error:
        raise DataError(f"{what}: {error}") from None


def write_number(path: Path, number: int) -> None:
    """Write a number as an array of no axis; DataError where there is no room."""
    try:
        np.save(path, number)
    except OSError as error:
        raise DataError(f"{path.name} cannot be written: {error.strerror}") from None


class Growing:
    """An array in a .npy file that is longer with each part that is appended."""

    def __init__(self, path: Path, like: np.ndarray):
        self.path, self.like, self.length = path, like[:0].copy(), 0
        self.file = path.open("wb", buffering=0)
        self.write_header()

    def append(self, part: np.ndarray) -> None:
        """Write a part at the end; DataError where there is no room."""
        left = memoryview(np.ascontiguousarray(part)).cast("B")
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            raise DataError(
                f"{self.path.name} cannot be written: {error.strerror} (after {self.length} "
                "examples)"
            ) from None
        self.length += len(part)

    def write_header(self) -> None:
        """Write the header in its place; NumPy pads it, so that it has room for any length."""
        header = np.lib.format.header_data_from_array_1_0(self.like)
        self.file.seek(0)
        shape = (self.length, *self.like.shape[1:])
        np.lib.format.write_array_header_1_0(self.file, {**header, "shape": shape})


@contextmanager
def growing(path: Path, like: np.ndarray) -> Iterator[Growing]:
    """A `Growing` array that has its length in its file when the block has ended."""
    array = Growing(path, like)
    with array.file:
        yield array
        array.write_header()
        os.fsync(array.file.fileno())


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A folder elsewhere that takes the place of another at the end of a block, or is removed."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        around = Path(tempfile.mkdtemp(prefix=f".tmp-{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror}") from None
    unfinished = around / "arrays"  # of usual permissions, which mkdtemp does not give
    try:
        unfinished.mkdir()
        yield unfinished
        try:
            os.replace(unfinished, folder)
        except OSError as error:
            raise DataError(f"{folder} cannot be made: {error.strerror}") from None
    finally:
        shutil.rmtree(around, ignore_errors=True)
