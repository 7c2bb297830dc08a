"""Files that are whole after every failure, and folders that one process uses at a time."""

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest

from jaxsharp.runs import files

HOLD = """
import sys, time
from pathlib import Path
from jaxsharp.runs import files
with files.lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def fail(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    file = tmp_path / "table.csv"
    files.write_text(file, "old")
    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(OSError, match=rf"No space left on device: '{file}'$"):
        files.write_text(file, "new")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_full_disk_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "open", lambda *_, **__: open("/dev/full", "w"), raising=False)
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/table.csv'$"):
        files.write_text(tmp_path / "table.csv", "new")
    assert os.listdir(tmp_path) == []


def test_no_error_names_what_is_written_on_the_way(tmp_path):
    """What another file is to blame for, or no file, stays as it is."""
    path, denied = tmp_path / "a", (errno.EACCES, "Permission denied")
    for raised, said in (
        (OSError(*denied, str(tmp_path / ".tmp-a")), f"Permission denied: '{path}'"),
        (OSError(*denied, "source", None, "target"), f"Permission denied: '{path}'"),
        (OSError(errno.ENOLCK, "No locks available"), f"No locks available: '{path}'"),
        (OSError(*denied, "source"), "Permission denied: 'source'"),
        (OSError("no number"), "no number"),
    ):
        with pytest.raises(OSError) as caught, files.spoken_of(path):
            raise raised
        assert str(caught.value).endswith(said) and ".tmp-" not in str(caught.value)


def test_what_is_set_aside_keeps_what_was_before(tmp_path):
    for number in range(3):
        (tmp_path / "times.csv").write_text(str(number))
        files.set_aside(tmp_path / "times.csv")
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    names = ("damaged-times.csv", "damaged-times.csv-2", "damaged-times.csv-3")
    assert found == dict(zip(names, "012", strict=True))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        files.write_text(tmp_path / "file" / "table.csv", "new")


def test_a_written_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """The content, then the name, then the folder that holds the name."""
    calls = []
    fsync, rename = os.fsync, os.replace

    def record_sync(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", record_sync)
    monkeypatch.setattr(files.os, "replace", lambda *a: (calls.append("name"), rename(*a)))
    files.write_text(tmp_path / "a", "new")
    assert calls == ["file", "name", "folder"]
    files.write_text(tmp_path / "a", "newer", durable=False)
    assert calls[3:] == ["name"]


def test_tables_read_back_exactly(tmp_path):
    values = np.random.default_rng(0).normal(size=9).astype(np.float32)
    files.write_table(tmp_path / "t.csv", pd.DataFrame({"x": values}))
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "t.csv", dtype="float32")["x"], values)


def test_a_digest_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100000)
    assert files.digest(tmp_path / "a") == hashlib.sha256(b"abc" * 100000).hexdigest()


HEADER = ("name", "text", "x")
ROWS = [["a", "one, two", "0.1"], ["b", 'say "x"', "nan"], ["c", "", "1e-07"]]


def test_rows_read_back(tmp_path):
    files.write_rows(tmp_path / "t.csv", HEADER, [["a", "one, two", 0.1], *ROWS[1:]])
    assert files.read_rows(tmp_path / "t.csv", HEADER) == (ROWS, [])
    assert list(pd.read_csv(tmp_path / "t.csv").columns) == [*HEADER, "crc32"]


def test_every_damaged_byte_of_a_table_costs_at_most_two_rows_and_gives_no_wrong_one(tmp_path):
    file = tmp_path / "t.csv"
    files.write_rows(file, HEADER, ROWS)
    whole = file.read_bytes()
    for at in range(len(whole)):
        for byte in (b"\n", b'"', b"7", b"\xff", b""):
            if whole[at : at + 1] == byte:
                continue
            file.write_bytes(whole[:at] + byte + whole[at + 1 :])
            rows, damaged = files.read_rows(file, HEADER)
            assert all(row in ROWS for row in rows)
            assert len(rows) >= 1
            if at < len(whole) - 1:  # the end of the last line says nothing
                assert damaged


@pytest.mark.parametrize("size", [0, 10, 30, 45])
def test_a_table_that_was_cut_off_says_so(tmp_path, size):
    file = tmp_path / "t.csv"
    files.write_rows(file, HEADER, ROWS)
    file.write_bytes(file.read_bytes()[:size])
    rows, damaged = files.read_rows(file, HEADER)
    assert rows == ROWS[: len(rows)] and len(damaged) == 1


def test_a_locked_folder_is_refused_by_process_and_host(tmp_path):
    path = tmp_path / "new" / "study"
    with files.lock(path):
        with pytest.raises(files.InUseError, match=f"study is in use by process {os.getpid()} on "):
            with files.lock(path):
                raise AssertionError("two holders")
        assert files.holder(path).startswith(f"process {os.getpid()} on ")
        (path / files.HOLDER).write_text("{")
        assert files.holder(path) == "another process"
    assert files.holder(path) is None
    assert os.listdir(path) == [files.LOCK]
    with files.lock(path):
        pass


def test_a_folder_without_a_lock_is_free_and_stays_as_it_is(tmp_path):
    assert files.holder(tmp_path) is None
    assert os.listdir(tmp_path) == []


def test_an_error_in_the_block_frees_the_folder(tmp_path):
    with pytest.raises(KeyError):
        with files.lock(tmp_path):
            raise KeyError
    assert files.holder(tmp_path) is None


@pytest.mark.slow
def test_a_killed_process_frees_its_folder(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(files.InUseError, match=f"in use by process {process.pid} on .*; wait"):
            with files.lock(tmp_path):
                raise AssertionError("two holders")
        os.kill(process.pid, signal.SIGKILL)
    assert (tmp_path / files.HOLDER).is_file()  # as the killed process left it
    assert files.holder(tmp_path) is None
    with files.lock(tmp_path):
        assert files.holder(tmp_path).startswith(f"process {os.getpid()} ")


def test_asking_who_holds_a_lock_keeps_nobody_out(tmp_path):
    """A question that holds the lock for an instant is waited for."""
    (tmp_path / files.LOCK).touch()
    asked = files.filelock.FileLock(tmp_path / files.LOCK, thread_local=False)
    asked.acquire()
    timer = threading.Timer(0.2, asked.release)
    timer.start()
    begin = time.monotonic()
    with files.lock(tmp_path):
        assert 0.1 < time.monotonic() - begin < 0.9
    timer.join()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is no number of JSON"),
        ('{"a": -Infinity}', "-Infinity is no number of JSON"),
        ('{"a": 1, "a": 1}', "the field 'a' is there twice"),
        ("[" * 30 + "]" * 30, "nested more than 20 deep"),
        ("[" * 100_000 + "]" * 100_000, "nested more than 20 deep"),
        ("9" * 5000, "limit"),
    ],
)
def test_json_that_means_two_things_or_none_is_refused(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": [1, {"b": null}]}')
    assert files.read_json(tmp_path / "a.json") == {"a": [1, {"b": None}]}


def test_a_file_too_large_for_a_text_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("12345")
    monkeypatch.setattr(files, "LARGEST", 5)
    assert files.read_bytes(tmp_path / "a") == b"12345"
    monkeypatch.setattr(files, "LARGEST", 4)
    with pytest.raises(files.ForeignError, match="has 5 bytes; it must have at most 4"):
        files.read_bytes(tmp_path / "a")


def test_a_folder_may_be_a_link_and_hold_none(tmp_path):
    (tmp_path / "study" / "runs" / "a b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "study")
    for path in ("study", "link", "absent"):
        files.check_tree(tmp_path / path)
    (tmp_path / "study" / "runs" / "a b" / "up").symlink_to("..")
    for path in ("study", "link"):
        with pytest.raises(files.ForeignError, match=f"{path} holds .*a b/up', a link"):
            files.check_tree(tmp_path / path)
