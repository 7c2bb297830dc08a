"""Settings of every test: shapes checked at run time, programs compiled once for all tests."""

import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two workers share a GPU

install_import_hook("jaxsharp", "beartype.beartype")
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def double_precision():
    """Double precision for all tests of a module."""
    with jax.enable_x64(True):
        yield
