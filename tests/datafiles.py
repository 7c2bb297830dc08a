"""Small data files in the official layouts, and a machine that has no others."""

import functools
import gzip
import struct

import numpy as np
import pytest

from jaxsharp.data import DATASETS, DataError
from jaxsharp.data.readers import read_cifar

CIFAR_PER_FILE = 4


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path_factory):
    """No data on the machine but what the test writes, and CIFAR-10 files of four records."""
    empty = tmp_path_factory.mktemp("empty")
    monkeypatch.delenv("JAXSHARP_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(empty))
    fashion = DATASETS["fashion_mnist"]._replace(system_dir=str(empty / "package"))
    monkeypatch.setitem(DATASETS, "fashion_mnist", fashion)
    cifar = DATASETS["cifar10"]._replace(
        read=functools.partial(read_cifar, per_file=CIFAR_PER_FILE)
    )
    monkeypatch.setitem(DATASETS, "cifar10", cifar)


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(DataError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def idx_bytes(array) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def examples(count, seed) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return images, (np.arange(count) % 10).astype(np.uint8)


def write_idx(directory, seed=0, train=30, test=20, zipped=False):
    """An MNIST-like directory; returns the arrays written, train images first."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for prefix, count, offset in (("train", train, 0), ("t10k", test, 1)):
        arrays = examples(count, 2 * seed + offset)
        for array, kind in zip(arrays, ("images-idx3", "labels-idx1"), strict=True):
            content = idx_bytes(array)
            name = f"{prefix}-{kind}-ubyte"
            if zipped:
                (directory / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (directory / name).write_bytes(content)
            written.append(array)
    return written


def write_cifar(directory, with_test=True):
    """Files whose label, red, green and blue each tell file and record apart."""
    directory.mkdir(parents=True, exist_ok=True)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"] * with_test
    for i, name in enumerate(names):
        content = b""
        for j in range(CIFAR_PER_FILE):
            row_ramp = np.repeat(np.arange(32, dtype=np.uint8), 32)
            green = np.full(1024, 10 * i + j, np.uint8)
            column_ramp = np.tile(np.arange(100, 132, dtype=np.uint8), 32)
            planes = (row_ramp, green, column_ramp)
            content += bytes([(i + j) % 10]) + b"".join(plane.tobytes() for plane in planes)
        (directory / name).write_bytes(content)
