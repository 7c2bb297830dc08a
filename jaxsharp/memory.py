"""How many examples fit: the memory of a program's intermediate values, read off its equations."""

import math
from collections.abc import Callable

import jax
from jax.extend import core
from jaxtyping import PyTree

from jaxsharp.chunks import num_examples


def affordable_chunk(
    fn: Callable[[PyTree], PyTree], batch: PyTree, *, keep_bytes: int | None = None
) -> int | None:
    """Chunk size with which to stream ``fn(batch)``, or None to take all examples at once.

    The intermediate values of one chunk fill about 64 MiB on the CPU, where smaller chunks that
    stay near the caches are faster, and 1 GiB on an accelerator. None if those of all examples fit
    ``keep_bytes`` (default: what a chunk may fill). They are counted as if none were freed or
    fused, an upper bound.
    """
    chunk_bytes = 2**26 if jax.default_backend() == "cpu" else 2**30
    n = num_examples(batch)

    def count(size):
        few = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), batch)
        return intermediate_bytes(jax.make_jaxpr(fn)(few).jaxpr)

    per_example = max(1, count(2) - count(1))
    if n * per_example <= (keep_bytes or chunk_bytes):
        return None
    return max(1, min(n, chunk_bytes // per_example))


def intermediate_bytes(jaxpr: core.Jaxpr) -> int:
    """Bytes of everything that the equations of a program write, calls included."""
    total = 0
    for eqn in jaxpr.eqns:
        total += sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in eqn.outvars)
        for value in eqn.params.values():
            if isinstance(value, core.ClosedJaxpr):
                total += intermediate_bytes(value.jaxpr)
    return total
