"""Data sets: what is read, from where, and what is said when it cannot be."""

import functools
import gzip
import hashlib
import io
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp import data
from jaxsharp.data import DATASETS, DataError, Split, load, redraw_labels, stratified
from jaxsharp.readers import read_cifar, read_npz

CIFAR_PER_FILE = 4
FASHION_PACKAGE = Path(DATASETS["fashion_mnist"].system_dir)
LOCAL_DATA = Path(__file__).parents[1] / "data"


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


def test_digits_look_at_no_directory(tmp_path):
    digits = load("digits", data_dir=tmp_path / "absent")
    assert digits.source == "digits.npz, embedded in jaxsharp"


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


# Which place is read


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
    (tmp_path / "empty").mkdir()
    assert read(data_dir=tmp_path / "empty") == (2, str(package))
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


def test_a_data_set_found_nowhere_says_what_to_do(tmp_path):
    message = error_of(load, "fashion_mnist", data_dir=tmp_path)
    assert message.startswith("fashion_mnist is in none of ")
    for part in (
        str(tmp_path / "FashionMNIST/raw"),
        DATASETS["fashion_mnist"].system_dir,
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
    assert message == "name is 'cifar100'; it must be one of digits, fashion_mnist, mnist, cifar10"


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


# Held-out examples and subsets


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


# Redrawn labels

N = 20_000  # one shape for all tests: one compilation
UNDRAWN = -1  # a label that no draw gives, so that every redrawn position shows


def test_exactly_the_fraction_is_redrawn():
    labels, key = jnp.full(N, UNDRAWN), jax.random.key(0)
    compiled = jax.jit(redraw_labels, static_argnums=3)
    for fraction in (0.0, 0.1, 1 / 3, 0.5, 0.99996, 1.0):
        redrawn = redraw_labels(key, labels, fraction, 10)
        assert (redrawn != UNDRAWN).sum() == round(fraction * N)
        np.testing.assert_array_equal(compiled(key, labels, fraction, 10), redrawn)


def test_nothing_redrawn_is_the_identity():
    labels = np.arange(N, dtype=np.int32) % 10
    same = redraw_labels(jax.random.key(1), labels, 0.0, 10)
    np.testing.assert_array_equal(same, labels)
    assert same.dtype == labels.dtype


def test_draws_are_uniform_over_classes_and_positions():
    labels = jnp.full(N, UNDRAWN)
    redrawn = redraw_labels(jax.random.key(2), labels, 0.5, 10)
    by_class = np.bincount(redrawn[redrawn != UNDRAWN], minlength=10)
    by_block = (redrawn != UNDRAWN).reshape(10, -1).sum(axis=1)
    # 27.9 is exceeded with probability 0.001 (chi-square, 9 degrees of freedom).
    assert len(by_class) == 10
    assert ((by_class - 1000) ** 2 / 1000).sum() < 27.9
    assert ((by_block - 1000) ** 2 / 1000).sum() < 27.9
    # Redrawn over all classes, the old label included: a tenth keep it.
    kept = (redraw_labels(jax.random.key(2), jnp.zeros(N, int), 1.0, 10) == 0).sum()
    assert abs(kept - N / 10) < 5 * (N * 0.1 * 0.9) ** 0.5


def test_same_key_same_labels_and_more_are_nested_in_fraction():
    labels = jnp.full(N, UNDRAWN)
    few = redraw_labels(jax.random.key(3), labels, 0.2, 10)
    np.testing.assert_array_equal(few, redraw_labels(jax.random.key(3), labels, 0.2, 10))
    assert (few != redraw_labels(jax.random.key(4), labels, 0.2, 10)).any()
    more = redraw_labels(jax.random.key(3), labels, 0.6, 10)
    np.testing.assert_array_equal(more[few != UNDRAWN], few[few != UNDRAWN])


def test_redrawing_vmapped_over_keys_and_fractions_equals_one_at_a_time():
    labels = jnp.arange(N) % 10
    keys, fractions = jax.random.split(jax.random.key(5), 3), jnp.array([0.0, 0.25, 1.0])
    together = jax.vmap(lambda key, f: redraw_labels(key, labels, f, 10))(keys, fractions)
    for key, fraction, redrawn in zip(keys, fractions, together, strict=True):
        np.testing.assert_array_equal(redrawn, redraw_labels(key, labels, fraction, 10))


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan"), np.float32(2.0)])
def test_impossible_fractions(fraction):
    message = error_of(redraw_labels, jax.random.key(0), jnp.zeros(3, int), fraction, 10)
    assert message == f"fraction is {fraction}; it must be from 0 to 1"


# tensorflow-datasets


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A directory with a tiny mnist that tensorflow-datasets itself wrote, without TensorFlow."""
    pytest.importorskip("array_record")
    import tensorflow_datasets as tfds
    from PIL import Image
    from tensorflow_datasets.core import registered

    def encoded(image):
        # As a file, an image is stored as it is; encoding an array would need TensorFlow.
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png")
        file.seek(0)
        return file

    with registered.skip_registration():

        class Mnist(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("3.0.1")

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                del dl_manager
                return {
                    "train": self._generate_examples(30, 0),
                    "test": self._generate_examples(20, 1),
                }

            def _generate_examples(self, count, seed):
                for i, (image, label) in enumerate(zip(*examples(count, seed), strict=True)):
                    yield i, {"image": encoded(image), "label": int(label)}

    directory = tmp_path_factory.mktemp("prepared")
    Mnist(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


def by_content(images, labels):
    pairs = zip(images, labels, strict=True)
    return sorted((image.tobytes(), int(label)) for image, label in pairs)


@pytest.mark.parametrize("where", ["data_dir", "TFDS_DATA_DIR"])
def test_prepared_copy_is_read_without_tensorflow(prepared, monkeypatch, where):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", None)
    imported_before = "tensorflow" in sys.modules
    if where == "TFDS_DATA_DIR":
        monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    mnist = load("mnist", data_dir=prepared if where == "data_dir" else None)
    for split, count, seed in ((mnist.train, 30, 0), (mnist.test, 20, 1)):
        assert split.images.shape == (count, 28, 28, 1)
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
        assert by_content(*split) == by_content(*examples(count, seed))
    assert ("tensorflow" in sys.modules) == imported_before
    assert mnist.source == f"{prepared / 'mnist' / '3.0.1'} (tensorflow-datasets)"


def test_prepared_copy_comes_after_the_official_files(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert load("mnist", data_dir=tmp_path).source.endswith("(tensorflow-datasets)")
    write_idx(tmp_path)
    assert load("mnist", data_dir=tmp_path).source == str(tmp_path)


def copy_of(prepared, tmp_path, version="3.0.1"):
    target = tmp_path / "mnist" / version
    target.mkdir(parents=True)
    for path in (prepared / "mnist" / "3.0.1").iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_newest_prepared_version_is_read(prepared, tmp_path):
    for version in ("3.0.9", "3.0.10", "2.11.0"):
        copy_of(prepared, tmp_path, version)
    assert "3.0.10" in load("mnist", data_dir=tmp_path).source


def test_prepared_copies_that_cannot_be_read(prepared, tmp_path, monkeypatch):
    target = copy_of(prepared, tmp_path)
    shard = next(target.glob("mnist-test.array_record*"))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    message = error_of(load, "mnist", data_dir=tmp_path)
    assert message.startswith(f"{target}: expected 20 readable test examples, found damage (")
    assert len(load("mnist", data_dir=tmp_path, holdout=5).test.labels) == 5

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    message = error_of(load, "mnist", data_dir=tmp_path)
    assert message.startswith(f"{target}: reading it needs tensorflow-datasets")
    assert message.endswith("pip install tensorflow-datasets array-record")

    for path in target.glob("*array_record*"):
        path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    message = error_of(load, "mnist", data_dir=tmp_path)
    assert message.startswith("mnist is in none of ")
    assert message.endswith(f"the copy in {target.parent} is not in the format array_record")


def test_prepared_copy_of_images_of_another_shape(prepared, tmp_path, monkeypatch):
    target = copy_of(prepared, tmp_path)
    monkeypatch.setitem(DATASETS, "mnist", DATASETS["mnist"]._replace(shape=(28, 27, 1)))
    message = error_of(load, "mnist", data_dir=tmp_path)
    assert message == (
        f"{target}: expected uint8 images of 28 x 27 x 1, found uint8 of 28 x 28 x 1"
    )


def test_tensorflow_datasets_is_imported_only_for_a_prepared_copy():
    program = (
        "import sys; from jaxsharp import data; data.load('digits')\n"
        "try: data.load('mnist')\n"
        "except data.DataError: pass\n"
        "else: sys.exit('mnist was found')\n"
        "sys.exit('tensorflow_datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The official data, where this machine has it


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
