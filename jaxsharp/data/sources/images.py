"""A folder of images as a data set: DIR/train/CLASS/*.png, and DIR/test/CLASS/*.png.

Pillow decodes; nothing is unpickled. Pixels are taken as they are stored (an orientation in the
metadata is not applied).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from jaxsharp.core.choices import as_plain, counted, shown
from jaxsharp.data.arrays import from_arrays
from jaxsharp.data.parts import Dataset
from jaxsharp.data.readers import DataError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
GRAY = ("1", "L")
MODES = (*GRAY, "P", "RGB")  # of Pillow: two values, gray, a palette, color; 8 bits each


def from_images(
    directory: str | os.PathLike[str],
    *,
    name: str | None = None,
    train_size: int | None = None,
    holdout: int = 0,
) -> Dataset:
    """The data set of a folder: the images in ``train/CLASS/`` and in ``test/CLASS/``.

    Classes are counted from 0 in the alphabetical order of the folders in ``train``. Images are
    uint8 of shape (n, height, width, channels), all of one size: one channel if all are gray, else
    three, in which gray ones are repeated. They stand in the order of their files' names, classes
    in turn by their shares, so that the last ``holdout`` of ``train``, which test in place of
    ``test``, have about the shares of the whole. ``train_size`` as in `load`.

    Hidden files are skipped. Raises DataError, in one line that names the file, for images that are
    damaged, of another size, of several frames, with transparency or with more than 8 bits, for
    what is no image, for a class without images, and for one that is in ``test`` alone.
    """
    root = Path(directory)
    if not root.is_dir():
        raise DataError(f"{root} is no folder; it must be one with train/CLASS/*.png")
    classes = folders(root, "train")
    files, labels = in_turn([images_of(root / "train" / each) for each in classes])
    parts = {"train": (files, labels)}
    if not holdout:
        parts["test"] = tests(root, classes)
    shape = shape_of([file for files, _ in parts.values() for file in files])
    arrays = {
        part: (np.stack([decoded(file, shape) for file in files]), labels)
        for part, (files, labels) in parts.items()
    }
    try:
        return from_arrays(
            *(arrays["train"], arrays.get("test")),
            **{"name": name or as_plain(root.resolve().name), "source": str(root)},
            **{"num_classes": len(classes), "train_size": train_size, "holdout": holdout},
        )
    except DataError as error:
        raise DataError(f"{root}: {error}") from None


def visible(directory: Path) -> list[Path]:
    """What a folder holds but for hidden files, by name."""
    try:
        found = [path for path in directory.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{directory} cannot be read: {error.strerror}") from None
    return sorted(found, key=lambda path: path.name)


def folders(root: Path, part: str) -> list[str]:
    """The classes of a part, by name; DataError where there are none, or a file among them."""
    if not (root / part).is_dir():
        names = [path.name for path in visible(root) if path.is_dir()]
        advice = ", or give --holdout (holdout=)" if part == "test" else ""
        raise DataError(
            f"{root} has no folder {part}, its folders are {shown(names)}; images must be in "
            f"{part}/CLASS/{advice}"
        )
    found = visible(root / part)
    for path in found:
        if not path.is_dir():
            raise DataError(f"{path} is in no class; images must be in {part}/CLASS/")
    if not found:
        raise DataError(f"{root / part} has no folders; images must be in {part}/CLASS/")
    return [path.name for path in found]


def images_of(directory: Path) -> list[Path]:
    """The files of a class; DataError where there are none, or a folder among them."""
    found = visible(directory)
    for path in found:
        if not path.is_file():
            raise DataError(f"{path} is no file; images must be right in the folder of their class")
    if not found:
        raise DataError(f"{directory} has no images; every class must have at least one")
    return found


def tests(root: Path, classes: list[str]) -> tuple[list[Path], Int[np.ndarray, " n"]]:
    """Files and labels of the test part, which may lack classes, but has no others."""
    found = folders(root, "test")
    for each in found:
        if each not in classes:
            raise DataError(
                f"{root / 'test' / each} is of a class that train has not; its classes are "
                f"{shown(classes)}"
            )
    files, labels = in_turn([images_of(root / "test" / each) for each in found])
    return files, np.array([classes.index(each) for each in found])[labels]


def in_turn(files: Sequence[list[Path]]) -> tuple[list[Path], Int[np.ndarray, " n"]]:
    """Files of all classes and their labels, so ordered that every stretch has their shares."""
    labels = np.repeat(np.arange(len(files)), [len(each) for each in files])
    places = np.concatenate([(np.arange(len(each)) + 0.5) / len(each) for each in files])
    order = np.lexsort((labels, places))
    flat = [file for each in files for file in each]
    return [flat[i] for i in order], labels[order]


def shape_of(files: list[Path]) -> tuple[int, int, int]:
    """Height, width and channels of all images, by their headers; DataError if they disagree."""
    headers = [opened(file, lambda image: (image.size, image.mode in GRAY)) for file in files]
    sizes = [size for size, _ in headers]
    others = [i for i, size in enumerate(sizes) if size != sizes[0]]
    if others:
        (width, height), (other_width, other_height) = sizes[0], sizes[others[0]]
        raise DataError(
            f"{files[others[0]]} has {other_width} x {other_height} pixels and {files[0]} "
            f"{width} x {height} (width x height), as {counted(len(others), 'image')} of "
            f"{len(files)} have another size than that; all must have one size"
        )
    return sizes[0][1], sizes[0][0], 1 if all(gray for _, gray in headers) else 3


def decoded(file: Path, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of a file, gray repeated in three channels; DataError if it is damaged."""
    return np.broadcast_to(opened(file, pixels), shape)


def opened(file: Path, read: Any) -> Any:
    """What ``read`` finds in the image of a file; DataError that names it for what is none."""
    image_of = pillow(f"{file}: a folder of images")
    try:
        with image_of.open(file, formats=FORMATS) as image:
            check_image(image)
            return read(image)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    except Exception as error:  # every decoder has its own, even SyntaxError
        found = " ".join(str(error).split())
        raise DataError(
            f"{file} is damaged or no image, valid are {', '.join(FORMATS)}: {found}"
        ) from None


def pillow(what: str) -> Any:
    """Pillow's module of images; DataError where it is not installed."""
    try:
        import PIL.Image
    except ImportError as error:
        raise DataError(f"{what} needs Pillow: pip install 'jaxsharp[images]' ({error})") from None
    return PIL.Image


def check_image(image: Any) -> None:
    """Raise DataError for an image of Pillow that would not be kept as it is."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise DataError(f"the image has {frames} frames; it must have one")
    if image.mode not in MODES or "transparency" in image.info:
        kind = "with transparency" if image.mode in MODES else f"of Pillow's mode {image.mode}"
        raise DataError(
            f"the image is {kind}; it must be gray or RGB, of 8 bits a value and without "
            "transparency"
        )


def pixels(image: Any) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of an image of Pillow that passed `check_image`: one channel of gray, or three."""
    converted = np.asarray(image.convert("L" if image.mode in GRAY else "RGB"), np.uint8)
    return converted.reshape(*converted.shape[:2], -1)
