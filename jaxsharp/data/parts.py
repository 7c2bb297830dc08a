"""A data set, parts of it, and its labels drawn anew."""

import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, ScalarLike

from jaxsharp.data.readers import DataError, Split


class Dataset(NamedTuple):
    """Training and test examples, and what a network needs to know of them.

    `num_classes` is 0 where targets are numbers; `max_pixel` is the largest value that a pixel of
    uint8 can have; `source` says where the data was read.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    max_pixel: int
    source: str

    @property
    def num_outputs(self) -> int:
        """Outputs that a network has for an example: one a class, or a number."""
        return self.num_classes or int(np.prod(self.train.labels.shape[1:]))


def divided(split: Split, cut: int) -> tuple[Split, Split]:
    """The first `cut` examples, and the others."""
    images, labels = split
    return Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:])


def subset(split: Split, train_size: int, num_classes: int) -> Split:
    """The part of a split that `train_size` keeps: `stratified`, or the first where there are no
    classes of examples."""
    if num_classes and split.labels.ndim == 1:
        return stratified(split, train_size, num_classes)
    if not 1 <= train_size <= len(split.labels):
        raise DataError(
            f"train_size is {train_size}; it must be from 1 to {len(split.labels)} (the number of "
            "training examples)"
        )
    return divided(split, train_size)[0]


def stratified(split: Split, train_size: int, num_classes: int) -> Split:
    """The first examples of each class, `train_size` in all, in their original order.

    Each class gets its share of `train_size` rounded by largest remainder (ties go to the lower
    class), so the class frequencies of the split are kept to within one example. Deterministic.
    """
    total = len(split.labels)
    if not num_classes <= train_size <= total:
        raise DataError(
            f"train_size is {train_size}; it must be from {num_classes} (the number of classes) "
            f"to {total} (the number of training examples)"
        )
    counts = np.bincount(split.labels, minlength=num_classes)
    quotas, remainders = np.divmod(train_size * counts, total)
    by_remainder = np.argsort(-remainders, kind="stable")
    quotas[by_remainder[: train_size - quotas.sum()]] += 1
    chosen = [np.flatnonzero(split.labels == c)[: quotas[c]] for c in range(num_classes)]
    order = np.sort(np.concatenate(chosen))
    return Split(split.images[order], split.labels[order])


def redraw_labels(
    key: PRNGKeyArray,
    labels: Int[Array | np.ndarray, " n"],
    fraction: ScalarLike,
    num_classes: int,
) -> Int[Array, " n"]:
    """The labels with round(fraction * n) of them, chosen at random, drawn anew.

    A new label is uniform over all classes, so it is the old one with probability 1 / num_classes,
    and about fraction * (1 - 1 / num_classes) of the labels change. With one key the choice is
    nested: a larger fraction redraws the same examples to the same labels, and more. `fraction` may
    be traced; half an example is rounded to even, for a traced fraction in its own precision.

    Raises DataError if a Python number `fraction` is not in [0, 1]; a traced one must be.
    """
    known = isinstance(fraction, numbers.Real)
    if known and not 0 <= fraction <= 1:
        raise DataError(f"fraction is {fraction}; it must be from 0 to 1")
    labels = jnp.asarray(labels)
    (n,) = labels.shape
    choice_key, label_key = jax.random.split(key)
    count = round(fraction * n) if known else jnp.round(fraction * n)
    redrawn = jax.random.permutation(choice_key, n) < count
    drawn = jax.random.randint(label_key, (n,), 0, num_classes, labels.dtype)
    return jnp.where(redrawn, drawn, labels)
