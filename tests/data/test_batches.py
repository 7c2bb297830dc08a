"""Batches of loaders: what is written is what they hold, whole or not at all, a batch at a time."""

import os
import resource
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp import data
from jaxsharp.data import DataError, arrays

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 3)), np.arange(20) % 3
SIZES = (7, 7, 4, 2)
ENDS = np.cumsum(SIZES)


def cut(*found):
    """Batches of several lengths, as a list."""
    parts = [np.split(each, ENDS[:-1]) for each in found]
    return list(zip(*parts, strict=True))


class Loader:
    """Batches that are made while they are taken, as loaders do; a pass after another."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        yield from self.batches


def same(one, other):
    for part in ("train", "test"):
        for a, b in zip(getattr(one, part), getattr(other, part), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    assert one._replace(train=None, test=None) == other._replace(train=None, test=None)


@pytest.mark.parametrize("form", [list, Loader, iter, lambda batches: lambda: iter(batches)])
def test_a_folder_of_batches_is_that_of_the_whole_arrays(tmp_path, form):
    out = tmp_path / "new" / "my batches"
    made = data.from_batches(form(cut(X, Y)), form([(X[:4], Y[:4])]), out=out)
    whole = data.from_arrays((X, Y), (X[:4], Y[:4]), name="my-batches", source=str(out))
    same(made, whole)
    same(made, data.load(str(out)))
    assert sorted(os.listdir(out)) == ["x_test.npy", "x_train.npy", "y_test.npy", "y_train.npy"]
    assert os.listdir(out.parent) == ["my batches"]
    assert out.stat().st_mode == out.parent.stat().st_mode
    assert isinstance(made.train.images.base, np.memmap)
    np.testing.assert_array_equal(np.load(out / "x_train.npy"), X.astype(np.float32))


@pytest.mark.parametrize(
    ("inputs", "targets", "dtypes"),
    [
        (RNG.integers(0, 256, (20, 4, 4, 1), np.uint8), Y.astype(np.uint8), (np.uint8, np.int32)),
        (RNG.integers(0, 9, (20, 6)), RNG.integers(0, 9, (20, 6)), (np.int32, np.int32)),
        (X.astype(np.float16), X[:, :2], (np.float32, np.float32)),
        (X > 0, Y > 1, (np.float32, np.int32)),
        (jnp.asarray(X, jnp.bfloat16), jnp.asarray(Y), (np.float32, np.int32)),
    ],
)
def test_arrays_of_every_kind_are_kept_as_from_arrays_has_them(tmp_path, inputs, targets, dtypes):
    out = tmp_path / "a"
    made = data.from_batches(cut(inputs, targets), out=out, holdout=5)
    assert (made.train.images.dtype, made.train.labels.dtype) == dtypes
    same(made, data.from_arrays((inputs, targets), name="a", source=str(out), holdout=5))


def test_columns_are_those_of_the_first_batch_whatever_their_order(tmp_path):
    batches = [{"b": x[:, 1], "label": y, "a": x[:, 0]} for x, y in cut(X, Y)]
    batches[2] = dict(sorted(batches[2].items()))
    made = data.from_batches(batches, out=tmp_path / "a", holdout=5)
    np.testing.assert_array_equal(made.train.images, X[:15, 1::-1].astype(np.float32))
    np.testing.assert_array_equal(made.train.labels, Y[:15])
    batches = [{"image": x, "deep": y, "label": y} for x, y in cut(X, X[:, 0])]
    batches = [{"image": each["image"], "deep": each["deep"]} for each in batches]
    made = data.from_batches(batches, out=tmp_path / "b", holdout=5, targets="deep")
    np.testing.assert_array_equal(made.test.labels, X[15:, 0].astype(np.float32))


class Tensor:
    """A tensor as PyTorch has it: of a device, with a gradient, of a type that NumPy has not."""

    def __init__(self, values, attached=True, device="cuda", dtype="torch.float32"):
        self.values, self.attached, self.device, self.dtype = values, attached, device, dtype

    def detach(self):
        return Tensor(self.values, False, self.device, self.dtype)

    def cpu(self):
        return Tensor(self.values, self.attached, "cpu", self.dtype)

    def float(self):
        return Tensor(self.values, self.attached, self.device)

    def __array__(self, dtype=None, copy=None):
        if self.attached or self.device != "cpu" or "bfloat16" in self.dtype:
            raise TypeError("can't convert the tensor to numpy")
        return np.asarray(self.values, dtype)


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.bfloat16"])
def test_tensors_of_pytorch_are_arrays(tmp_path, dtype):
    batches = [[Tensor(x, dtype=dtype), Tensor(y)] for x, y in cut(X, Y)]
    with pytest.raises(TypeError):
        np.asarray(batches[0][0])
    made = data.from_batches(batches, out=tmp_path / "a", holdout=5)
    np.testing.assert_array_equal(made.train.images, X[:15].astype(np.float32))
    columns = [{"x": Tensor(x[:, 0]), "z": Tensor(x[:, 1]), "y": Tensor(y)} for x, y in cut(X, Y)]
    made = data.from_batches(columns, out=tmp_path / "b", holdout=5)
    np.testing.assert_array_equal(made.train.images, X[:15, :2].astype(np.float32))


def test_no_more_than_some_copies_of_a_batch_are_in_memory(tmp_path, monkeypatch):
    """Of 32 MB; targets of tokens are as large as the inputs."""
    size, count, block = 2**18, 64, 2**19
    monkeypatch.setattr(arrays, "BLOCK", block)

    def passes():
        for index in range(count):
            found = np.full((8, size // 64), index, np.int64)
            yield found, found % 3

    tracemalloc.start()
    try:
        made = data.from_batches(passes, out=tmp_path / "a", holdout=8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    whole = sum((tmp_path / "a" / f"{each}_train.npy").stat().st_size for each in "xy")
    assert whole > 2**24 and len(made.test.labels) == 8
    assert peak < 10 * size + 2 * block < whole / 4


def fails(error):
    yield from cut(X, Y)[:2]
    raise error


@pytest.mark.parametrize("error", [OSError(2, "No such file", "a.png"), KeyboardInterrupt()])
def test_an_error_of_the_loader_is_its_own_and_nothing_is_left(tmp_path, error):
    with pytest.raises(type(error)) as raised:
        data.from_batches(fails(error), out=tmp_path / "a", holdout=5)
    assert raised.value is error and not os.listdir(tmp_path)


def test_a_full_disk_is_one_line_and_nothing_is_left(tmp_path):
    """A limit of the size of files stands for it."""
    batches = [(np.zeros((8, 2000)), np.arange(8) % 2)] * 9
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, limits[1]))
    try:
        with pytest.raises(DataError) as refused:
            data.from_batches(batches, out=tmp_path / "a", holdout=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(refused.value) == "x_train.npy cannot be written: File too large (after 32 examples)"
    assert not os.listdir(tmp_path)


def test_what_is_there_is_left_alone(tmp_path):
    data.from_batches(cut(X, Y), out=tmp_path / "a", holdout=5)
    (tmp_path / "b").write_text("a file")
    (tmp_path / "c").mkdir()
    before = (tmp_path / "a" / "x_train.npy").stat()
    for name, message in {
        "a": "a is there already; choose another folder (out), or load it",
        "b": "b is there already",
        "b/c": "c cannot be made: ",
    }.items():
        with pytest.raises(DataError) as refused:
            data.from_batches(cut(X[::-1], Y), out=tmp_path / name, holdout=5)
        assert message in str(refused.value) and "\n" not in str(refused.value)
    assert (tmp_path / "a" / "x_train.npy").stat() == before
    assert (tmp_path / "b").read_text() == "a file"
    data.from_batches(cut(X, Y), out=tmp_path / "c", holdout=5)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def but(index, batch, batches=None):
    """Batches of which one is another."""
    found = list(batches or cut(X, Y))
    found[index] = batch
    return found


def at(index, value, array=X):
    found = array.copy()
    found[index] = value
    return found


COLUMNS = [{"x": x, "label": y} for x, y in cut(X, Y)]
PAIRS = [{"a": x[:, 0], "b": x[:, 1], "label": y} for x, y in cut(X, Y)]
WRONG = {
    "train batch 2 inputs have 2 examples with NaN or infinite values, the first at index 1": (
        cut(at(15, np.nan, at(16, np.inf)), Y)
    ),
    "train batch 1 has 7 inputs and 6 targets; one for each": but(1, (X[:7], Y[:6])),
    "train batch 3 targets hold [-1]; the classes are counted from 0": cut(X, at(19, -1, Y)),
    "inputs are float32 of shape (n, 3), train batch 1 inputs float32 of shape (n, 2); both": (
        but(1, (X[:7, :2], Y[:7]))
    ),
    "train batch 1 inputs int32 of shape (n, 3); both must be alike": but(
        1, (X[:7].astype(int), Y[:7])
    ),
    "train batch 3 targets float32 of shape (n,)": but(3, (X[:2], X[:2, 0])),
    "train batch 1 inputs have shape (0, 3); there must be at least one example": but(
        1, (X[:0], Y[:0])
    ),
    "train batch 0 is of type ndarray; it must be (inputs, targets)": (X, Y),
    "train batch 1 is of type tuple; it must be (inputs, targets)": but(1, (X, Y, Y)),
    "train batch 0 targets have shape ()": list(zip(X, Y, strict=True)),
    "train batch 1 inputs are of type <U1": but(1, (np.full((7, 3), "a"), Y[:7])),
    "train batch 1 inputs cannot be an array": but(1, ([[1, 2], [3]], Y[:2])),
    "no training example has class 1, the largest is 2": cut(X, np.where(Y == 1, 0, Y)),
    "there is 1 class": cut(X, 0 * Y),
    "train gives no batch; a pass over it must give at least one": [],
    "train is of type ndarray; it must be an iterable of batches, or a function": X,
    "train is of type dict; it must be an iterable of batches": {"x": X, "y": Y},
    "train is of type str; it must be": "mine.npz",
    "train is of type int; it must be": 3,
    "train returns NoneType; it must be an iterable": lambda: None,
    "train batch 1 has the columns ['x', 'y'], train batch 0 ['x', 'label']; all must be": but(
        1, {"x": X[:7], "y": Y[:7]}, COLUMNS
    ),
    "train batch 0: the column of the targets is not clear among ['x', 'z']": [{"x": X, "z": Y}],
    "train batch 0: there are 2 columns of inputs, and 'x' holds float64 of shape (20, 3)": [
        {"x": X, "z": Y, "y": Y}
    ],
    "train batch 1 has 'b' of shape (6,), 'a' of (7,); one for each example": but(
        1, {"a": X[:7, 0], "b": X[:6, 0], "label": Y[:7]}, PAIRS
    ),
    "train batch 1 'b' cannot be an array": but(
        1, {"a": X[:7, 0], "b": [[1, 2], [3]], "label": Y[:7]}, PAIRS
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_batches_are_refused_in_one_line_and_nothing_is_left(tmp_path, message):
    with pytest.raises(DataError) as refused:
        data.from_batches(WRONG[message], out=tmp_path / "a", holdout=5)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not os.listdir(tmp_path)


def endless():
    """A loader that repeats: what can be seen early must be."""
    while True:
        yield X, Y


@pytest.mark.parametrize(
    ("train", "asked", "message"),
    [
        (endless(), {}, "holdout is 0 without a test part; give test, or at least 1"),
        (endless(), {"holdout": -1}, "holdout is -1 without a test part"),
        (endless(), {"holdout": 5, "test": [(X, Y)]}, "holdout is 5 beside a test part"),
        (endless(), {"test": 3}, "test is of type int; it must be an iterable of batches"),
        (endless(), {"num_classes": 2, "holdout": 5}, "train batch 0 targets hold [2]; the"),
        (endless(), {"num_classes": 1, "holdout": 5}, "there is 1 class"),
        ([(X, X)], {"num_classes": 2, "holdout": 5}, "num_classes is 2, and the targets are real"),
        (cut(X, Y), {"holdout": 20}, "holdout is 20; it must be from 1 to less than 20"),
        (COLUMNS, {"targets": "z", "holdout": 5}, "train batch 0: there is no column 'z'"),
        (cut(X, Y), {"test": []}, "test gives no batch"),
        (
            cut(X, Y),
            {"test": [(X[:, :2], Y)]},
            "train batch 0 inputs are float32 of shape (n, 3), test batch 0 inputs float32 of "
            "shape (n, 2); both must be alike",
        ),
        (cut(X, Y), {"test": [(X, Y + 1)]}, "test targets hold [3]; the classes are 0 to 2"),
        (cut(X, Y), {"test": [(X, Y - 1)]}, "test batch 0 targets hold [-1]; the classes are"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line_and_nothing_is_left(
    tmp_path, train, asked, message
):
    with pytest.raises(DataError) as refused:
        data.from_batches(train, out=tmp_path / "a", **asked)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not os.listdir(tmp_path)


def test_classes_that_no_batch_has_are_counted_if_they_are_said(tmp_path):
    made = data.from_batches(cut(X, 2 * Y), out=tmp_path / "a", holdout=5, num_classes=7)
    assert made.num_classes == 7
