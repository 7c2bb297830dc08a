"""Data sets: from which place each is read, what is said when none has it, and what is in them."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from jaxsharp import data
from jaxsharp.data import DATASETS, load
from tests import datafiles
from tests.datafiles import error_of, idx_bytes, write_cifar, write_idx

FASHION_PACKAGE = Path(DATASETS["fashion_mnist"].system_dir)
LOCAL_DATA = Path(__file__).parents[2] / "data"

nothing_installed = datafiles.nothing_installed  # the fixture, used by every test here


# digits


def test_digits_are_the_known_images_in_their_known_order():
    digits = load("digits")
    assert digits.train.images.shape == (1437, 8, 8, 1)
    assert digits.test.images.shape == (360, 8, 8, 1)
    images = np.concatenate([digits.train.images, digits.test.images])
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    digest = hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
    assert digest == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    assert images.max() == digits.max_pixel == 16
    assert digits.num_classes == 10 and digits.name == "digits"


def test_digits_classes_are_nearly_balanced_in_both_parts():
    digits = load("digits")
    train, test = np.bincount(digits.train.labels), np.bincount(digits.test.labels)
    assert train.tolist() == [143, 146, 142, 146, 144, 145, 144, 143, 141, 143]
    assert test.tolist() == [35, 36, 35, 37, 37, 37, 37, 36, 33, 37]


def test_digits_follow_fourteen_forms_and_the_test_part_begins_in_the_twelfth():
    digits = load("digits")
    labels = "".join(str(c) for c in [*digits.train.labels, *digits.test.labels])
    after_first_30 = "095565098984177351"
    forms = [i - 30 for i in range(len(labels)) if labels.startswith(after_first_30, i)]
    assert len(forms) == 14
    assert 1437 - forms[11] == 22


def test_digits_look_at_no_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSHARP_DATA", str(tmp_path / "absent"))
    assert load("digits").source == "digits.npz, embedded in jaxsharp"
    message = error_of(load, "digits", data_dir=tmp_path)
    assert (
        message == f"digits is embedded in jaxsharp; data_dir is {tmp_path}, which it never reads"
    )


# Which place is read


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("fashion_mnist", "fashion_mnist"),
        ("fashion_mnist", "fashion-mnist"),
        ("fashion_mnist", "FashionMNIST/raw"),
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("cifar10", "cifar-10-batches-bin"),
        ("cifar10", "cifar10"),
        ("cifar10", "cifar10/cifar-10-batches-bin"),
    ],
)
def test_subfolders_are_found(tmp_path, name, folder):
    (write_cifar if name == "cifar10" else write_idx)(tmp_path / folder)
    assert load(name, data_dir=tmp_path).source == str(tmp_path / folder)


def test_places_in_order(tmp_path, monkeypatch):
    argument, variable, package = tmp_path / "argument", tmp_path / "variable", tmp_path / "package"
    written = [write_idx(place, seed=i) for i, place in enumerate((argument, variable, package))]
    spec = DATASETS["fashion_mnist"]._replace(system_dir=str(package))
    monkeypatch.setitem(DATASETS, "fashion_mnist", spec)

    def read(**kwargs):
        found = load("fashion_mnist", **kwargs)
        (which,) = [
            i for i, w in enumerate(written) if np.array_equal(found.train.images[..., 0], w[0])
        ]
        return which, found.source

    assert read() == (2, str(package))
    monkeypatch.setenv("JAXSHARP_DATA", str(variable))
    assert read() == (1, str(variable))
    assert read(data_dir=argument) == (0, str(argument))
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("JAXSHARP_DATA", str(empty))
    assert read() == (2, str(package))
    # Who names a directory wants no other data than what is there.
    message = error_of(load, "fashion_mnist", data_dir=empty)
    assert str(empty) in message and str(package) not in message
    monkeypatch.chdir(argument)  # an empty variable does not mean the current directory
    monkeypatch.setenv("JAXSHARP_DATA", "")
    assert read() == (2, str(package))


def test_subfolder_named_after_the_data_set_comes_before_the_directory_itself(tmp_path):
    write_idx(tmp_path, seed=1)
    written = write_idx(tmp_path / "mnist", seed=2)
    images = load("mnist", data_dir=tmp_path).train.images
    np.testing.assert_array_equal(images[..., 0], written[0])


def test_named_directory_that_does_not_exist(tmp_path, monkeypatch):
    absent = str(tmp_path / "absent")
    message = error_of(load, "mnist", data_dir=absent)
    assert message == f"data_dir is {absent!r}; it must be an existing directory"
    monkeypatch.setenv("JAXSHARP_DATA", absent)
    message = error_of(load, "mnist")
    assert message == f"JAXSHARP_DATA is {absent!r}; it must be an existing directory"


def test_files_of_the_other_mnist_are_refused(tmp_path):
    write_idx(tmp_path)
    labels = np.array([5, 0, 4, 1, 9, 2, 1, 3, 1, 4] * 3, np.uint8)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    assert load("mnist", data_dir=tmp_path).train.labels[0] == 5
    message = error_of(load, "fashion_mnist", data_dir=tmp_path)
    assert message == f"{tmp_path}: expected the files of fashion_mnist, found those of mnist"


def test_a_data_set_found_nowhere_says_what_to_do(tmp_path, monkeypatch):
    nowhere = str(tmp_path / "no package")
    spec = DATASETS["fashion_mnist"]._replace(system_dir=nowhere)
    monkeypatch.setitem(DATASETS, "fashion_mnist", spec)
    monkeypatch.setenv("JAXSHARP_DATA", str(tmp_path))
    message = error_of(load, "fashion_mnist")
    assert message.startswith("fashion_mnist is in none of ")
    for part in (
        str(tmp_path / "FashionMNIST/raw"),
        nowhere,
        "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
        "t10k-labels-idx1-ubyte (or .gz)",
        "--data-dir",
        "JAXSHARP_DATA",
        "(2) apt-get install dataset-fashion-mnist",
        "(3) prepare it",
        "pip install 'jaxsharp[tfds]' && tfds build fashion_mnist --file_format=array_record",
    ):
        assert part in message
    message = error_of(load, "cifar10")
    assert "data_batch_5.bin, test_batch.bin" in message
    assert "apt-get" not in message and "(2) prepare it" in message


def test_unknown_name():
    message = error_of(load, "cifar100")
    known = "name is 'cifar100'; it must be one of digits, fashion_mnist, mnist, cifar10, .npz, "
    assert message.startswith(known) and "a folder of images or .npy, hf:NAME, tfds:NAME" in message


# The official data, where this machine has it


@pytest.mark.slow
@pytest.mark.skipif(not FASHION_PACKAGE.is_dir(), reason="needs the package dataset-fashion-mnist")
def test_fashion_mnist_of_the_operating_system(monkeypatch):
    spec = DATASETS["fashion_mnist"]._replace(system_dir=str(FASHION_PACKAGE))
    monkeypatch.setitem(DATASETS, "fashion_mnist", spec)
    fashion = load("fashion_mnist")
    assert fashion.train.images.shape == (60_000, 28, 28, 1)
    assert fashion.test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(fashion.train.labels).tolist() == [6000] * 10
    assert np.bincount(fashion.test.labels).tolist() == [1000] * 10
    # The mean and deviation that public code normalizes with.
    histogram = np.bincount(fashion.train.images.ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = np.average(values, weights=histogram)
    deviation = np.average((values - mean) ** 2, weights=histogram) ** 0.5
    assert (mean, deviation) == pytest.approx((0.2860, 0.3530), abs=5e-5)
    message = error_of(load, "mnist", data_dir=FASHION_PACKAGE)
    assert message.endswith("expected the files of mnist, found those of fashion_mnist")


@pytest.mark.skipif(
    not (LOCAL_DATA / "cifar-10-batches-bin").is_dir(), reason="needs data/cifar-10-batches-bin"
)
def test_cifar10_of_this_checkout(monkeypatch):
    monkeypatch.undo()
    cifar = load("cifar10", data_dir=LOCAL_DATA, holdout=10_000)
    labels = np.concatenate([cifar.train.labels, cifar.test.labels])
    assert np.bincount(labels).tolist() == [5000] * 10
    assert cifar.train.images.shape == (40_000, 32, 32, 3)
    # The channel means that public code normalizes with: red, green, blue.
    sums = sum(part.images.sum(axis=0, dtype=np.uint32) for part in (cifar.train, cifar.test))
    means = sums.mean(axis=(0, 1)) / 50_000 / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=6e-5)


def test_specs_agree_with_what_is_loaded():
    for name, spec in data.DATASETS.items():
        assert spec.description and len(spec.shape) == 3, name
    digits, spec = load("digits"), DATASETS["digits"]
    assert digits.train.images.shape == (spec.train_size, *spec.shape)
    assert digits.test.images.shape == (spec.test_size, *spec.shape)
