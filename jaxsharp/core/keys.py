"""Random keys: a stream for each purpose, so that no two draws of the library meet."""

import zlib

import jax
from jaxtyping import PRNGKeyArray

from jaxsharp.core.programs import own_settings


@own_settings()
def stream(key: PRNGKeyArray, purpose: str) -> PRNGKeyArray:
    """Return the key for one purpose: ``fold_in(key, crc32(purpose))``.

    `split(key, n)[i]` and `fold_in(key, i)` may be one key, so that two functions given the same
    key, or two parts of one function, would draw the same numbers. Each public function folds in
    its own name before it draws anything, each further part of it the part's name; no number that
    is counted to is as large as a checksum.
    """
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))
