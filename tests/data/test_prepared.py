"""Copies of data sets that tensorflow-datasets prepared: read without TensorFlow, and checked."""

import io
import subprocess
import sys

import numpy as np
import pytest

from jaxsharp.data import DATASETS, load
from tests import datafiles
from tests.datafiles import error_of, examples, write_idx

nothing_installed = datafiles.nothing_installed  # the fixture, used by every test here


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
    monkeypatch.setenv("JAXSHARP_DATA", str(tmp_path))
    assert load("mnist").source.endswith("(tensorflow-datasets)")
    write_idx(tmp_path)
    assert load("mnist").source == str(tmp_path)


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


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    """A directory with a data set of numbers, in a configuration, that names its own pair."""
    pytest.importorskip("array_record")
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    with registered.skip_registration():

        class Waves(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="small"),)

            def _info(self):
                features = {
                    "wave": tfds.features.Tensor(shape=(3,), dtype=np.float32),
                    "height": tfds.features.Scalar(dtype=np.float32),
                    "kind": tfds.features.ClassLabel(num_classes=3),
                    "word": tfds.features.Text(),
                }
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("wave", "height"),
                )

            def _split_generators(self, dl_manager):
                del dl_manager
                return {part: self._generate_examples(n) for part, n in SIZES.items()}

            def _generate_examples(self, count):
                for i in range(count):
                    wave = np.array([i, i + 1, i + 2], np.float32)
                    yield i, {"wave": wave, "height": i / 2, "kind": i % 2, "word": "a"}

    directory = tmp_path_factory.mktemp("waves")
    Waves(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


SIZES = {"train": 6, "validation": 3, "other": 2}


def test_any_data_set_that_was_prepared_is_read_by_its_name(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    made, named = load("tfds:mnist", train_size=20), load("mnist", train_size=20)
    assert (made.name, made.num_classes, made.source) == ("mnist", 10, named.source)
    for found, want in zip((*made.train, *made.test), (*named.train, *named.test), strict=True):
        assert found.dtype == want.dtype
        np.testing.assert_array_equal(found, want)
    assert len(load("tfds:mnist", holdout=4, data_dir=prepared).train.labels) == 26


def test_the_pair_of_a_data_set_is_inputs_and_targets(waves):
    made = load("tfds:waves/small", data_dir=waves)
    assert (made.name, made.num_classes, len(made.test.labels)) == ("waves-small", 0, 3)
    np.testing.assert_array_equal(np.sort(made.train.labels), np.arange(6) / 2)
    np.testing.assert_array_equal(made.train.images[:, 1], 2 * made.train.labels + 1)


def test_prepared_names_that_cannot_be_read(waves, tmp_path, monkeypatch):
    found = error_of(load, "tfds:waves", data_dir=waves)
    assert found.startswith(f"tfds:waves: is in none of {waves / 'waves'}; prepare it with ")
    assert "tfds build waves --file_format=array_record" in found
    assert found.endswith("; there are the configurations ['small']")
    found = error_of(load, "tfds:waves/small#kind", data_dir=waves)
    assert "there are 3 columns of inputs, and 'wave' holds float32 of shape (6, 3)" in found
    found = error_of(load, "tfds:waves/small#word", data_dir=waves)
    assert found.startswith("tfds:waves/small#word: ") and "of inputs, and 'wave' holds" in found
    assert "no column 'depth'; the columns are ['height', 'kind', 'wave', 'word']" in error_of(
        load, "tfds:waves/small#depth", data_dir=waves
    )
    assert "train_size is 7" in error_of(load, "tfds:waves/small", data_dir=waves, train_size=7)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    found = error_of(load, "tfds:waves/small", data_dir=waves)
    assert found.startswith(f"tfds:waves/small: {waves / 'waves' / 'small' / '1.0.0'}: reading it ")
    other = tmp_path / "waves" / "2.0.0"
    other.mkdir(parents=True)
    (other / "dataset_info.json").write_text("{}")
    found = error_of(load, "tfds:waves", data_dir=tmp_path)
    assert found.endswith("; the copy that is there is not in the format array_record")


@pytest.mark.slow
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
