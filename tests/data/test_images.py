"""Folders of images: every pixel kept, classes in turn, and what is no such folder named."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from jaxsharp import data
from tests.datafiles import error_of

RNG = np.random.default_rng(0)
COUNTS = {"train": {"cat": 6, "dog": 3}, "test": {"cat": 2, "dog": 1}}


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write(folder, shape=(4, 5), counts=COUNTS):
    """Images in PNG, and their pixels by part and class."""
    kept = {}
    for part, classes in counts.items():
        for each, count in classes.items():
            (folder / part / each).mkdir(parents=True)
            kept[part, each] = [pixels(*shape) for _ in range(count)]
            for i, image in enumerate(kept[part, each]):
                Image.fromarray(image).save(folder / part / each / f"{i}.png")
    return kept


def of_class(split, label):
    return split.images[split.labels == label]


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_pixels_and_classes_are_those_of_the_files(tmp_path, shape):
    kept = write(tmp_path / "my images", shape)
    (tmp_path / "my images" / "train" / ".DS_Store").write_bytes(b"hidden")
    (tmp_path / "my images" / "train" / "cat" / ".hidden.png").write_bytes(b"hidden")
    made = data.load(str(tmp_path / "my images"))
    assert (made.name, made.num_classes, made.max_pixel) == ("my-images", 2, 255)
    assert made.source == str(tmp_path / "my images")
    for part, split in (("train", made.train), ("test", made.test)):
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
        for label, each in enumerate(("cat", "dog")):
            want = np.stack(kept[part, each]).reshape(-1, 4, 5, shape[2] if shape[2:] else 1)
            np.testing.assert_array_equal(of_class(split, label), want)
    np.testing.assert_array_equal(made.train.labels, [0, 1, 0, 0, 1, 0, 0, 1, 0])


def test_the_last_images_of_every_class_test_where_asked(tmp_path):
    kept = write(tmp_path, counts={"train": {"a": 8, "b": 4}})
    made = data.from_images(tmp_path, holdout=3, train_size=6)
    np.testing.assert_array_equal(np.bincount(made.test.labels), [2, 1])
    np.testing.assert_array_equal(of_class(made.test, 1)[0, ..., 0], kept["train", "b"][-1])
    np.testing.assert_array_equal(np.bincount(made.train.labels), [4, 2])
    assert "no folder test" in error_of(data.from_images, tmp_path)


def test_a_class_may_be_absent_from_the_test_part_and_keeps_its_number(tmp_path):
    write(tmp_path, counts={"train": {"a": 2, "b": 2, "c": 2}, "test": {"c": 3}})
    made = data.from_images(tmp_path)
    np.testing.assert_array_equal(made.test.labels, [2, 2, 2])
    assert made.num_classes == 3


def test_formats_and_modes_that_lose_nothing_are_read(tmp_path):
    kept = write(tmp_path)
    color = pixels(4, 5, 3)
    for suffix in ("bmp", "tiff", "ppm", "webp"):
        Image.fromarray(color).save(tmp_path / "train" / "dog" / f"a.{suffix}", lossless=True)
    two, indices = pixels(4, 5) > 127, pixels(4, 5) % 7
    Image.fromarray(two).save(tmp_path / "train" / "dog" / "b.png")
    palette = Image.fromarray(indices)
    palette.putpalette(list(range(21)))
    palette.save(tmp_path / "train" / "dog" / "c.png")
    dogs = of_class(data.from_images(tmp_path).train, 1)
    for channel in range(3):  # gray is repeated beside color
        np.testing.assert_array_equal(dogs[:3, ..., channel], np.stack(kept["train", "dog"]))
        np.testing.assert_array_equal(dogs[7, ..., channel], 255 * two)
        np.testing.assert_array_equal(dogs[8, ..., channel], 3 * indices + channel)
    for each in dogs[3:7]:
        np.testing.assert_array_equal(each, color)


def damaged(content):
    return content[: len(content) // 2]


def changed(content):
    middle = content.index(b"IDAT") + 12
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


def encoded(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


GRAY = Image.fromarray(pixels(4, 5))
CONTENTS = {
    "is damaged or no image, valid are BMP, GIF, JPEG, PNG": b"",
    "is damaged or no image": damaged(encoded(GRAY)),
    "is damaged": changed(encoded(GRAY)),
    "file is truncated": encoded(GRAY, "jpeg")[:-20],
    "has 4 x 5 pixels and": encoded(GRAY.transpose(Image.Transpose.ROTATE_90)),
    "(width x height), as 1 image of 12 have": encoded(Image.fromarray(pixels(3, 5))),
    "the image is of Pillow's mode RGBA": encoded(Image.fromarray(pixels(4, 5, 4))),
    "the image is of Pillow's mode I;16": encoded(Image.fromarray(pixels(4, 5).astype(np.uint16))),
    "the image is of Pillow's mode CMYK": encoded(GRAY.convert("CMYK"), "jpeg"),
    "the image is with transparency": encoded(GRAY, transparency=3),
    "the image has 2 frames": encoded(GRAY, "gif", save_all=True, append_images=[GRAY.rotate(180)]),
    "is damaged or no image, ": b"a,b\n1,2\n",
    "valid are BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP: cannot": encoded(GRAY, "tga"),
    # A pickle is not even opened.
    "no image, valid are BMP": b"cos\nsystem\n(S'touch pwned'\ntR.",
}


@pytest.mark.parametrize("message", CONTENTS)
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_file_that_cannot_be_kept_as_it_is_is_named(tmp_path, message, part):
    write(tmp_path)
    file = tmp_path / part / "dog" / "0.png"
    file.write_bytes(CONTENTS[message])
    found = error_of(data.load, str(tmp_path))
    assert message in found and str(file) in found


def test_a_test_part_that_is_not_asked_for_is_not_read(tmp_path):
    write(tmp_path)
    (tmp_path / "test" / "dog" / "0.png").write_bytes(b"")
    assert len(data.from_images(tmp_path, holdout=2).test.labels) == 2


FOLDERS = {
    "{}/absent is no folder; it must be one with train/CLASS/*.png": ("absent", {}),
    "{} has no folder train, its folders are ['cat', 'dog']; images must be in train/CLASS/": (
        "",
        {"cat/0.png": 1, "dog/0.png": 1},
    ),
    "{}/train has no folders": ("", {"train/": 0}),
    "{}/train/a.png is in no class": ("", {"train/a.png": 1, "train/b/0.png": 1}),
    "{}/train/b/c is no file": ("", {"train/a/0.png": 1, "train/b/c/0.png": 1}),
    "{}/train/b has no images": ("", {"train/a/0.png": 1, "train/b/": 0}),
    "{} has no folder test, its folders are ['train', 'val']": (
        "",
        {"train/a/0.png": 1, "train/b/0.png": 1, "val/a/0.png": 1},
    ),
    "{}/test/c is of a class that train has not; its classes are ['a', 'b']": (
        "",
        {"train/a/0.png": 1, "train/b/0.png": 1, "test/c/0.png": 1},
    ),
    "{}: there is 1 class": ("", {"train/a/0.png": 1, "test/a/0.png": 1}),
}


@pytest.mark.parametrize("message", FOLDERS)
def test_a_folder_of_another_form_is_refused(tmp_path, message):
    name, places = FOLDERS[message]
    for place in places:
        path = tmp_path / place
        (path if place.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not place.endswith("/"):
            GRAY.save(path)
    assert error_of(data.from_images, tmp_path / name).startswith(message.format(tmp_path))


def test_sizes_are_refused_as_those_of_other_data_are(tmp_path):
    write(tmp_path)
    assert f"{tmp_path}: holdout is 9" in error_of(data.from_images, tmp_path, holdout=9)
    assert "train_size is 10" in error_of(data.from_images, tmp_path, train_size=10)
    found = error_of(data.load, str(tmp_path), data_dir=tmp_path)
    assert found == f"{tmp_path} is a place itself; data_dir is {tmp_path}, which it never reads"


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    found = error_of(data.from_images, tmp_path)
    assert "a folder of images needs Pillow: pip install 'jaxsharp[images]'" in found
