"""Data sets of Hugging Face's package datasets: from its cache, a folder, or at hand."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from jaxsharp.core.choices import shown
from jaxsharp.data.arrays import from_arrays
from jaxsharp.data.parts import Dataset
from jaxsharp.data.readers import DataError
from jaxsharp.data.sources.columns import chosen, joined, parts_of, same_channels
from jaxsharp.data.sources.images import check_image, pixels


def from_huggingface(
    found: Any,
    *,
    targets: str | None = None,
    name: str = "own",
    train_size: int | None = None,
    holdout: int = 0,
    source: str = "datasets",
) -> Dataset:
    """The data set of a ``datasets.DatasetDict``, or of a ``datasets.Dataset`` with ``holdout``.

    ``targets`` names their column; without it that is the one called target, label, labels or y,
    else the only one of classes. Inputs are the only column of images, else all other columns: one
    of any shape, or several of numbers, side by side. Images become uint8 of shape (n, height,
    width, channels), one channel if all are gray. The part called test tests, else that called
    validation; ``train_size`` and ``holdout`` as in `load`. Of a table with a format
    (``set_format``) only its columns are looked at. Raises DataError, in one line, also for a
    transform (``set_transform``), and for classes that are called otherwise in the two parts.
    """
    datasets = package()
    parts = parts_of(found if isinstance(found, Mapping) else {"train": found}, holdout)
    for part, table in parts.items():
        if not isinstance(table, datasets.Dataset):
            raise DataError(f"{part} is of type {type(table).__name__}; it must be a Dataset")
        if not len(table):
            raise DataError(f"{part} has no rows; there must be at least one example")
        if table.format["type"] == "custom":
            raise DataError(
                f"{part} has a transform (set_transform), which is not applied; keep what it makes "
                "by map, or take it away by reset_format"
            )
    features = seen(parts["train"])
    images = [each for each, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [each for each, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    inputs, target = chosen(features, images, classes, targets)
    for part, table in parts.items():
        if missing := [each for each in (*inputs, target) if each not in table.features]:
            raise DataError(f"{part} has no column {missing[0]!a}, which train has")
    check_names(parts, [*inputs, target])
    if len(inputs) == 1 and inputs[0] in images:
        read = same_channels({part: pictures(part, x, inputs[0]) for part, x in parts.items()})
    else:
        read = {
            part: joined({each: numbers(part, table, each) for each in inputs})
            for part, table in parts.items()
        }
    return from_arrays(
        **{part: (read[part], numbers(part, table, target)) for part, table in parts.items()},
        **{"name": name, "source": source, "train_size": train_size, "holdout": holdout},
        num_classes=features[target].num_classes if target in classes else None,
    )


def seen(table: Any) -> dict[str, Any]:
    """Kinds of the columns of a table by name, without those that its format leaves out."""
    shows = table.format["columns"]
    is_whole = shows is None or table.format["output_all_columns"]
    return {name: kind for name, kind in table.features.items() if is_whole or name in shows}


def check_names(parts: dict[str, Any], columns: list[str]) -> None:
    """Raise DataError for classes that have one number in training and another in testing."""
    for column in columns:
        names = {
            part: getattr(table.features[column], "names", None) for part, table in parts.items()
        }
        train, test = names["train"], names.get("test")
        if train is not None and test is not None and train != test:
            i = next(i for i, pair in enumerate(zip_longest(train, test)) if len({*pair}) > 1)
            raise DataError(
                f"test {column!a} calls class {i} {shown(test[i : i + 1])}, train "
                f"{shown(train[i : i + 1])}; both must have the same classes in one order"
            )


def package() -> Any:
    """The package datasets; DataError where it is not installed."""
    try:
        import datasets
        from datasets import load_dataset  # noqa: F401 any folder called datasets can be imported
    except ImportError as error:
        raise DataError(
            f"reading it needs the package datasets: pip install 'jaxsharp[huggingface]' ({error})"
        ) from None
    return datasets


def saved(folder: str) -> Any:
    """What ``save_to_disk`` wrote into a folder."""
    datasets = package()
    try:
        return datasets.load_from_disk(folder)
    except Exception as error:
        raise DataError(f"is no whole data set of save_to_disk: {in_line(error)}") from None


def cached(path: str, config: str | None, directory: Path | None) -> Any:
    """What the cache, in a ``directory`` or where it usually is, has of a name."""
    datasets = package()
    place = {} if directory is None else {"cache_dir": str(directory)}
    try:
        with offline(datasets):
            return datasets.load_dataset(path, config, **place)
    except Exception as error:
        asked = ", ".join(repr(each) for each in (path, config) if each)
        asked += "".join(f", {name}={value!r}" for name, value in place.items())
        raise DataError(
            f"cannot be read from the cache of the package datasets: {in_line(error)}; fetch it "
            f'once: python -c "import datasets; datasets.load_dataset({asked})"'
        ) from None


@contextlib.contextmanager
def offline(datasets: Any) -> Iterator[None]:
    """The package reads its cache alone, and does not warn of it."""
    logger, was_offline = logging.getLogger("datasets"), datasets.config.HF_HUB_OFFLINE
    level = logger.level
    datasets.config.HF_HUB_OFFLINE = True
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
        logger.setLevel(level)


def numbers(part: str, table: Any, column: str) -> Shaped[np.ndarray, "n ..."]:
    """A column of numbers or arrays; uint8 and float64 stay, which the package would change."""
    kind = table.features[column]
    while hasattr(kind, "feature"):  # of a list
        kind = kind.feature
    dtype = getattr(kind, "dtype", None)
    exact = {"dtype": np.float64} if dtype == "float64" else {}
    try:
        found = np.asarray(table.with_format("numpy", columns=[column], **exact)[:][column])
    except Exception as error:
        raise DataError(f"{part} {column!a} cannot be read: {in_line(error)}") from None
    is_uint8 = dtype == "uint8" and found.dtype.kind == "i"
    return found.astype(np.uint8) if is_uint8 else found


def pictures(part: str, table: Any, column: str) -> list[UInt8[np.ndarray, "h w _"]]:
    """A column of images, each as it is stored."""
    found, rows = [], table.select_columns([column]).with_format(None)
    for row in range(len(rows)):
        try:
            image = rows[row][column]
            if image is None:
                raise DataError("there is no image")
            if isinstance(image, Mapping):
                raise DataError("it is not decoded; cast the column to Image(decode=True)")
            check_image(image)
            found.append(pixels(image))
        except Exception as error:
            raise DataError(f"{part} {column!a}, row {row}: {in_line(error)}") from None
    return found


def in_line(error: Exception) -> str:
    """What a package says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
