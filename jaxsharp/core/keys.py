"""Random keys: a stream for each purpose, so that no two draws of the library meet."""

import zlib
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxsharp.core.choices import shown
from jaxsharp.core.programs import own_settings


@own_settings()
def stream(key: PRNGKeyArray | Any, purpose: str) -> PRNGKeyArray:
    """Return the key for one purpose: ``fold_in(key, crc32(purpose))``.

    `split(key, n)[i]` and `fold_in(key, i)` may be one key, so that two functions given the same
    key, or two parts of one function, would draw the same numbers. Each public function folds in
    its own name before it draws anything, each further part of it the part's name; no number that
    is counted to is as large as a checksum. Raises ValueError for what is not one random key, as a
    number to seed one, or several.
    """
    check_key(key)
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))


def check_key(key: Any) -> None:
    """Raise ValueError for what is not one random key, typed or as JAX's older raw ones are."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    raw = dtype == np.uint32 and shape in ((2,), (4,))
    if raw or (typed and shape == ()):
        return
    given = shown(key) if shape is None else f"of shape {shape} and type {dtype}"
    raise ValueError(f"key is {given}; it must be one random key, as of jax.random.key(0)")
