"""Texts as data sets of characters: windows of a text, and the next character at each place."""

import os
from pathlib import Path

import numpy as np

from jaxsharp.core.choices import shown
from jaxsharp.data.arrays import from_arrays
from jaxsharp.data.parts import Dataset
from jaxsharp.data.readers import DataError

LENGTH = 64
TEST_SHARE = 0.1


def from_text(
    text: str | os.PathLike[str],
    *,
    length: int = LENGTH,
    test_share: float = TEST_SHARE,
    name: str = "text",
    train_size: int | None = None,
    holdout: int = 0,
) -> Dataset:
    """The data set of a text: which character comes next, at each place of a window.

    ``text`` is the text itself, or the path of a file in UTF-8: a `pathlib.Path`, or one line that
    ends in .txt. Inputs are windows of ``length`` characters, one after another, targets the same
    moved on by one, both int32 of shape (n, length); class i is the i-th of
    ``sorted(set(text))``. The last ``test_share`` of the text tests, and no window reaches from one
    part into the other; with ``holdout`` the last of the training windows test instead.
    ``train_size`` keeps the first.

    Raises DataError, one line, for a file that is none or no text, and for a text that is too short
    for a window in each part or has one character alone.
    """
    source, text = read(text)
    whole = isinstance(length, int) and not isinstance(length, bool)
    if not whole or length < 2:
        raise DataError(f"length is {shown(length)}; it must be a whole number, at least 2")
    if not 0 < test_share < 1:
        raise DataError(f"test_share is {shown(test_share)}; it must be between 0 and 1")
    characters, tokens = np.unique(np.array(list(text)), return_inverse=True)
    if len(characters) < 2:
        raise DataError(f"{source} has {len(characters)} different characters; 2 are needed")
    cut = len(tokens) - round(test_share * len(tokens))
    parts = {"train": tokens[:cut], "test": tokens[cut:]}
    for part, each in parts.items():
        if len(each) < length + 1:
            raise DataError(
                f"{source} has {len(tokens)} characters, {len(each)} of them for {part}; a window "
                f"of length {length} takes {length + 1}"
            )
    train, test = (windows(each, length) for each in parts.values())
    return from_arrays(
        *(train, None if holdout else test),
        **{"name": name, "num_classes": len(characters), "source": source},
        **{"train_size": train_size, "holdout": holdout},
    )


def read(text: str | os.PathLike[str]) -> tuple[str, str]:
    """Where a text is from, and the text."""
    is_path = isinstance(text, os.PathLike)
    if not is_path and not isinstance(text, str):
        raise DataError(f"text is of type {type(text).__name__}; it must be a text or a path")
    if not is_path and ("\n" in text or not text.lower().endswith(".txt")):
        return "text", text
    path = Path(text)
    if not path.is_file():
        raise DataError(f"{path} is no file; it must be a text in UTF-8 that exists")
    try:
        return str(path), path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} is no text in UTF-8: {error}") from None


def windows(tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of all whole windows."""
    count = (len(tokens) - 1) // length
    inputs, targets = (tokens[i : i + count * length].reshape(count, length) for i in (0, 1))
    return inputs, targets
