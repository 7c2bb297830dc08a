"""Checkpoints: complete or absent, and every change to one is noticed."""

import os
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.runs import checkpoint, files

TREE = {"a": np.arange(5000.0), "b": (np.int32(3), np.array([True, False]))}
TEXTS = {"history.csv": "epoch\n1\n", "note.txt": "two\r\nlines"}


def save(path):
    checkpoint.save(path, TREE, TEXTS)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("checkpoints") / "state")


@pytest.fixture
def state(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "state")


def refusal(path):
    """What ``load`` says of a damaged checkpoint, less how it begins."""
    with pytest.raises(checkpoint.DamagedError) as caught:
        checkpoint.load(path, TREE)
    start, reason = str(caught.value).split(" cannot be read: ")
    assert start == f"checkpoint {path}" and "\n" not in reason
    assert reason == checkpoint.verify(path)
    return reason


def test_a_tree_and_its_texts_read_back(state):
    assert checkpoint.verify(state) is None
    loaded = checkpoint.load(state, TREE)
    np.testing.assert_array_equal(loaded["a"], TREE["a"])
    assert loaded["b"][0] == 3 and loaded["b"][1].tolist() == [True, False]
    for name, text in TEXTS.items():
        assert checkpoint.read_text(state, name) == text


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(()),
        np.empty((0, 3)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6, dtype=np.int8)[::-2],
        np.asarray(jnp.linspace(0, 1, 5).astype(jnp.bfloat16)),
    ],
)
def test_every_kind_of_array_reads_back(tmp_path, array):
    checkpoint.save(tmp_path / "state", {"x": array})
    like = {"x": jax.ShapeDtypeStruct(array.shape, array.dtype)}
    found = checkpoint.load(tmp_path / "state", like)["x"]
    assert found.dtype == array.dtype and found.shape == array.shape
    np.testing.assert_array_equal(found, array)
    found[...] = 0  # it can be written to, as before


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_the_list_of_sums_is_one_that_sha256sum_reads(state):
    command = ["sha256sum", "--check", "--strict", "--quiet", checkpoint.SUMS]
    assert subprocess.run(command, cwd=state, check=False).returncode == 0


def names(path):
    return [checkpoint.ARRAYS, *TEXTS, checkpoint.SUMS]


def test_every_flipped_bit_of_every_file_is_noticed(state):
    for name in names(state):
        file = state / name
        content = file.read_bytes()
        for at in {0, len(content) // 2, len(content) - 1} if content else ():
            changed = bytearray(content)
            changed[at] ^= 1
            file.write_bytes(changed)
            assert checkpoint.verify(state) is not None, (name, at)
        file.write_bytes(content)
    assert checkpoint.verify(state) is None


def test_every_file_that_is_cut_off_or_removed_is_named(state):
    for name in names(state)[:-1]:
        file = state / name
        content = file.read_bytes()
        if content:
            file.write_bytes(content[: len(content) // 2])
            assert refusal(state) == f"{name} is not as it was written"
        file.unlink()
        assert refusal(state) == f"{name} is missing"
        file.write_bytes(content)


FOREIGN = [".DS_Store", ".nfs00000001", "arrays.npz~", "#history.csv#", "Thumbs.db", "notes.md"]


def test_files_of_others_are_no_damage(state):
    """Of systems, editors and people, in folders of their own too; a listed one is none of them."""
    for name in [*FOREIGN, "sub/deep/file", ".AppleDouble/arrays.npz"]:
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_bytes(b"\0\1")
    assert checkpoint.verify(state) is None
    np.testing.assert_array_equal(checkpoint.load(state, TREE)["a"], TREE["a"])
    assert checkpoint.read_text(state, "note.txt") == TEXTS["note.txt"]
    (state / "note.txt").write_text("")
    assert refusal(state) == "note.txt is not as it was written"


def test_a_list_of_sums_that_is_cut_off_or_gone_is_noticed(state):
    sums = state / checkpoint.SUMS
    lines = sums.read_text().splitlines(keepends=True)
    for kept in range(len(lines)):
        sums.write_text("".join(lines[:kept]))
        reason = checkpoint.verify(state, texts=TEXTS)
        assert reason is not None and reason.endswith("is not listed in SHA256SUMS")
    sums.write_text("".join(lines[1:]))
    assert refusal(state) == "arrays.npz is not listed in SHA256SUMS"
    sums.write_bytes(b"\xff\xfe\n\n")
    refusal(state)
    sums.unlink()
    assert refusal(state) == "SHA256SUMS is missing"
    shutil.rmtree(state)
    assert refusal(state) == "SHA256SUMS is missing"


def test_a_text_is_read_only_as_it_was_written(state):
    (state / "note.txt").write_text("other")
    assert checkpoint.read_text(state, "history.csv") == TEXTS["history.csv"]
    with pytest.raises(checkpoint.DamagedError, match=r"state cannot be read: note\.txt is not as"):
        checkpoint.read_text(state, "note.txt")
    with pytest.raises(checkpoint.DamagedError, match=r"cannot be read: absent\.txt is missing"):
        checkpoint.read_text(state, "absent.txt")


def test_a_checkpoint_of_another_shape_is_refused_but_not_damaged(state):
    with pytest.raises(ValueError, match=r"checkpoint .*state") as caught:
        checkpoint.load(state, {**TREE, "a": np.zeros(7)})
    assert not isinstance(caught.value, checkpoint.DamagedError)


@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch, call):
    def fail(source, target=None):
        names = () if target is None else (str(source), None, str(target))
        raise OSError(28, "No space left on device", *names)

    monkeypatch.setattr(checkpoint.os, call, fail)
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/state'$"):
        save(tmp_path / "state")
    assert os.listdir(tmp_path) == []


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced, rename = [], os.rename
    monkeypatch.setattr(files, "sync", synced.append)

    def check(source, target):
        if os.path.basename(target) == "state":
            below = {source, *source.rglob("*")}
            assert set(synced) == below and source / checkpoint.SUMS in below
        rename(source, target)

    monkeypatch.setattr(checkpoint.os, "rename", check)
    save(tmp_path / "state")
    assert synced[-1] == tmp_path


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from jaxsharp.runs import checkpoint
checkpoint.files.sync_tree = lambda path: os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save(Path(sys.argv[1]), {"a": np.zeros(3)})
"""


@pytest.mark.slow
def test_what_a_killed_process_left_is_removed_by_the_next_save(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "state")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [".tmp-state"]
    (tmp_path / ".tmp-history.csv").write_text("a file is not mine to remove")
    save(tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == [".tmp-history.csv", "other"]
