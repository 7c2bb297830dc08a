"""The user's own files as data sets: .npz, .csv, .parquet and .txt. Nothing is unpickled.

An .npz file holds x_train and y_train, and x_test and y_test or none of both; so does a folder of
.npy files, whose inputs stay in the file and are read as they are needed. Both may have num_classes
too, a whole number, for classes that no training example has. A table has one row
an example, all columns numbers; its targets are in the column target, label, labels or y, else in
the last. A .csv file begins with the names of its columns.
A text is windows of its characters (`text`).
"""

import numbers
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from jaxsharp.core.choices import as_plain, shown
from jaxsharp.data.arrays import from_arrays
from jaxsharp.data.parts import Dataset
from jaxsharp.data.readers import DataError
from jaxsharp.data.sources.columns import TARGETS
from jaxsharp.data.sources.text import from_text

SUFFIXES = (".npz", ".csv", ".parquet", ".txt")
WHOLE = 2**53  # up to which float64 holds all whole numbers
MAPPED = ("float32", "uint8", "int32")
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
CLASSES = "num_classes"


def load_file(path: Path, *, train_size: int | None = None, holdout: int = 0) -> Dataset:
    """The data set of a file or a folder; DataError that names it for what it cannot be."""
    if path.is_dir():
        called, arrays = path.resolve().name, mapped_arrays
    elif path.is_file():
        called, arrays = path.stem, read_arrays if path.suffix.lower() == ".npz" else read_table
    else:
        raise DataError(f"{path} is no file; valid are files {', '.join(SUFFIXES)} that exist")
    if path.suffix.lower() == ".txt":
        return from_text(path, name=as_plain(path.stem), train_size=train_size, holdout=holdout)
    try:
        train, test, num_classes = arrays(path)
        if holdout and test is not None:
            test = None
        sizes = {"train_size": train_size, "holdout": holdout, "num_classes": num_classes}
        return from_arrays(train, test, name=as_plain(called), source=str(path), **sizes)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def read_arrays(path: Path) -> tuple:
    """Training and test arrays of an .npz file, and the number of classes if it has that."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files if name in (*ARRAYS, CLASSES)}
            names = file.files
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"cannot be read as .npz without pickles: {error}") from None
    return pairs_of(found, names)


def pairs_of(found: dict[str, np.ndarray], names: list[str]) -> tuple:
    """Training and test arrays of those that were found, and the number of classes or None.

    DataError where an array is missing, or the number is none.
    """
    classes = found.pop(CLASSES, None)
    if classes is not None and (classes.shape != () or classes.dtype.kind not in "iu"):
        raise DataError(
            f"{CLASSES} is {classes.dtype} of shape {classes.shape}; it must be a whole number"
        )
    missing = [name for name in ARRAYS[:2] if name not in found]
    if len(found) == 3:
        missing = [name for name in ARRAYS if name not in found]
    if missing:
        raise DataError(
            f"has no array {missing[0]}; it has {shown(names)}, and must have {', '.join(ARRAYS)}, "
            "the latter two unless --holdout is given"
        )
    test = (found["x_test"], found["y_test"]) if "x_test" in found else None
    return (found["x_train"], found["y_train"]), test, None if classes is None else int(classes)


def is_folder(path: Path) -> bool:
    """Whether a folder holds arrays rather than images."""
    return any((path / f"{name}.npy").is_file() for name in ARRAYS)


def mapped_arrays(folder: Path) -> tuple:
    """Training and test arrays of the .npy files of a folder, mapped into memory, not read.

    And the number of classes, if that is there. Inputs must be of a type and order that need no
    copy.
    """
    found = {}
    for name in (*ARRAYS, CLASSES):
        file = folder / f"{name}.npy"
        if not file.is_file():
            continue
        try:
            found[name] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(
                f"{file.name} cannot be mapped as an array without pickles: {error}"
            ) from None
        if name.startswith("x") and not (
            found[name].dtype in MAPPED and found[name].flags.c_contiguous
        ):
            order = "" if found[name].flags.c_contiguous else " in Fortran's order"
            raise DataError(
                f"{file.name} is {shown(str(found[name].dtype))[1:-1]}{order}; inputs that stay in "
                f"the file must be {', '.join(MAPPED)} in C's order"
            )
    return pairs_of(found, sorted(found))


def read_table(path: Path) -> tuple:
    """Features and targets of a table, and None for a test part and classes that it has not."""
    is_csv = path.suffix.lower() == ".csv"
    try:
        table = pd.read_csv(path) if is_csv else pd.read_parquet(path)
        names = list(pd.read_csv(path, header=None, nrows=2).iloc[0]) if is_csv else []
    except ImportError as error:
        raise DataError(f"cannot be read without pyarrow: {str(error).splitlines()[0]}") from None
    except (ValueError, OSError) as error:
        raise DataError(f"is no table: {str(error).splitlines()[0]}") from None
    if table.shape[1] < 2:
        raise DataError(f"has {table.shape[1]} columns; there must be features and targets")
    if is_csv:
        check_header(names)
    for column in table:
        if table[column].dtype.kind not in "iufb":
            raise DataError(
                f"column {shown(column)} is of type {table[column].dtype}; all must be numbers"
            )
        there = table[column].dropna()
        whole = there.dtype.kind in "iu" and len(there) > 0
        if whole and max(-int(there.min()), int(there.max())) > WHOLE:
            raise DataError(
                f"column {shown(column)} has whole numbers beyond 2^53; float64 holds no such"
            )
    target = next((name for name in TARGETS if name in table), table.columns[-1])
    features = table.drop(columns=target).to_numpy(np.float64)
    return (features, table[target].to_numpy()), None, None


def check_header(names: list) -> None:
    """Raise DataError unless the first row of a .csv file is a name for each column.

    Numbers there are the first example of a file without names, but for 0, 1, 2 and so on, which
    pandas writes. A column without a name is the row numbers that it writes beside them.
    """
    if any(pd.isna(name) for name in names):
        i = next(i for i, name in enumerate(names) if pd.isna(name))
        raise DataError(
            f"column {i} (from 0) has no name in the first row, as row numbers that pandas wrote; "
            "name it, or leave it out (to_csv(index=False))"
        )
    is_example = all(isinstance(name, numbers.Number) for name in names)
    if is_example and names != list(range(len(names))):
        raise DataError(
            f"begins with the numbers {shown(names[:3])}; the first row must name the columns"
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(
            f"has two columns that are called {shown(twice[0])}; each must have its own name"
        )
