"""Sharded parameters and data give the numbers of one device, in one process and in two."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxsharp import runs
from jaxsharp.runs import directory

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, f"tests/devices/{script}", *arguments],
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
    started = [
        start("check.py", *([address, str(i)] if processes == 2 else [])) for i in range(processes)
    ]
    for found in map(differences, started):
        assert len(found) == quantities
        assert max(found.values()) < 1e-12, found


def table(path):
    """What a run's directory says of its training and measures."""
    sharpness = runs.read_sharpness(path)["value"].to_numpy()
    return runs.read_history(path).to_numpy(), sharpness


def saved_by(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return [line for line in out.splitlines() if "seed" in line]  # Gloo writes there too


def test_a_group_on_eight_devices_is_that_on_one_in_one_process_and_in_two(tmp_path):
    """Float32, twelve steps through BatchNorm: a hundred times the rounding of a sum."""
    saved_by(start("members.py", str(tmp_path)))
    address = f"localhost:{free_port()}"
    both = [start("members.py", str(tmp_path / "two"), address, str(i)) for i in range(2)]
    first, second = map(saved_by, both)
    alone = sorted(path for path in (tmp_path / "alone").iterdir())
    assert len(alone) == 6
    layouts = ("spread", "two a member")
    names = [f"{layout}/{path.name}" for layout in layouts for path in alone]
    assert sorted(first + second) == names  # once each
    for layout in (*layouts, *(f"two/{name}" for name in layouts)):
        for path in alone:
            found, want = table(tmp_path / layout / path.name), table(path)
            np.testing.assert_allclose(found[0], want[0], rtol=1e-4, atol=1e-5, err_msg=layout)
            np.testing.assert_allclose(found[1], want[1], rtol=1e-3, atol=1e-5, err_msg=layout)
            ends = [
                directory.latest_checkpoint(p).name for p in (path, tmp_path / layout / path.name)
            ]
            assert ends[0] == ends[1]
    (first,) = (tmp_path / "first").iterdir()
    for file in ("history.csv", "sharpness.csv"):
        same = tmp_path / "spread" / first.name / file
        assert (first / file).read_bytes() == same.read_bytes()
    for path in alone:  # each device reads its own members' batches from the host
        for file in ("history.csv", "sharpness.csv"):
            found, same = (tmp_path / name / path.name / file for name in ("streamed", "spread"))
            assert found.read_bytes() == same.read_bytes()


def test_an_error_in_one_process_ends_the_other(tmp_path):
    """The first alone looks at the folder, and finds something else there."""
    (tmp_path / "notes.txt").write_text("not a study")
    study = "study --train-size 50 --batch-size 10 --epochs 1 --optimizers sgd --seeds 2"
    hosts = f"--coordinator localhost:{free_port()} --num-processes 2 --process-id"
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "jaxsharp", *f"{study} {hosts} {i} --out {tmp_path}".split()],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    texts = [process.communicate(timeout=100)[1] for process in both]
    assert f"jaxsharp: error: {tmp_path}" in texts[0] and "Traceback" not in texts[0]
    assert both[0].returncode == 2 and both[1].returncode != 0
