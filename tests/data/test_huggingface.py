"""Data sets of Hugging Face: columns as they are meant, from the cache, a folder or at hand."""

import json
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from jaxsharp import data
from jaxsharp.data import own
from tests import hubs
from tests.datafiles import error_of

RNG = np.random.default_rng(0)


@pytest.fixture(params=["standin", "datasets"])
def datasets(request, monkeypatch):
    """The package itself, where it is installed, and what stands in for it."""
    if request.param == "standin":
        monkeypatch.setitem(sys.modules, "datasets", hubs.standin)
        return hubs.standin
    found = pytest.importorskip("datasets")
    found.disable_progress_bars()
    return found


def pictures(num, *shape):
    return RNG.integers(0, 256, (num, *shape), dtype=np.uint8)


def images(datasets, arrays, **columns):
    """A table of images, and of classes that are called 0 to 2."""
    labels = [i % 2 for i in range(len(arrays))]
    found = {"image": [PIL.Image.fromarray(each) for each in arrays], "label": labels, **columns}
    kinds = {name: datasets.Value("int64") for name in columns}
    kinds |= {"image": datasets.Image(), "label": datasets.ClassLabel(names=["0", "1", "2"])}
    return datasets.Dataset.from_dict(
        {name: found[name] for name in kinds}, features=datasets.Features(kinds)
    )


@pytest.mark.slow
def test_images_and_classes_are_those_of_the_tables(datasets):
    gray, color = pictures(6, 4, 5), pictures(4, 4, 5, 3)
    train, test = images(datasets, gray, id=list(range(6))), images(datasets, color)
    found = data.from_huggingface({"train": train, "test": test, "validation": train})
    assert (found.num_classes, found.train.images.dtype) == (3, np.uint8)
    np.testing.assert_array_equal(found.train.images, np.repeat(gray[..., None], 3, -1))
    np.testing.assert_array_equal(found.test.images, color)
    np.testing.assert_array_equal(found.train.labels, [0, 1, 0, 1, 0, 1])
    alone = data.from_huggingface(train, holdout=2, name="mine", train_size=3)
    assert alone.name == "mine" and alone.train.images.shape == (3, 4, 5, 1)
    np.testing.assert_array_equal(alone.test.images[..., 0], gray[4:])
    checked = data.from_huggingface({"train": train, "validation": test})
    assert len(checked.test.labels) == 4


@pytest.mark.slow
def test_columns_of_numbers_are_features(datasets):
    make = datasets.Dataset.from_dict
    table = make({"a": [1, 2, 3], "y": [0.5, 1.5, 2.5], "b": [0.25, 0.5, 1.0]})
    found = data.from_huggingface(table, holdout=1)
    np.testing.assert_array_equal(found.train.images, [[1, 0.25], [2, 0.5]])
    np.testing.assert_array_equal(found.train.labels, [0.5, 1.5])
    found = data.from_huggingface(table, holdout=1, targets="b", name="other")
    np.testing.assert_array_equal(found.train.images, [[1, 0.5], [2, 1.5]])
    tokens = make({"input_ids": [[1, 2], [3, 4], [5, 6]], "labels": [0, 1, 0]})
    found = data.from_huggingface(tokens, holdout=1)
    assert found.train.images.dtype == np.int32
    np.testing.assert_array_equal(found.train.images, [[1, 2], [3, 4]])


def test_bytes_stay_bytes_and_the_only_classes_are_targets(datasets):
    kinds = {"x": datasets.Value("uint8"), "kind": datasets.ClassLabel(names=["a", "b"])}
    table = datasets.Dataset.from_dict(
        {"x": [1, 2, 255], "kind": [0, 1, 0]}, features=datasets.Features(kinds)
    )
    found = data.from_huggingface(table, holdout=1)
    assert found.train.images.dtype == np.uint8 and found.num_classes == 2
    np.testing.assert_array_equal(found.train.labels, [0, 1])


