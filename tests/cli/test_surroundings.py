"""Commands where something of the machine is not there, and what errors become."""

import os
import subprocess
import sys

import jax
import pytest

from jaxsharp.cli import commands
from jaxsharp.cli.commands import use_compilation_cache


@pytest.mark.slow
def test_the_installed_command_runs():
    command = [sys.executable, "-m", "jaxsharp", "study", "--optimizers", "nadam"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("jaxsharp: error: unknown optimizer 'nadam'")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "nowhere"])
def test_a_platform_that_is_not_there_is_one_line(platform, tmp_path):
    command = [sys.executable, "-m", "jaxsharp", "train", "--epochs", "1"]
    environment = {**os.environ, "JAX_PLATFORMS": platform, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    line = f"jaxsharp: error: JAX finds no device for JAX_PLATFORMS={platform}"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, line)
    assert len(done.stderr.splitlines()) <= 2


def test_without_a_home_nothing_is_kept(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    use_compilation_cache()
    found = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", before)
    assert found is None


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\nb"), "a b"),
        (MemoryError("12 GiB"), "a number is too large for this machine: 12 GiB"),
        (OverflowError("int"), "a number is too large for this machine: int"),
        (AssertionError("ours"), None),
        (KeyError("ours"), None),
    ],
)
def test_errors_of_the_input_are_one_line_and_those_of_the_program_are_not_hidden(error, line):
    assert commands.in_one_line(error) == line
