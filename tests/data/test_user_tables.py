"""Tables and arrays: names of columns, numbers that no feature holds, classes without example."""

import errno

import numpy as np
import pandas as pd
import pytest

from jaxsharp import data
from tests.datafiles import error_of

X, Y = np.random.default_rng(0).normal(size=(8, 2)), np.arange(8) % 2
TABLE = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "label": Y})


def test_no_example_is_taken_for_names(tmp_path):
    for rows in (np.c_[X, Y], np.c_[10 + np.arange(8), Y]):
        np.savetxt(tmp_path / "mine.csv", rows, delimiter=",")
        found = error_of(data.load, str(tmp_path / "mine.csv"), holdout=2)
        assert "begins with the numbers [" in found and "the first row must name the colum" in found


def test_numbers_that_pandas_writes_are_names(tmp_path):
    pd.DataFrame(np.c_[X, Y]).astype({2: int}).to_csv(tmp_path / "mine.csv", index=False)
    found = data.load(str(tmp_path / "mine.csv"), holdout=2)
    np.testing.assert_array_equal(found.train.images, X[:6].astype(np.float32))
    np.testing.assert_array_equal(np.r_[found.train.labels, found.test.labels], Y)


@pytest.mark.parametrize("name", ["target", "label", "labels", "y"])
def test_targets_are_in_the_column_that_is_called_so(tmp_path, name):
    table = TABLE.rename(columns={"label": name})[["a", name, "b"]]
    table.to_csv(tmp_path / "mine.csv", index=False)
    found = data.load(str(tmp_path / "mine.csv"), holdout=2)
    assert found.num_classes == 2
    np.testing.assert_array_equal(found.train.labels, Y[:6])
    np.testing.assert_array_equal(found.train.images, X[:6].astype(np.float32))


CSV = {
    "column 0 (from 0) has no name in the first row": TABLE.to_csv(),
    "column 1 (from 0) has no name": "a,,label\n1,2,0\n2,2,1\n3,1,0\n",
    "has two columns that are called 'label'": "label,a,label\n0,1,0\n1,2,1\n0,3,0\n",
    "has two columns that are called 'a'": "a,a,label\n0,1,0\n1,2,1\n0,3,0\n",
    "Expected 2 fields in line 2, saw 3": "a,label\n1,0,1\n2,1,0\n3,0,1\n",
    "column 'a' has whole numbers beyond 2^53": f"a,label\n{2**53 + 1},0\n{2**53 + 2},1\n1,0\n",
    "column 'b' has whole numbers beyond 2^53": f"b,label\n{-(2**60)},0\n1,1\n1,0\n",
}


@pytest.mark.parametrize("message", CSV)
def test_tables_that_cannot_be_meant_are_refused(tmp_path, message):
    (tmp_path / "mine.csv").write_text(CSV[message])
    assert message in error_of(data.load, str(tmp_path / "mine.csv"), holdout=1)


@pytest.mark.parametrize("kind", ["Int64", "Float64", "boolean"])
def test_values_that_are_absent_are_counted(tmp_path, kind):
    for absent, count in (([1, None] * 4, 4), ([None] * 8, 8)):
        table = TABLE.assign(a=pd.array(absent, dtype=kind))
        table.to_parquet(tmp_path / "mine.parquet")
        found = error_of(data.load, str(tmp_path / "mine.parquet"), holdout=2)
        assert "examples with NaN or infinite values" in found and f"have {count} " in found


@pytest.mark.parametrize("kind", ["npz", "folder", "batches"])
def test_classes_without_an_example_are_counted_where_the_number_is_stored(tmp_path, kind):
    place = tmp_path / ("mine.npz" if kind == "npz" else "mine")
    arrays = {"x_train": X.astype(np.float32), "y_train": 2 * Y}
    stored = {**arrays, "num_classes": np.int64(5)}
    if kind == "npz":
        np.savez(place, **stored)
    elif kind == "folder":
        place.mkdir()
        for name, array in stored.items():
            np.save(place / f"{name}.npy", array)
    else:
        batches = [(X[:5], 2 * Y[:5]), (X[5:], 2 * Y[5:])]
        assert data.from_batches(batches, out=place, holdout=2, num_classes=5).num_classes == 5
    assert data.load(str(place), holdout=2).num_classes == 5


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (np.float64(5), "num_classes is float64 of shape ()"),
        (np.array([5]), "num_classes is int64 of shape (1,)"),
        ("five", "num_classes is <U4 of shape ()"),
        (np.int64(2), "the classes are 0 to 1"),
    ],
)
def test_a_number_of_classes_that_is_none_is_refused(tmp_path, number, said):
    np.savez(tmp_path / "mine.npz", x_train=X, y_train=2 * Y, num_classes=number)
    assert said in error_of(data.load, str(tmp_path / "mine.npz"), holdout=2)


def test_no_room_for_the_number_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    given = {"out": tmp_path / "mine", "holdout": 2, "num_classes": 5}
    found = error_of(data.from_batches, [(X, 2 * Y)], **given)
    assert found == "num_classes.npy cannot be written: No space left on device"
    assert not list(tmp_path.iterdir())