TABLES = {
    "there is no test part": ({"a": [1.0, 2.0], "y": [0, 1]}, {}),
    "train inputs have 1 example with NaN or infinite values, the first at index 1": (
        {"a": [1.0, None, 2.0], "y": [0, 1, 0]},
        {"holdout": 1},
    ),
    "train inputs have values beyond float32, up to 1e+300": (
        {"a": [1.0, 2.0, 1e300], "y": [0, 1, 0]},
        {"holdout": 1},
    ),
    "train inputs are from 1700000000.0 to 1700000002.0, of which float32 keeps": (
        {"a": [1.7e9, 1.7e9 + 1, 1.7e9 + 2], "y": [0, 1, 0]},
        {"holdout": 1},
    ),
    "train inputs at [1] are from 1700000000.0 to 1700000002.0": (
        {"b": [0.5] * 3, "a": [1.7e9, 1.7e9 + 1, 1.7e9 + 2], "y": [0, 1, 0]},
        {"holdout": 1},
    ),
    "train targets are from 1700000000.0 to 1700000002.0": (
        {"a": [1, 2, 3], "y": [1.7e9, 1.7e9 + 1, 1.7e9 + 2]},
        {"holdout": 1},
    ),
    "train targets have 1 example with NaN": ({"a": [1.0, 2.0], "y": [0, None]}, {"holdout": 1}),
    "train targets hold [-1]": ({"a": [1.0] * 4, "y": [0, -1, 1, 1]}, {"holdout": 1}),
    "train targets are of type <U1": ({"a": [1.0, 2.0], "y": ["x", "z"]}, {"holdout": 1}),
    "train inputs are of type <U2": ({"a": ["is", "no"], "y": [0, 1]}, {"holdout": 1}),
    "train inputs are of type object": ({"a": [[1], [1, 2]], "y": [0, 1]}, {"holdout": 1}),
    "there are 2 columns of inputs, and 'b' holds <U1 of shape (2,)": (
        {"a": [1, 2], "b": ["x", "z"], "y": [0, 1]},
        {"holdout": 1},
    ),
    "not clear among ['a', 'b']; add #COLUMN (targets=)": ({"a": [1], "b": [2]}, {"holdout": 1}),
    "there is no column 'z'; the columns are ['a', 'y']": (
        {"a": [1, 2], "y": [0, 1]},
        {"targets": "z"},
    ),
    "there is no column of inputs beside 'y'": ({"y": [0, 1]}, {}),
    "train has no rows": ({"a": [], "y": []}, {}),
}


def kinds_of(datasets, *names, y=None):
    """Features of a column x of classes, and of a column y of others or numbers."""
    target = datasets.Value("int64") if y is None else datasets.ClassLabel(names=y)
    return datasets.Features({"x": datasets.ClassLabel(names=list(names)), "y": target})


def test_classes_have_one_number_in_both_parts(datasets):
    columns = {"x": [0, 1, 0], "y": [0, 1, 1]}
    make = lambda *names, **y: datasets.Dataset.from_dict(  # noqa: E731
        columns, features=kinds_of(datasets, *names, **y)
    )
    train = make("cat", "dog", y=["a", "b"])
    for test, message in (
        (make("cat", "dog", y=["b", "a"]), "test 'y' calls class 0 ['b'], train ['a']; both must"),
        (make("cat", "dog", y=["a", "b", "c"]), "test 'y' calls class 2 ['c'], train []; both"),
        (make("dog", "cat", y=["a", "b"]), "test 'x' calls class 0 ['dog'], train ['cat']"),
    ):
        parts = {"train": train, "test": test}
        assert message in error_of(data.from_huggingface, parts, targets="y")
    parts["test"] = make("cat", "dog")  # numbers without names
    assert data.from_huggingface(parts, targets="y").num_classes == 2


