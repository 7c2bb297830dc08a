"""Double precision for every test of a module that imports the fixture."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield
