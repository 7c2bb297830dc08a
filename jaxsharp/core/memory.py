"""How many examples fit: the memory of a program's intermediate values, read off its equations."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
from jax.extend import core
from jaxtyping import PyTree

from jaxsharp.core.chunks import num_examples
from jaxsharp.core.programs import subprograms

# Intermediate values of one chunk. On the CPU small chunks stay near the caches and are faster.
CHUNK_BYTES = {"cpu": 2**26, "other": 2**30}
# Part of the device's memory that values may fill which are kept from one product to the next.
KEPT_SHARE = 0.25
# So many examples are not worked on at once by a function that takes a few at a time.
MANY = 512
_SHARERS = ContextVar("sharers", default=1)


@contextmanager
def shared_by(calls: int) -> Iterator[None]:
    """Let functions that are traced in the block choose chunks for so many calls under vmap."""
    token = _SHARERS.set(calls)
    try:
        yield
    finally:
        _SHARERS.reset(token)


def affordable_chunk(fn: Callable[[PyTree], PyTree], batch: PyTree) -> int | None:
    """Chunk size with which to stream `fn(batch)`, or None to take all examples at once.

    The intermediate values of one chunk, counted as if none were freed or fused (an upper bound),
    fill at most 64 MiB on the CPU and 1 GiB on an accelerator, those of all calls together inside
    of `shared_by`. Chunks are equal, if smaller by up to half, as a rest would be compiled apart;
    where the number of examples has no such divisor, as equal as can be.
    """
    platform = "cpu" if jax.default_backend() == "cpu" else "other"
    n = num_examples(batch)
    per_example = bytes_per_example(
        lambda few: intermediate_bytes(jax.make_jaxpr(fn)(few).jaxpr), batch
    )
    most = max(1, CHUNK_BYTES[platform] // _SHARERS.get() // per_example)
    if most >= n:
        return None
    divisors = (size for size in range(most, most // 2, -1) if n % size == 0)
    return next(divisors, -(-n // -(-n // most)))


def can_keep(num_bytes: int) -> bool:
    """Return whether a quarter of the memory of the default device holds so many bytes."""
    return num_bytes <= KEPT_SHARE * device_bytes()


def device_bytes() -> int:
    """Return the memory of a device, that of the host where the device does not say."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def bytes_per_example(count: Callable[[PyTree], int], batch: PyTree) -> int:
    """Return how much `count(examples)` grows with each, from shapes of many (see `tiles`)."""

    def count_for(size):
        return count(
            jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), batch)
        )

    return max(1, (count_for(2 * MANY) - count_for(MANY)) // MANY)


def intermediate_bytes(jaxpr: core.Jaxpr) -> int:
    """Bytes of everything that the equations of a program write, calls included."""
    written = [variable.aval for equation in jaxpr.eqns for variable in equation.outvars]
    total = sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in written)
    return total + sum(intermediate_bytes(inner.jaxpr) for inner in subprograms(jaxpr))