def test_what_a_table_shows_is_read(datasets):
    columns = {"a": [1, 2, 3], "b": [4, 5, 6], "y": [0, 1, 0]}
    table = datasets.Dataset.from_dict(columns)
    part = table.with_format("numpy", columns=["b", "y"])
    found = data.from_huggingface(part, holdout=1)
    np.testing.assert_array_equal(found.train.images, [4, 5])
    table.set_transform(lambda batch: {**batch, "a": [10 * each for each in batch["a"]]})
    assert "train has a transform (set_transform), which" in error_of(
        data.from_huggingface, table, holdout=1
    )


def test_images_are_read_whatever_the_format(datasets):
    arrays = pictures(4, 4, 5)
    found = data.from_huggingface(images(datasets, arrays).with_format("numpy"), holdout=1)
    np.testing.assert_array_equal(found.train.images[..., 0], arrays[:3])


@pytest.mark.parametrize("message", TABLES)
def test_columns_that_cannot_be_meant_are_refused(datasets, message):
    columns, options = TABLES[message]
    table = datasets.Dataset.from_dict(columns)
    assert message in error_of(data.from_huggingface, table, **options)


def test_parts_that_do_not_fit_are_refused(datasets):
    table = datasets.Dataset.from_dict({"a": [1, 2], "y": [0, 1]})
    other = datasets.Dataset.from_dict({"a": [1, 2], "z": [0, 1]})
    for found, message in (
        ({"train": table, "test": other}, "test has no column 'y', which train has"),
        ({"fit": table}, "there is no part train; the parts are ['fit']"),
        ({"train": [1, 2]}, "train is of type list; it must be a Dataset"),
        ("train", "train is of type str; it must be a Dataset"),
    ):
        assert message in error_of(data.from_huggingface, found)


def test_images_that_cannot_be_kept_are_named_by_their_row(datasets):
    good = pictures(3, 4, 5)
    alpha = images(datasets, [good[0], pictures(1, 4, 5, 4)[0], good[1]])
    assert "'image', row 1: the image is of Pillow's mode RGBA" in error_of(
        data.from_huggingface, alpha, holdout=1
    )
    small = images(datasets, [*good, good[0, :3]])
    found = error_of(data.from_huggingface, {"train": images(datasets, good), "test": small})
    assert found.startswith("test image 3 has 5 x 3 pixels, train image 0 5 x 4 (width x height)")
    assert "'image' holds images; targets must be classes or numbers" in error_of(
        data.from_huggingface, images(datasets, good), holdout=1, targets="image"
    )
    kinds = {"image": datasets.Image(), "y": datasets.Value("int64")}
    absent = datasets.Dataset.from_dict(
        {"image": [None, None], "y": [0, 1]}, features=datasets.Features(kinds)
    )
    assert "row 0: there is no image" in error_of(data.from_huggingface, absent, holdout=1)


def test_a_saved_folder_is_a_data_set_by_name(datasets, tmp_path):
    parts = {"train": images(datasets, pictures(6, 4, 5), other=[0, 1, 2, 0, 1, 2])}
    parts["test"] = images(datasets, pictures(3, 4, 5), other=[0, 1, 2])
    folder = tmp_path / "my images"
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    made = data.load(f"hf:{folder}", train_size=4)
    assert (made.name, made.source, made.num_classes) == ("my-images", f"hf:{folder}", 3)
    assert len(made.train.labels) == 4 and len(made.test.labels) == 3
    other = data.load(f"hf:{folder}#other", holdout=1)
    np.testing.assert_array_equal(other.train.labels, [0, 1, 2, 0, 1])
    assert other.name == "my-images-other"
    assert f"hf:{folder} is a place itself" in error_of(
        data.load, f"hf:{folder}", data_dir=tmp_path
    )
    assert error_of(data.load, f"hf:{tmp_path}").startswith(
        f"hf:{tmp_path}: is no whole data set of save_to_disk: "
    )
    assert f"hf:{folder}#no: there is no column 'no'" in error_of(data.load, f"hf:{folder}#no")


