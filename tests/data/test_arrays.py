"""The user's own arrays and files: kept as they are meant, or refused in one line."""

import jax
import numpy as np
import pandas as pd
import pytest

from jaxsharp import data
from jaxsharp.data import DataError, arrays

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 3)), np.arange(20) % 3
TEST = X[:4], Y[:4]


def test_arrays_are_kept_in_the_types_that_networks_take():
    made = data.from_arrays((X, Y), TEST, name="mine")
    assert (made.name, made.num_classes, made.num_outputs) == ("mine", 3, 3)
    np.testing.assert_array_equal(made.train.images, X.astype(np.float32))
    assert made.train.images.dtype == np.float32 and made.train.labels.dtype == np.int32
    pixels = RNG.integers(0, 256, (20, 4, 4, 1), dtype=np.uint8)
    assert data.from_arrays((pixels, Y), holdout=5).train.images.dtype == np.uint8
    tokens = RNG.integers(0, 9, (20, 6))
    made = data.from_arrays((tokens, tokens), holdout=5, num_classes=9)
    assert made.train.images.dtype == made.train.labels.dtype == np.int32
    numbers = data.from_arrays((X, X[:, :2]), holdout=5)
    assert (numbers.num_classes, numbers.num_outputs) == (0, 2)
    assert data.from_arrays((X, X[:, 0]), holdout=5).num_outputs == 1
    assert data.from_arrays((X, Y > 1), holdout=5).num_classes == 2


def test_the_last_examples_test_where_there_is_no_test_part():
    made = data.from_arrays((X, Y), holdout=6, train_size=9)
    np.testing.assert_array_equal(made.test.labels, Y[14:])
    np.testing.assert_array_equal(np.bincount(made.train.labels), [3, 3, 3])
    first = data.from_arrays((X, X), holdout=6, train_size=9)
    np.testing.assert_array_equal(first.train.images, X[:9].astype(np.float32))


def at(index, value, array=X):
    found = array.astype(type(value) if array.dtype.kind == "i" else array.dtype)
    found[index] = value
    return found


WRONG = {
    "inputs have 2 examples with NaN or infinite values, the first at index 4": (
        (at(4, np.nan, at(7, np.inf)), Y),
        TEST,
    ),
    "20 inputs and 19 targets": ((X, Y[:19]), TEST),
    "train targets hold [-1]; the classes are 0 to 2": ((X, at(3, -1, Y)), TEST),
    "test targets hold [3]; the classes are 0 to 2": ((X, Y), (X[:4], np.array([0, 1, 2, 3]))),
    "no training example has class 0": ((X, Y + 1), TEST),
    "no training example has class 1, the largest is 2": ((X, np.where(Y == 1, 0, Y)), TEST),
    "there is 1 class": ((X, 0 * Y), (X[:4], 0 * Y[:4])),
    "inputs are of type <U1": ((np.full((20, 3), "a"), Y), TEST),
    "inputs are of type object": ((np.array([None] * 20), Y), TEST),
    "inputs are of type complex128": ((X + 1j, Y), TEST),
    "train targets are integers of shape (20, 1)": ((X, Y[:, None]), TEST),
    "train inputs are float32 of shape (n, 3), test inputs float32 of shape (n, 2)": (
        (X, Y),
        (X[:4, :2], Y[:4]),
    ),
    "train targets are int32 of shape (n,), test targets float32": ((X, Y), (X[:4], X[:4, 0])),
    "there is no test part": ((X, Y), None),
    "train is of type ndarray": (X, TEST),
    "train is of type dict": ({"x": X, "y": Y}, TEST),
    "inputs have shape (0, 3)": ((X[:0], Y[:0]), TEST),
    "inputs have shape ()": ((1.0, Y), TEST),
    "values beyond float32": ((X * 1e300, Y), TEST),
    "train inputs at [0] are from 1700000000.0 to 1700000019.0, of which float32 keeps hardly": (
        (1.7e9 + np.arange(20.0)[:, None] * [1, 1e6, 1e7], Y),
        TEST,
    ),
    "train inputs at [1][0] are from 1e-50 to 2e-49": (
        (np.arange(1, 21.0)[:, None, None] * np.array([[1.0, 3], [1e-50, 1]]), Y),
        (np.ones((4, 2, 2)), Y[:4]),
    ),
    "train targets are from 1000000000.0 to 1000000000.19, of which": (
        (X, 1e9 + np.arange(20) / 100),
        (X[:4], X[:4, 0]),
    ),
    "test inputs have 2 masked values; all must be there": (
        (X, Y),
        (np.ma.masked_array(X[:4], np.arange(12).reshape(4, 3) < 2), Y[:4]),
    ),
    "integers from -3000000000": ((np.full((20, 3), -3_000_000_000), Y), TEST),
    "inputs cannot be an array": (([[1, 2], [3]] * 10, Y), TEST),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arrays_are_refused_in_one_line(message):
    train, test = WRONG[message]
    with pytest.raises(DataError) as refused:
        data.from_arrays(train, test)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "column",
    [
        np.full(20, 1.7e9),
        1.7e9 * (1 + 1e-16 * np.arange(20)),
        (1.7e9 + 200 * np.arange(20)).astype(np.float32).astype(np.float64),
        1.7e9 + 1e4 * np.arange(20),
        1e9 + 64 * (np.arange(20.0) % 2),
        np.zeros(20),
    ],
)
def test_what_float32_tells_apart_or_nobody_does_is_kept(column):
    made = data.from_arrays((np.stack([column, X[:, 0]], 1), Y), (X[:4, :2], Y[:4]))
    np.testing.assert_array_equal(made.train.images[:, 0], column.astype(np.float32))
    plain = np.ma.masked_array(X, False)
    np.testing.assert_array_equal(
        data.from_arrays((plain, Y), TEST).train.images, X.astype(np.float32)
    )


