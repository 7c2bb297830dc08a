"""File layouts in which image data sets are distributed, each read into one `Split`.

Every reader checks what it reads (sizes, header, label range) and raises `DataError` with the file
name, what was expected and what was found. Nothing here unpickles: idx and CIFAR-10's binary layout
are plain bytes, the embedded digits are read with `allow_pickle=False`.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8

Shape = tuple[int, int, int]


class DataError(ValueError):
    """A data set that cannot be had as asked; one line that says what would be valid."""


class Split(NamedTuple):
    """Inputs and their targets, in one order; the arrays may be read-only.

    Of images uint8 and int32; what else there may be is said in `arrays`.
    """

    images: Shaped[np.ndarray, "n ..."]
    labels: Shaped[np.ndarray, "n ..."]


def user_directory(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """The directory that the argument or else JAXSHARP_DATA names; None if neither does."""
    origin, named = "data_dir", data_dir
    if named is None:
        origin, named = "JAXSHARP_DATA", os.environ.get("JAXSHARP_DATA") or None
    if named is None:
        return None
    directory = Path(named).expanduser()
    if not directory.is_dir():
        raise DataError(f"{origin} is {str(named)!r}; it must be an existing directory")
    return directory


def find_file(directory: Path, name: str) -> Path | None:
    """The file of this name in a directory, plain or else gzipped; None if it has neither."""
    for path in (directory / name, directory / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def read_idx(paths: Sequence[Path], shape: Shape, num_classes: int) -> Split:
    """The split in two idx files (images, labels), of any length that both files agree on.

    idx is LeCun's layout: two zero bytes, the type (8 for uint8), the number of dimensions, each
    dimension as a big-endian 32-bit integer, then the values in C order.
    """
    images_path, labels_path = paths
    images = _read_idx_array(images_path, shape[:2])
    labels = _read_idx_array(labels_path, ())
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: expected {len(images)} labels, as many as {images_path.name} has "
            f"images, found {len(labels)}"
        )
    return checked(images.reshape(-1, *shape), labels, labels_path, shape, num_classes)


def _read_idx_array(path: Path, item_shape: tuple[int, ...]) -> UInt8[np.ndarray, "n ..."]:
    content, complete = _unpacked(path)
    ndim = 1 + len(item_shape)
    offset = 4 + 4 * ndim
    magic = bytes([0, 0, 8, ndim])
    if content[:4] != magic:
        raise DataError(
            f"{path}: expected an idx file of uint8 that begins with the bytes {magic.hex()}, "
            f"found {content[:4].hex() or 'an empty file'}"
        )
    if len(content) < offset:
        raise DataError(f"{path}: expected a header of {offset} bytes, found {len(content)} bytes")
    count, *found_shape = np.frombuffer(content, ">u4", ndim, 4).tolist()
    if tuple(found_shape) != item_shape:
        raise DataError(
            f"{path}: expected images of {_by(item_shape)} pixels, found {_by(found_shape)}"
        )
    expected = offset + count * math.prod(item_shape)
    if len(content) != expected or not complete:
        cut = "" if complete else "; the gzip stream is cut short"
        raise DataError(
            f"{path}: expected {expected} bytes by its header, found {len(content)}{cut}"
        )
    return np.frombuffer(content, np.uint8, offset=offset).reshape(count, *item_shape)


def _unpacked(path: Path) -> tuple[bytes, bool]:
    """The bytes of a file, gunzipped if its name ends in .gz, and whether the stream was whole."""
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content, True
    gunzip = zlib.decompressobj(wbits=31)  # unlike gzip.open, keeps what a cut stream still yields
    try:
        return gunzip.decompress(content), gunzip.eof
    except zlib.error as error:
        raise DataError(
            f"{path}: expected a gzip file, found damaged data or another format ({error})"
        ) from error


def read_cifar(paths: Sequence[Path], shape: Shape, num_classes: int, *, per_file: int) -> Split:
    """The split in files of CIFAR-10's binary layout, in the order of the files.

    A record is one byte of label and the red, green and blue planes; a file must hold exactly
    `per_file` records, so that one which was cut between two records is noticed.
    """
    height, width, channels = shape
    record = 1 + math.prod(shape)
    parts = []
    for path in paths:
        content, complete = _unpacked(path)
        if len(content) != per_file * record or not complete:
            raise DataError(
                f"{path}: expected {per_file * record} bytes ({per_file} records of {record}), "
                f"found {len(content)}"
            )
        records = np.frombuffer(content, np.uint8).reshape(per_file, record)
        planes = records[:, 1:].reshape(per_file, channels, height, width)
        parts.append(checked(planes.transpose(0, 2, 3, 1), records[:, 0], path, shape, num_classes))
    return Split(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def read_npz(path: Path, shape: Shape, num_classes: int) -> Split:
    """All examples in an npz file with the arrays `images` (n, h, w) and `labels` (n,) of uint8."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: expected an npz file with plain arrays images and labels, found: {error}"
        ) from error
    return checked(images[..., None], labels, path, shape, num_classes)


def checked(
    images: np.ndarray, labels: np.ndarray, path: Path, shape: Shape, num_classes: int
) -> Split:
    """Images and labels as a split; DataError for what is not of the shape, or no class."""
    if len(labels) == 0:
        raise DataError(f"{path}: expected examples, found none")
    if images.shape[1:] != shape or images.dtype != np.uint8:
        raise DataError(
            f"{path}: expected uint8 images of {_by(shape)}, "
            f"found {images.dtype} of {_by(images.shape[1:])}"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise DataError(
            f"{path}: expected labels from 0 to {num_classes - 1}, "
            f"found {labels[wrong[0]]} at example {wrong[0]}"
        )
    return Split(images, labels.astype(np.int32))


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape)
