"""Settings of every test: shapes checked at run time, programs compiled once for all tests."""

import gc
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path

# Where Python is told to write no bytecode, each process that tests start compiles the sources of
# all that it imports, which takes longer than most of them run.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": sys.pycache_prefix}

# For the processes that tests start too, and so before JAX is imported. Most programs run for
# milliseconds: to compile them is what takes time. Half of that went into fusions through MLIR, and
# a part into splitting each program for threads that no core is free for. XLA ends the process at a
# flag that it does not know, as it does of those fusions since jaxlib 0.11.
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parents[1] / ".pytest_cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    " --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false"
    * version("jaxlib").startswith("0.10."),
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # two workers share a GPU
}

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("jaxsharp", "beartype.beartype")

# Tracing makes objects by the thousand, and each collection looks for arrays of JAX besides: a
# quarter of the time of a trace.
gc.freeze()
gc.set_threshold(50_000, 20, 20)

# Whoever starts the tests may ignore signals, as nohup and shells in the background do.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that no worker is alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


# Each compiled program holds a few memory maps, of which Linux gives a process 65,530; XLA crashes
# where there are no more. A worker that runs a third of the tests comes near that.
MOST_MAPS = 20_000
MAPS = Path("/proc/self/maps")


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forget compiled programs after a module that left too many; most are in the cache."""
    yield
    if MAPS.exists() and len(MAPS.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()


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