@pytest.mark.parametrize("size", [1, 6, 20])
def test_digits_of_batches_are_those_of_all_examples(tmp_path, size):
    """Of one example a batch no two differ, and of few that are sorted they hardly do."""

    def made(column, out):
        inputs = np.stack([np.arange(20.0), column], 1)
        batches = [(inputs[i : i + size], Y[i : i + size]) for i in range(0, 20, size)]
        return data.from_batches(batches, out=tmp_path / out, holdout=4)

    times = 1.7e9 + np.arange(20.0)
    line = r"train inputs at \[1\] are from 1700000000.0 to 1700000019.0, of which float32 keeps"
    with pytest.raises(DataError, match=line):
        made(times, "lost")
    assert not (tmp_path / "lost").exists()
    with pytest.raises(DataError, match=r"train targets are from 1700000000\.0 to"):
        loader = ((X[i : i + size], times[i : i + size]) for i in range(0, 20, size))
        data.from_batches(loader, out=tmp_path / "lost", holdout=4)
    kept = made(1e7 * np.arange(1000, 1020.0) + 1, "kept")
    assert len(np.unique(kept.train.images[:, 1])) == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"holdout": 20}, "holdout is 20; it must be from 1 to less than 20"),
        ({"holdout": -1}, "holdout is -1"),
        ({"holdout": 5, "train_size": 16}, "train_size is 16"),
        ({"holdout": 5, "name": "a/b"}, "name is 'a/b'"),
        ({"holdout": 5, "num_classes": 2}, "train targets hold [2]"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError) as refused:
        data.from_arrays((X, Y), **arguments)
    assert message in str(refused.value)


def test_files_hold_the_same_arrays(tmp_path):
    np.savez(tmp_path / "my data.npz", x_train=X, y_train=Y, x_test=X[:4], y_test=Y[:4])
    made = data.load(str(tmp_path / "my data.npz"))
    assert made.name == "my-data" and made.source.endswith("my data.npz")
    np.testing.assert_array_equal(made.test.labels, Y[:4])
    assert len(data.load(str(tmp_path / "my data.npz"), holdout=3).test.labels) == 3
    table = pd.DataFrame(X, columns=["a", "b", "c"])
    table.insert(1, "target", Y)
    table.to_csv(tmp_path / "table.csv", index=False)
    table.to_parquet(tmp_path / "table.parquet")
    for file in ("table.csv", "table.parquet"):
        made = data.load(str(tmp_path / file), holdout=6)
        np.testing.assert_allclose(made.train.images, X[:14], rtol=1e-6)
        np.testing.assert_array_equal(made.test.labels, Y[14:])
    table.drop(columns="target").to_csv(tmp_path / "numbers.csv", index=False)
    made = data.load(str(tmp_path / "numbers.csv"), holdout=6)
    np.testing.assert_allclose(made.train.labels, X[:14, 2], rtol=1e-6)


