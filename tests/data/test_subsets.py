"""Parts of a data set: held-out training examples, and subsets in the shares of the classes."""

import numpy as np
import pytest

from jaxsharp.data import Split, load, stratified
from tests import datafiles
from tests.datafiles import error_of, write_cifar, write_idx

nothing_installed = datafiles.nothing_installed  # the fixture, used by every test here


def test_holdout_is_the_end_of_the_training_set(tmp_path):
    images, labels, *_ = write_idx(tmp_path, train=50)
    held_out = load("mnist", data_dir=tmp_path, holdout=13)
    np.testing.assert_array_equal(held_out.train.images[..., 0], images[:37])
    np.testing.assert_array_equal(held_out.test.images[..., 0], images[37:])
    np.testing.assert_array_equal(held_out.train.labels, labels[:37])
    np.testing.assert_array_equal(held_out.test.labels, labels[37:])
    both = load("mnist", data_dir=tmp_path, holdout=13, train_size=10)
    np.testing.assert_array_equal(both.train.images[..., 0], images[:10])
    np.testing.assert_array_equal(both.test.images[..., 0], images[37:])


def test_holdout_of_the_embedded_digits():
    whole, held_out = load("digits"), load("digits", holdout=100)
    np.testing.assert_array_equal(held_out.test.images, whole.train.images[-100:])
    assert len(held_out.train.labels) == 1337


def test_absent_test_file_needs_a_holdout(tmp_path):
    write_cifar(tmp_path, with_test=False)
    message = error_of(load, "cifar10", data_dir=tmp_path)
    assert message == (
        f"cifar10: the test file test_batch.bin is missing in {tmp_path}; add it, or evaluate "
        "on the last N training examples with --holdout N (holdout=N)"
    )
    held_out = load("cifar10", data_dir=tmp_path, holdout=3)
    assert len(held_out.train.labels) == 17
    np.testing.assert_array_equal(held_out.test.images[:, 0, 0, 1], [41, 42, 43])


def test_impossible_holdouts():
    assert error_of(load, "digits", holdout=-1) == (
        "holdout is -1; it must be 0 or a number of training examples"
    )
    assert error_of(load, "digits", holdout=1437) == (
        "holdout is 1437; it must be less than 1437 (the number of training examples of digits)"
    )
    assert len(load("digits", holdout=1436).train.labels) == 1


def numbered(labels) -> Split:
    """A split whose images hold their own position."""
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Split(images, np.array(labels, np.int32))


@pytest.mark.parametrize(
    ("labels", "train_size", "kept"),
    [
        # Shares 3.5, 2.1, 1.4: the one left over goes to the largest remainder.
        ([2, 0, 1, 0, 0, 1, 0, 2, 1, 0], 7, [0, 1, 2, 3, 4, 5, 6]),
        # Shares 1.5, 0.9, 0.6: rounded up where the remainders are largest.
        ([0, 0, 0, 0, 0, 1, 1, 1, 2, 2], 3, [0, 5, 8]),
        # Shares 4/3 each: a tie goes to the lowest class.
        ([2, 2, 2, 1, 1, 1, 0, 0, 0], 4, [0, 3, 6, 7]),
        ([2, 2, 2, 1, 1, 1, 0, 0, 0], 9, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_stratified_keeps_the_first_of_each_class_in_order(labels, train_size, kept):
    subset = stratified(numbered(labels), train_size, num_classes=3)
    assert subset.images.ravel().tolist() == kept
    assert subset.labels.tolist() == [labels[i] for i in kept]
    assert subset.labels.dtype == np.int32


def test_stratified_counts_are_within_one_of_the_shares():
    whole = load("digits").train
    counts = np.bincount(whole.labels)
    for train_size in range(10, 1438, 97):
        subset = load("digits", train_size=train_size).train
        shares = train_size * counts / len(whole.labels)
        assert len(subset.labels) == train_size
        assert (np.abs(np.bincount(subset.labels) - shares) < 1).all()


@pytest.mark.parametrize("train_size", [-1, 0, 9, 1438])
def test_impossible_train_sizes(train_size):
    assert error_of(load, "digits", train_size=train_size) == (
        f"train_size is {train_size}; it must be from 10 (the number of classes) "
        "to 1437 (the number of training examples)"
    )
