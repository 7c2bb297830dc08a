"""Which columns of a table of examples are inputs and targets, and those columns as arrays."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from jaxsharp.core.choices import shown
from jaxsharp.data.readers import DataError

TARGETS = ("target", "label", "labels", "y")
TESTS = ("test", "validation")


def parts_of(found: Mapping[str, Any], holdout: int) -> dict[str, Any]:
    """The parts that train and test, of all that there are; without a test part if held out."""
    if "train" not in found:
        raise DataError(f"there is no part train; the parts are {shown(list(found))}")
    tests = [] if holdout else [found[each] for each in TESTS if each in found]
    return dict(zip(("train", "test"), (found["train"], *tests), strict=False))


def chosen(
    names: Iterable[str], images: list[str], classes: list[str], targets: str | None
) -> tuple[list[str], str]:
    """The columns of inputs, and that of targets.

    Targets are in the column that is asked for, or called as one of `TARGETS`, or the only one of
    classes; inputs are the only column of images, or all others.
    """
    names = list(names)
    usual = [each for each in TARGETS if each in names][:1] or classes
    if targets is None and len(usual) != 1:
        raise DataError(
            f"the column of the targets is not clear among {shown(names)}; add #COLUMN (targets=)"
        )
    targets = usual[0] if targets is None else targets
    if targets not in names:
        raise DataError(f"there is no column {shown(targets)}; the columns are {shown(names)}")
    if targets in images:
        raise DataError(f"{shown(targets)} holds images; targets must be classes or numbers")
    others = [each for each in names if each != targets]
    if not others:
        raise DataError(f"there is no column of inputs beside {shown(targets)}")
    return images if len(images) == 1 else others, targets


def joined(columns: dict[str, np.ndarray]) -> Shaped[np.ndarray, "n ..."]:
    """One column as it is; several, which must be numbers, as features beside each other."""
    if len(columns) > 1:
        for name, each in columns.items():
            if each.ndim != 1 or each.dtype.kind not in "iufb":
                raise DataError(
                    f"there are {len(columns)} columns of inputs, and {shown(name)} holds "
                    f"{shown(str(each.dtype))[1:-1]} of shape {each.shape}; several must be "
                    "numbers, one an example"
                )
        return np.stack([each.astype(np.float64) for each in columns.values()], 1)
    (only,) = columns.values()
    return only


def same_channels(
    parts: dict[str, list[UInt8[np.ndarray, "h w _"]]],
) -> dict[str, UInt8[np.ndarray, "n h w c"]]:
    """Images of one size as an array for each part; gray ones repeat theirs if any has color."""
    sizes = {part: [each.shape[:2] for each in images] for part, images in parts.items()}
    height, width = sizes["train"][0]
    for part, found in sizes.items():
        for index, size in enumerate(found):
            if size != (height, width):
                raise DataError(
                    f"{part} image {index} has {size[1]} x {size[0]} pixels, train image 0 "
                    f"{width} x {height} (width x height); all must have one size"
                )
    channels = max(each.shape[-1] for images in parts.values() for each in images)
    shape = (height, width, channels)
    return {
        part: np.stack([np.broadcast_to(each, shape) for each in images])
        for part, images in parts.items()
    }
