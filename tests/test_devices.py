"""Sharded parameters and data give the numbers of one device, in one process and in two."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "tests/devices/check.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def differences(process):
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    lines = [line.split("\t") for line in out.splitlines() if "\t" in line]
    return {name: float(value) for name, value in lines}


@pytest.mark.parametrize(("processes", "quantities"), [(1, 9), (2, 4)])
def test_the_same_numbers_as_on_one_device(processes, quantities):
    """Float64; sums of a few dozen terms in another order, a dozen steps of Lanczos."""
    address = f"localhost:{free_port()}"
    started = [start(*([address, str(i)] if processes == 2 else [])) for i in range(processes)]
    for found in map(differences, started):
        assert len(found) == quantities
        assert max(found.values()) < 1e-12, found