def test_wrong_files_are_refused_in_one_line_with_their_name(tmp_path):
    np.savez(tmp_path / "names.npz", x=X, y=Y)
    np.savez(tmp_path / "half.npz", x_train=X, y_train=Y, x_test=X)
    np.savez(tmp_path / "objects.npz", x_train=np.array([None, 1]), y_train=Y[:2])
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "words.csv").write_text("a,b\n1,cat\n2,dog\n")
    (tmp_path / "one.csv").write_text("a\n1\n2\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "bad.parquet").write_text("no table")
    for name, message in {
        "names.npz": "has no array x_train; it has ['x', 'y']",
        "half.npz": "has no array y_test",
        "objects.npz": "without pickles",
        "text.npz": "without pickles",
        "words.csv": "column 'b' is of type",
        "one.csv": "has 1 columns",
        "empty.csv": "is no table",
        "bad.parquet": "is no table",
        "absent.npz": "is no file",
    }.items():
        with pytest.raises(DataError) as refused:
            data.load(str(tmp_path / name), holdout=1)
        text = str(refused.value)
        assert message in text and str(tmp_path / name) in text and "\n" not in text
    table = pd.DataFrame({"a": [1.0, 2.0], "y": [0, 1]})
    table.to_csv(tmp_path / "whole.csv", index=False)
    with pytest.raises(DataError, match=r"whole\.csv: there is no test part.*--holdout"):
        data.load(str(tmp_path / "whole.csv"))


def mapped(folder, **changes):
    """A folder of .npy files, some of them other arrays or texts, or absent (None)."""
    folder.mkdir()
    usual = {"x_train": X.astype(np.float32), "y_train": Y, "x_test": X[:4].astype(np.float32)}
    for name, each in {**usual, "y_test": Y[:4], **changes}.items():
        if isinstance(each, bytes):
            (folder / f"{name}.npy").write_bytes(each)
        elif each is not None:
            np.save(folder / f"{name}.npy", each)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int32"])
def test_inputs_of_a_folder_of_arrays_stay_in_their_files(tmp_path, monkeypatch, dtype):
    inputs = RNG.integers(0, 9, (20, 6)).astype(dtype)
    folder = mapped(tmp_path / "my arrays 1.0", x_train=inputs, x_test=inputs[:4])
    monkeypatch.setattr(arrays, "BLOCK", 100)
    made = data.load(str(folder))
    assert (made.name, made.source, made.num_classes) == ("my-arrays-1.0", str(folder), 3)
    for split, count in ((made.train, 20), (made.test, 4)):
        np.testing.assert_array_equal(split.images, inputs[:count])
        assert split.images.dtype == dtype and isinstance(split.images.base, np.memmap)
        assert not split.images.flags.writeable
    # On the CPU a device sees the file itself, so that nothing is held twice.
    placed = jax.device_put(made.train.images, jax.devices("cpu")[0])
    assert placed.unsafe_buffer_pointer() == made.train.images.ctypes.data
    held = data.load(str(folder), holdout=5)
    np.testing.assert_array_equal(held.test.images, inputs[15:])


def test_arrays_at_hand_are_copied_and_mapped_ones_are_not(tmp_path):
    inputs = X.astype(np.float32)
    made = data.from_arrays((inputs, Y), holdout=5)
    assert not np.shares_memory(made.train.images, inputs)
    given = np.load(mapped(tmp_path / "a") / "x_train.npy", mmap_mode="r")
    made = data.from_arrays((given, Y), holdout=5)
    assert np.shares_memory(made.train.images, given)


def test_faults_are_found_in_every_block(monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", 50)
    for place in range(0, 19, 3):
        message = f"2 examples with NaN or infinite values, the first at index {place};"
        with pytest.raises(DataError, match=message):
            data.from_arrays((at(place, np.nan, at(19, np.inf)), Y), TEST)


FOLDERS = {
    "has no array x_train; it has ['x_test', 'y_test', 'y_train']": {"x_train": None},
    "has no array y_test": {"y_test": None},
    "x_train.npy is float64; inputs that stay in the file must be float32, uint8, int32": {
        "x_train": X
    },
    "x_test.npy is >f4; inputs": {"x_test": X[:4].astype(">f4")},
    "x_train.npy is float32 in Fortran's order": {"x_train": np.asfortranarray(X, np.float32)},
    "x_train.npy cannot be mapped as an array without pickles": {"x_train": np.array([None] * 20)},
    "y_train.npy cannot be mapped as an array without pickles": {"y_train": b"no array"},
    "x_test.npy cannot be mapped": {"x_test": b""},
    "train inputs have 1 example with NaN or infinite values, the first at index 7": {
        "x_train": at(7, np.nan).astype(np.float32)
    },
    "20 inputs and 19 targets": {"y_train": Y[:19]},
    "train targets hold [-1]": {"y_train": at(3, -1, Y)},
}


@pytest.mark.parametrize("message", FOLDERS)
def test_wrong_folders_of_arrays_are_refused_in_one_line(tmp_path, message):
    folder = mapped(tmp_path / "a", **FOLDERS[message])
    with pytest.raises(DataError) as refused:
        data.load(str(folder))
    text = str(refused.value)
    assert text.startswith(f"{folder}: ") and message in text and "\n" not in text


def test_a_mapped_file_that_is_cut_short_is_refused(tmp_path):
    folder = mapped(tmp_path / "a")
    content = (folder / "x_train.npy").read_bytes()
    (folder / "x_train.npy").write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"x_train\.npy cannot be mapped"):
        data.load(str(folder))
