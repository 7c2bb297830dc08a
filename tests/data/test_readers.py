"""The official file layouts: what is read from them, and what is said of damaged or wrong ones."""

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest

from jaxsharp.data import load
from jaxsharp.data.readers import read_npz
from tests import datafiles
from tests.datafiles import CIFAR_PER_FILE, error_of, idx_bytes, write_cifar, write_idx

nothing_installed = datafiles.nothing_installed  # the fixture, used by every test here


# The official layouts


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_round_trip(tmp_path, zipped):
    written = write_idx(tmp_path, train=33, test=17, zipped=zipped)
    mnist = load("mnist", data_dir=tmp_path)
    for split, images, labels in ((mnist.train, *written[:2]), (mnist.test, *written[2:])):
        np.testing.assert_array_equal(split.images, images[..., None])
        np.testing.assert_array_equal(split.labels, labels)
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
    assert mnist.source == str(tmp_path) and mnist.max_pixel == 255


@pytest.mark.parametrize("zipped", [False, True])
def test_cifar_planes_are_red_green_blue_and_rows_come_before_columns(tmp_path, zipped):
    write_cifar(tmp_path)
    if zipped:
        for path in tmp_path.glob("*.bin"):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    cifar = load("cifar10", data_dir=tmp_path)
    assert cifar.train.images.shape == (20, 32, 32, 3)
    rows = np.arange(32, dtype=np.uint8)
    for i, split in enumerate([*[cifar.train] * 5, cifar.test]):
        for j in range(CIFAR_PER_FILE):
            at = j if i == 5 else i * CIFAR_PER_FILE + j
            image = split.images[at]
            np.testing.assert_array_equal(image[:, :, 0], np.tile(rows[:, None], (1, 32)))
            assert (image[:, :, 1] == 10 * i + j).all()
            np.testing.assert_array_equal(image[:, :, 2], np.tile(100 + rows, (32, 1)))
            assert split.labels[at] == (i + j) % 10


# Damaged and wrong files


def damage(path, content):
    path.write_bytes(content)
    return error_of(load, "mnist", data_dir=path.parent)


def test_wrong_idx_files(tmp_path):
    write_idx(tmp_path, train=30)
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    good_images, good_labels = images.read_bytes(), labels.read_bytes()

    begins = "expected an idx file of uint8 that begins with the bytes"
    assert damage(images, good_labels) == f"{images}: {begins} 00000803, found 00000801"
    assert damage(images, b"") == f"{images}: {begins} 00000803, found an empty file"
    message = damage(images, good_images[:15])
    assert message == f"{images}: expected a header of 16 bytes, found 15 bytes"
    message = damage(images, good_images[:-1])
    assert message == f"{images}: expected 23536 bytes by its header, found 23535"
    message = damage(images, good_images + b"\0")
    assert message == f"{images}: expected 23536 bytes by its header, found 23537"
    message = damage(images, idx_bytes(np.zeros((30, 28, 27), np.uint8)))
    assert message == f"{images}: expected images of 28 x 28 pixels, found 28 x 27"
    message = damage(images, idx_bytes(np.zeros((0, 28, 28), np.uint8)))
    assert message == (
        f"{labels}: expected 0 labels, as many as train-images-idx3-ubyte has images, found 30"
    )
    images.write_bytes(good_images)

    assert damage(labels, good_images) == f"{labels}: {begins} 00000801, found 00000803"
    message = damage(labels, idx_bytes(np.zeros(29, np.uint8)))
    assert message == (
        f"{labels}: expected 30 labels, as many as train-images-idx3-ubyte has images, found 29"
    )
    wrong_label = np.frombuffer(good_labels, np.uint8, offset=8).copy()
    wrong_label[7] = 10
    message = damage(labels, idx_bytes(wrong_label))
    assert message == f"{labels}: expected labels from 0 to 9, found 10 at example 7"
    labels.unlink()
    message = error_of(load, "mnist", data_dir=tmp_path)
    assert message == (
        f"mnist: the train file train-labels-idx1-ubyte is missing in {tmp_path}; add it"
    )


def test_idx_files_without_examples(tmp_path):
    write_idx(tmp_path, train=0)
    message = error_of(load, "mnist", data_dir=tmp_path)
    assert message.endswith("train-labels-idx1-ubyte: expected examples, found none")


def test_damaged_gzip_files(tmp_path):
    write_idx(tmp_path, train=30, zipped=True)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    good = images.read_bytes()
    message = damage(images, good[: len(good) // 2])
    assert message.startswith(f"{images}: expected 23536 bytes by its header, found ")
    assert message.endswith("; the gzip stream is cut short")
    # Only the check sum is cut off: every byte of content is there, but unverified.
    message = damage(images, good[:-8])
    assert message == (
        f"{images}: expected 23536 bytes by its header, found 23536; the gzip stream is cut short"
    )
    flipped = bytearray(good)
    flipped[-8] ^= 1
    for content in (bytes(flipped), b"not gzip at all"):
        message = damage(images, content)
        assert message.startswith(f"{images}: expected a gzip file, found damaged data")


def test_cifar_file_of_another_size_is_refused_even_if_cut_between_records(tmp_path):
    write_cifar(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    good = path.read_bytes()
    for size in (0, 3073, 4 * 3073 - 1):
        path.write_bytes(good[:size])
        message = error_of(load, "cifar10", data_dir=tmp_path)
        assert message == f"{path}: expected 12292 bytes (4 records of 3073), found {size}"
    path.write_bytes(b"\x0a" + good[1:])
    message = error_of(load, "cifar10", data_dir=tmp_path)
    assert message == f"{path}: expected labels from 0 to 9, found 10 at example 0"
    path.unlink()
    message = error_of(load, "cifar10", data_dir=tmp_path)
    assert message == f"cifar10: the train file data_batch_3.bin is missing in {tmp_path}; add it"


def test_official_cifar_files_have_ten_thousand_records(monkeypatch, tmp_path):
    monkeypatch.undo()
    write_cifar(tmp_path)
    message = error_of(load, "cifar10", data_dir=tmp_path)
    assert "expected 30730000 bytes (10000 records of 3073), found 12292" in message


class WritesWhenUnpickled:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickles_are_never_loaded(tmp_path):
    """A pickle of someone else runs their code (pitfall 38)."""
    trace = tmp_path / "loaded"
    harmful = pickle.dumps(WritesWhenUnpickled(trace))
    binary, python = tmp_path / "bin", tmp_path / "py"
    write_cifar(binary)
    (binary / "data_batch_1.bin").write_bytes(harmful)
    message = error_of(load, "cifar10", data_dir=binary)
    assert f"expected 12292 bytes (4 records of 3073), found {len(harmful)}" in message

    batches = python / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    (batches / "data_batch_1").write_bytes(harmful)
    for directory in (python, batches):
        message = error_of(load, "cifar10", data_dir=directory)
        assert "put the official files data_batch_1.bin" in message
        assert message.endswith(
            f"; {batches / 'data_batch_1'} is a pickle and not read, "
            "because loading a pickle runs code"
        )

    archive = tmp_path / "digits.npz"
    objects = np.array([WritesWhenUnpickled(trace)], dtype=object)
    np.savez(archive, images=objects, labels=objects)
    for content in (archive.read_bytes(), harmful):
        archive.write_bytes(content)
        message = error_of(read_npz, archive, (8, 8, 1), 10)
        assert message.startswith(f"{archive}: expected an npz file with plain arrays")
    assert not trace.exists()
    pickle.loads(harmful)
    assert trace.exists()  # the pickle does leave a trace where one is loaded
