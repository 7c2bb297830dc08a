"""Texts as data sets: windows, targets, parts, and what is refused."""

import numpy as np
import pytest

from jaxsharp import data
from jaxsharp.data import DataError

TEXT = "".join(np.random.default_rng(0).choice(list("abcdé\n"), 230))


def decoded(tokens):
    """The characters of classes."""
    return "".join(np.array(sorted(set(TEXT)))[tokens])


def test_windows_follow_each_other_and_targets_are_the_next_characters():
    found = data.from_text(TEXT, length=10)
    train, test = found.train, found.test
    assert (found.name, found.num_classes, found.source) == ("text", 6, "text")
    assert train.images.shape == train.labels.shape == (20, 10)
    assert test.images.shape == test.labels.shape == (2, 10)
    assert {each.dtype for each in (*train, *test)} == {np.dtype(np.int32)}
    assert decoded(train.images.ravel()) == TEXT[:200]
    assert decoded(train.labels.ravel()) == TEXT[1:201]
    assert decoded(test.images.ravel()) == TEXT[207:227]  # the last 23 characters
    assert decoded(test.labels.ravel()) == TEXT[208:228]


def test_the_shares_of_training_and_testing_may_be_others():
    found = data.from_text(TEXT, length=10, test_share=0.5, train_size=3)
    assert (len(found.train.labels), len(found.test.labels)) == (3, 11)
    held = data.from_text(TEXT, length=10, holdout=4)
    assert decoded(held.train.images.ravel()) == TEXT[:160]
    assert decoded(held.test.images.ravel()) == TEXT[160:200]


def test_a_file_is_read_by_its_path_or_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my text.txt"
    path.write_text(TEXT * 4, encoding="utf-8")
    want = data.from_text(TEXT * 4)
    for found in (data.from_text(path), data.from_text("my text.txt"), data.load("my text.txt")):
        np.testing.assert_array_equal(found.train.images, want.train.images)
        np.testing.assert_array_equal(found.test.labels, want.test.labels)
    assert (found.name, found.source) == ("my-text", "my text.txt")
    few = data.load("my text.txt", train_size=5, holdout=3)
    np.testing.assert_array_equal(few.train.images, want.train.images[:5])
    np.testing.assert_array_equal(few.test.images, want.train.images[-3:])


def test_the_mark_that_some_editors_begin_a_file_with_is_no_character(tmp_path):
    (tmp_path / "marked.txt").write_text(TEXT, encoding="utf-8-sig")
    found = data.from_text(tmp_path / "marked.txt", length=10)
    assert found.num_classes == 6
    assert decoded(found.train.images.ravel()) == TEXT[:200]


def test_a_character_that_is_in_the_test_part_alone_is_a_class():
    found = data.from_text("ab" * 20 + "zzzz", length=2, test_share=0.1)
    assert found.num_classes == 3 and found.test.labels.max() == 2 > found.train.images.max()


WRONG = {
    "length is 1; it must be a whole number, at least 2": {"length": 1},
    "test_share is 1.0; it must be between 0 and 1": {"test_share": 1.0},
    "text has 230 characters, 207 of them for train; a window of length 300 takes 301": {
        "length": 300
    },
    "text has 230 characters, 23 of them for test; a window of length 23 takes 24": {"length": 23},
    "text has 0 different characters; 2 are needed": {"text": ""},
    "text has 1 different characters; 2 are needed": {"text": "aaaa"},
    "nothing.txt is no file; it must be a text in UTF-8": {"text": "nothing.txt"},
    "holdout is 20; it must be from 1 to less than 20": {"holdout": 20, "length": 10},
    "train_size is 21; it must be from 1 to 20": {"train_size": 21, "length": 10},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_texts_are_refused_in_one_line(message):
    with pytest.raises(DataError) as refused:
        data.from_text(**{"text": TEXT, "length": 10} | WRONG[message])
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_files_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "image.txt"
    path.write_bytes(b"\xff\xfe\xfd" * 100)
    for load in (data.from_text, lambda path: data.load(str(path))):
        with pytest.raises(DataError, match=r"image\.txt is no text in UTF-8"):
            load(path)
    with pytest.raises(DataError, match=r"missing\.txt is no file"):
        data.load("missing.txt")
