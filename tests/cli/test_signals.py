"""Signals from the first moment on, pipes that nobody reads, and text that cannot be written."""

import codecs
import contextlib
import io
import os
import signal
import subprocess
import sys
import time

import pytest

from jaxsharp import cli
from jaxsharp.cli import commands, output, signals
from jaxsharp.studies import interrupts
from jaxsharp.training import members

GO_ON = "jaxsharp: interrupted; the same command continues\n"
LIST = [sys.executable, "-m", "jaxsharp", "list"]


def run(*command, **environment):
    return subprocess.run(
        command, capture_output=True, check=False, env={**os.environ, **environment}, timeout=120
    )


@pytest.mark.slow
def test_a_late_signal_leaves_the_end_of_the_process_in_peace():
    late = "atexit.register(os.kill, os.getpid(), signal.SIGTERM)"  # runs after what comes later
    program = f"import atexit, os, signal; {late}; from jaxsharp.cli import main; main(['list'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_line_and_the_library_hear_the_same_signals():
    assert signals.ENDING == interrupts.SIGNALS == (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.slow
@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_while_modules_are_imported_ends_in_one_line(number):
    process = subprocess.Popen(LIST, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    handled = f"/proc/{process.pid}/status"
    while True:  # until the process handles the signal
        with open(handled) as status:
            caught = next(line for line in status if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            break
        time.sleep(0.001)
    time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", GO_ON)


def test_signals_are_handled_before_anything_else_is_imported():
    """Until then Python alone is there, which prints a traceback of the imports."""
    program = "import os, signal, sys; before = set(sys.modules); from jaxsharp.cli import main;"
    program += "print(sorted(set(sys.modules) - before))"
    done = run(sys.executable, "-c", program)
    modules = ["jaxsharp", "jaxsharp.cli", "jaxsharp.cli.signals"]
    assert (done.returncode, done.stdout.decode().strip()) == (0, str(modules))


@pytest.mark.slow
def test_a_signal_that_the_caller_ignores_stays_ignored():
    program = """
import os, signal
from jaxsharp.cli import signals
from jaxsharp.studies.interrupts import deferred
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signals.handle()
os.kill(os.getpid(), signal.SIGHUP)
with deferred() as requested:
    os.kill(os.getpid(), signal.SIGHUP)
    print(requested())
"""
    done = run(sys.executable, "-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"False\n", b"")


@pytest.fixture
def heard():
    """Signals that arrive outside of all blocks."""
    numbers = []
    before = {n: signal.signal(n, lambda n, _: numbers.append(n)) for n in interrupts.SIGNALS}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_that_a_block_did_not_ask_for_reaches_what_is_around_it(number, heard, capsys):
    with interrupts.deferred() as outer:
        with interrupts.deferred() as inner:
            os.kill(os.getpid(), number)
            assert inner() and not outer()
        assert outer() and heard == []
    assert heard == [number]
    assert capsys.readouterr().err.count("finishing") == 1


def test_the_second_signal_in_a_block_within_another_does_what_it_would_do_outside(heard):
    with pytest.raises(KeyboardInterrupt), interrupts.deferred(), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_a_signal_at_the_very_end_of_a_block_is_not_lost():
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_a_closed_pipe_saves_and_ends_without_a_word(tmp_path):
    study = "study --optimizers sgd --sam none --seeds 1 --epochs 1000000 --loss-below None"
    study += f" --train-size 200 --measures top_eigenvalue --out {tmp_path / 'out'}"
    command = [sys.executable, "-m", "jaxsharp", *study.split()]
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=unbuffered, **pipes) as process:
        while b"epoch" not in process.stdout.readline():
            assert process.poll() is None
        process.stdout.close()
        assert process.wait(timeout=120) == signals.CLOSED_PIPE
        assert process.stderr.read() == b""
    assert list(tmp_path.glob("out/runs/*/checkpoints/epoch_*"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_output_encoding_will_do(encoding, tmp_path, monkeypatch):
    for name in ("handle", "ignore"):
        monkeypatch.setattr(signals, name, lambda: None)
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(members, "cores_as_devices", lambda: None)
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/[b]x[/b] \xff \xc2\xb1")
    for command, name in ((["status", odd], "stderr"), (["list"], "stdout")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, name, stream)
        with contextlib.suppress(SystemExit):
            cli.main(command)
        stream.flush()
        written = stream.buffer.getvalue()
        assert (b"[b]x[/b]" if name == "stderr" else b"adashift") in written


def test_brackets_in_text_are_text(capsys):
    console = output.make_console()
    for text in ("x[red]y[/red]", "a[/b]", ":smile:", "[link=x]"):
        console.print(text)
        assert capsys.readouterr().out.rstrip() == text


def test_what_an_encoding_lacks_has_a_plain_form():
    codecs.register_error("jaxsharp", output.degraded)
    assert "1 ± 2 …".encode("ascii", "jaxsharp") == b"1 +- 2 ..."
    assert "é\udcff".encode("ascii", "jaxsharp") == rb"\xe9\udcff"
    assert "é\udcff".encode("utf-8", "jaxsharp") == b"\xc3\xa9\\udcff"
