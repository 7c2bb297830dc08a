"""The user's own arrays as a data set: every array checked, or refused in one line.

Inputs are of any shape, examples first: real numbers (kept as float32), uint8 as images have it, or
other integers, which are indices as tokens are (kept as int32). Targets are classes, integers from
0 on, of shape (n,) or (n, tokens), -100 where a token does not count, or real numbers of shape (n,)
or (n, outputs). Arrays are copied, but for those that `numpy.memmap` has in such a type, which stay
in their file. A tensor of PyTorch is an array too, wherever it is.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from jaxsharp.core.choices import IGNORED, counted, plain, shown
from jaxsharp.data.parts import Dataset, divided, subset
from jaxsharp.data.readers import DataError, Split

INT32 = np.iinfo(np.int32)
MOST_LABELS = 5  # that a line names
# Float32 must tell so many apart of numbers that differ by more than NOISE, which is rounding.
DISTINCT, NOISE = 16, 1e-12
BLOCK = 2**26  # bytes that are looked at together, of arrays that may not fit the memory


def from_arrays(
    train: Any,
    test: Any = None,
    *,
    name: str = "own",
    num_classes: int | None = None,
    train_size: int | None = None,
    holdout: int = 0,
    source: str = "arrays",
) -> Dataset:
    """The data set of (inputs, targets) for training and testing, in the order given.

    Without ``test`` the last ``holdout`` training examples test. ``train_size`` as in `load`.
    ``num_classes`` is one more than the largest label unless given, for classes that no training
    example has. Raises DataError for what is no such array, for NaN and infinite values, lengths
    and shapes that disagree, labels that are no classes, and classes without an example.
    """
    plain("name", name)
    parts = {"train": split("train", train)}
    if holdout:
        if not 0 < holdout < len(parts["train"].labels):
            raise DataError(
                f"holdout is {holdout}; it must be from 1 to less than "
                f"{len(parts['train'].labels)} (the number of training examples)"
            )
        train_part, test_part = divided(parts["train"], len(parts["train"].labels) - holdout)
        parts = {"train": train_part, "test": test_part}
    elif test is None:
        raise DataError(
            "there is no test part; give test=(inputs, targets), or holdout (--holdout)"
        )
    else:
        parts["test"] = split("test", test)
    check_alike(parts)
    classes = check_classes(parts, num_classes)
    if train_size is not None:
        parts["train"] = subset(parts["train"], train_size, classes)
    return Dataset(name, parts["train"], parts["test"], classes, 255, source)


class Digits:
    """Whether float32 tells numbers apart that differ between examples, given part after part.

    It hardly does times in seconds of one minute, or densities of 1e-50. What differs by rounding
    in float64 alone, or is the same in float32, stays.
    """

    def __init__(self):
        self.ends: list[np.ndarray] = []  # smallest and largest; whether float32 changes any

    def add(self, found: np.ndarray, single: np.ndarray) -> None:
        """Look at more examples, as they were given and in float32; of another shape, afresh."""
        for start, part in blocks(found):
            low, high = part.min(axis=0), part.max(axis=0)
            lost = (part != single[start : start + len(part)]).any(axis=0)
            if self.ends and self.ends[0].shape == low.shape:
                low, high = np.minimum(low, self.ends[0]), np.maximum(high, self.ends[1])
                lost = lost | self.ends[2]
            self.ends = [low, high, lost]

    def check(self, what: str) -> None:
        """Raise DataError for the first place whose numbers float32 does not tell apart."""
        if not self.ends:
            return
        low, high, lost = map(np.ravel, self.ends)
        size, spread = np.maximum(np.abs(low), np.abs(high)), high - low
        kind = np.finfo(np.float32)
        few = (spread < DISTINCT * kind.eps * size) | (size < kind.tiny)
        places = np.flatnonzero(few & (spread > NOISE * size) & lost)
        if places.size:
            place = places[0]
            index = np.unravel_index(place, np.shape(self.ends[0]))
            where = "".join(f"[{i}]" for i in index)
            raise DataError(
                f"{what}{where and f' at {where}'} are from {float(low[place])!r} to "
                f"{float(high[place])!r}, of which float32 keeps hardly any digit in which they "
                "differ; subtract a constant, or take another unit"
            )


def split(part: str, given: Any, digits: tuple[Digits, Digits] | None = None) -> Split:
    """Inputs and targets of one part as arrays that are kept.

    Of a part that is more of another, ``digits`` of inputs and targets are left to be checked.
    """
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise DataError(f"{part} is of type {type(given).__name__}; it must be (inputs, targets)")
    later = digits or (None, None)
    inputs = kept(f"{part} inputs", given[0], later[0])
    targets = kept(f"{part} targets", given[1], later[1])
    if targets.dtype == np.uint8:
        targets = targets.astype(np.int32)
    if len(inputs) != len(targets):
        raise DataError(f"{part} has {len(inputs)} inputs and {len(targets)} targets; one for each")
    if targets.dtype == np.int32 and targets.shape[1:] == (1,):
        raise DataError(
            f"{part} targets are integers of shape {targets.shape}; classes must have the shape "
            f"({len(targets)},), real numbers must be of a floating type"
        )
    return Split(inputs, targets)


def kept(what: str, given: ArrayLike | Any, digits: Digits | None = None) -> np.ndarray:
    """An array as float32, int32 or uint8; DataError for others, and for none.

    One that is mapped from a file in such a type stays there.
    """
    is_mapped = isinstance(given, np.memmap)
    found = as_array(what, given)
    kind = found.dtype.kind
    if found.ndim == 0 or found.size == 0:
        raise DataError(f"{what} have shape {found.shape}; there must be at least one example")
    if str(found.dtype) == "bfloat16":
        found, kind = found.astype(np.float32), "f"
    if kind == "f":
        bad = np.concatenate(
            [
                start + np.flatnonzero(~np.isfinite(part).reshape(len(part), -1).all(1))
                for start, part in blocks(found)
            ]
        )
        if bad.size:
            raise DataError(
                f"{what} have {counted(bad.size, 'example')} with NaN or infinite values, the "
                f"first at index {bad[0]}; all values must be finite"
            )
        with np.errstate(over="ignore"):
            single = found.astype(np.float32, copy=not is_mapped)
        if found.dtype.itemsize > 4 and not np.isfinite(single).all():
            raise DataError(f"{what} have values beyond float32, up to {np.abs(found).max():.3g}")
        if digits is not None:
            digits.add(found, single)
        elif found.dtype.itemsize > 4:
            digits = Digits()
            digits.add(found, single)
            digits.check(what)
        return single
    if found.dtype == np.uint8:
        return found
    if kind == "b":
        return found.astype(np.int32 if "targets" in what else np.float32)
    if kind in "iu":
        low, high = found.min(), found.max()
        if low < INT32.min or high > INT32.max:
            raise DataError(f"{what} are integers from {low} to {high}; int32 holds no such")
        return found.astype(np.int32, copy=not is_mapped)
    raise DataError(
        f"{what} are of type {shown(str(found.dtype))[1:-1]}; valid are real numbers, integers and "
        "truth values"
    )


def as_array(what: str, given: ArrayLike | Any) -> np.ndarray:
    """What can be one as an array, tensors of PyTorch too, which is not needed; else DataError."""
    try:
        if hasattr(given, "detach"):
            given = given.detach().cpu()
            given = given.float() if str(given.dtype) == "torch.bfloat16" else given
        found = np.asarray(given)
    except Exception as error:
        raise DataError(f"{what} cannot be an array: {type(error).__name__}: {error}") from None
    if np.ma.is_masked(given):
        raise DataError(
            f"{what} have {counted(int(np.ma.count_masked(given)), 'masked value')}; all must be "
            "there: fill them, or leave their examples out"
        )
    return found


def blocks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Parts of an array along its first axis, of `BLOCK` bytes or one row, each with its start."""
    rows = max(1, BLOCK // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def check_alike(splits: dict[str, Split]) -> None:
    """Raise DataError unless the examples of two splits, each with what it is called, are alike."""
    (first, one), (second, other) = splits.items()
    for what, *pair in zip(("inputs", "targets"), one, other, strict=True):
        kinds = [f"{x.dtype} of shape {('n', *x.shape[1:])}".replace("'n'", "n") for x in pair]
        if kinds[0] != kinds[1]:
            raise DataError(
                f"{first} {what} are {kinds[0]}, {second} {what} {kinds[1]}; both must be alike"
            )


def check_classes(parts: dict[str, Split], num_classes: int | None) -> int:
    """The number of classes, 0 of real numbers; DataError for labels that are none, or classes
    without example."""
    labels, total = parts["train"].labels, num_classes
    if total is None and labels.dtype == np.int32:
        total = int(labels.max()) + 1
    for part, each in parts.items():
        check_targets(part, each.labels, total)
    if num_classes is None and total is not None and labels.ndim == 1:
        missing = np.array([0])
        if total <= labels.size + 1:
            counts = sum(np.bincount(block, minlength=total) for _, block in blocks(labels))
            missing = np.flatnonzero(counts == 0)
        if missing.size:
            raise DataError(
                f"no training example has class {missing[0]}, the largest is {total - 1}; classes "
                "are counted from 0, num_classes says how many (numbers that are no classes must "
                "be of a floating type)"
            )
    return total or 0


def check_targets(part: str, targets: np.ndarray, total: int | None) -> None:
    """Raise DataError for labels that are none of ``total`` classes, of any number for None."""
    if targets.dtype != np.int32:
        if total is not None:
            raise DataError(f"num_classes is {total}, and the targets are real numbers")
        return
    if total is not None and total < 2:
        raise DataError(f"there is {total} class; there must be at least 2")
    last = INT32.max if total is None else total - 1
    wrong = np.array([], np.int32)
    for _, block in blocks(targets):
        is_class = (block >= 0) & (block <= last)
        is_class |= (block == IGNORED) & (block.ndim > 1)
        wrong = np.union1d(wrong, block[~is_class])[:MOST_LABELS]
    if wrong.size:
        valid = "counted from 0" if total is None else f"0 to {last}"
        raise DataError(
            f"{part} targets hold {shown(wrong.tolist())}; the classes are {valid} (numbers that "
            "are no classes must be of a floating type)"
        )