def test_the_cache_is_read_and_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", hubs.standin)
    table = hubs.Dataset.from_dict({"a": [1.0, 2.0, 3.0], "y": [0, 1, 0]})
    for key in (("owner/set", None, None), ("owner/set", "small", str(tmp_path))):
        monkeypatch.setitem(hubs.CACHE, key, {"train": table, "test": table})
    made = data.load("hf:owner/set")
    assert (made.name, made.source) == ("owner-set", "hf:owner/set (cache of datasets)")
    assert data.load("hf:owner/set:small", data_dir=tmp_path).name == "owner-set-small"
    assert hubs.standin.config.HF_HUB_OFFLINE is False
    found = error_of(data.load, "hf:owner/set:large", data_dir=tmp_path)
    assert found.startswith("hf:owner/set:large: cannot be read from the cache of the package ")
    assert "Couldn't reach 'owner/set' on the Hub (OfflineModeIsEnabled); fetch it once: " in found
    assert f"load_dataset('owner/set', 'large', cache_dir={str(tmp_path)!r})" in found
    assert "data_dir is 'nowhere'" in error_of(data.load, "hf:owner/set", data_dir="nowhere")


def test_the_cache_that_the_package_has_made_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    table = images(datasets, pictures(4, 4, 5))
    table.to_parquet(str(tmp_path / "table.parquet"))
    files = {part: str(tmp_path / "table.parquet") for part in ("train", "test")}
    datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))
    # What a download of owner/SomeName would have left there.
    (made,) = tmp_path.glob("parquet/*/*/*/dataset_info.json")
    place = tmp_path / "owner___some_name" / "default" / "0.0.0"
    place.mkdir(parents=True)
    made = made.parent.rename(place / "digest")
    info = json.loads((made / "dataset_info.json").read_text())
    info |= {"config_name": "default", "dataset_name": "some_name"}
    (made / "dataset_info.json").write_text(json.dumps(info))
    for file in made.glob("*.arrow"):
        file.rename(file.with_name(file.name.replace("parquet-", "some_name-")))
    found = data.load("hf:owner/SomeName", data_dir=tmp_path)
    assert found.train.images.shape == (4, 4, 5, 1) and found.num_classes == 3
    missing = error_of(data.load, "hf:owner/SomeName:other", data_dir=tmp_path)
    assert "Available configs in the cache: ['default']" in missing


@pytest.mark.parametrize("installed", [None, hubs.types.ModuleType("datasets")])
def test_without_the_package_the_extra_is_named(monkeypatch, installed):
    monkeypatch.setitem(sys.modules, "datasets", installed)
    found = error_of(data.load, "hf:owner/set")
    wanted = "reading it needs the package datasets: pip install 'jaxsharp[huggingface]'"
    assert found.startswith(f"hf:owner/set: {wanted}")
    assert wanted in error_of(data.from_huggingface, {})


@pytest.mark.parametrize(
    "name",
    [
        *("hf:", "hf:a b", "hf:../x", "hf:a/b/c", "hf:a#", "hf:#y", "hf:a\nb"),
        *("tfds:", "tfds:../x", "tfds:a:b", "tfds:a/b/c", "tfds:a#"),
    ],
)
def test_what_is_no_name_is_refused(name):
    message = error_of(data.load, name)
    assert message.startswith("dataset is 'hf:" if name[0] == "h" else "dataset is 'tfds:")
    assert "tfds:NAME/CONFIG, and #COLUMN" in message
    assert own.is_own(name) and error_of(own.name_of, name) == message


def test_a_folder_may_be_called_as_a_name_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    assert data.load("digits").num_classes == 10
    assert "digits has no folder train" in error_of(data.load, "./digits")
    assert own.name_of("./digits") == "digits" and own.name_of("hf:digits") == "digits"
    assert own.name_of("hf:o/x.csv") == "o-x.csv" and own.name_of("tfds:a/b") == "a-b"
    Path("a/b").mkdir(parents=True)
    assert own.name_of("tfds:a/b") == "a-b" and own.name_of("hf:a/b") == "b"
    assert [own.is_place(each) for each in ("./digits", "hf:a/b", "hf:a/c", "tfds:a/b")] == [
        *(True, True, False, False),
    ]
