"""What a program may take of a device's memory, and how many examples at a time fit into that."""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import jax
from jax.extend import core
from jaxtyping import PyTree

from jaxsharp.core.chunks import map_examples, num_examples
from jaxsharp.core.programs import subprograms
from jaxsharp.core.streaming import each, leaves, streamed
from jaxsharp.core.trees import abstract

# Intermediate values of one chunk. On the CPU small chunks stay near the caches and are faster.
CHUNK_BYTES = {"cpu": 2**26, "other": 2**30}
# Parts of a device's memory: for chunks at most, for what is kept, for vectors like the parameters,
# for the inputs of a data set.
CHUNK_SHARE, KEPT_SHARE, STATE_SHARE, DATA_SHARE = 1 / 16, 1 / 4, 1 / 4, 3 / 8
# So many examples are not worked on at once by a function that takes a few at a time.
MANY = 512


@dataclass(frozen=True)
class Budget:
    """Bytes of a device's memory for what a call adds to its arguments and results.

    Static, and so a part of the identity of every program that is compiled for it.
    """

    chunk_bytes: int
    """Intermediate values of the examples that are worked on at a time."""
    kept_bytes: int
    """Values of all examples that are kept from one product to the next."""
    state_bytes: int
    """Vectors like the parameters: states of training, Lanczos' basis. Bounds a program's width."""
    vmapped: bool
    """Whether what a device does many times it does side by side, or else one after the other."""
    data_bytes: int | None = None
    """Inputs that the device holds; of more, those are streamed from the host. None: holds all."""

    @property
    def total(self) -> int:
        """All of it, the inputs apart."""
        return self.chunk_bytes + self.kept_bytes + self.state_bytes

    def divided(self, sharers: int) -> "Budget":
        """Return the share of one of `sharers` calls that are vmapped; ValueError for none."""
        if sharers < 1:
            raise ValueError(f"sharers is {sharers}; it must be at least 1")
        names = ("chunk_bytes", "kept_bytes", "state_bytes")
        return replace(self, **{name: getattr(self, name) // sharers for name in names})


def budget() -> Budget:
    """Return the budget of a call that has a device to itself.

    Of the device's memory a quarter for what is kept, a quarter for vectors like the parameters,
    and a sixteenth for a chunk, but no more than 64 MiB on the CPU and 1 GiB on an accelerator; of
    the latter's memory three eighths for inputs.
    """
    platform = "cpu" if jax.default_backend() == "cpu" else "other"
    memory = device_bytes()
    chunk_bytes = min(CHUNK_BYTES[platform], int(CHUNK_SHARE * memory))
    kept_bytes, state_bytes = int(KEPT_SHARE * memory), int(STATE_SHARE * memory)
    vmapped, data_bytes = platform != "cpu", int(DATA_SHARE * memory)
    parts = chunk_bytes, kept_bytes, state_bytes, vmapped
    return Budget(*parts, data_bytes=data_bytes if vmapped else None)


def held(inputs: PyTree, memory: Budget) -> PyTree:
    """Return arrays of the host, or what streams them where a device does not hold them all."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(inputs))
    fit = memory.data_bytes is None or size <= memory.data_bytes
    return inputs if fit else jax.tree.map(streamed, inputs)


def affordable_chunk(fn: Callable[[PyTree], PyTree], batch: PyTree, memory: Budget) -> int | None:
    """Chunk size with which to stream `fn(batch)`, or None to take all examples at once.

    The intermediate values of one chunk, counted as if none were freed or fused (an upper bound),
    fill at most `memory.chunk_bytes`, and so do its examples; one is taken in any case. Chunks are
    equal, if smaller by up to half, as a rest would be compiled apart; where the number of examples
    has no such divisor, as equal as can be.
    """
    n = num_examples(batch)
    per_example = bytes_per_example(
        lambda few: intermediate_bytes(jax.make_jaxpr(fn)(few).jaxpr), batch
    )
    own = sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in leaves(batch))
    most = max(1, memory.chunk_bytes // max(per_example, own))
    if most >= n:
        return None
    divisors = (size for size in range(most, most // 2, -1) if n % size == 0)
    return next(divisors, -(-n // -(-n // most)))


def map_few(fn: Callable[[PyTree], PyTree], batch: PyTree, memory: Budget) -> PyTree:
    """Return `fn(example)` for every example, stacked, as many at a time as `memory` allows."""
    return map_examples(fn, batch, affordable_chunk(jax.vmap(fn), batch, memory))


def device_bytes() -> int:
    """Return the memory of a device; an equal part of the host's where the device does not say."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or host_bytes() // jax.local_device_count()


def host_bytes(root: Path = Path("/")) -> int:
    """Return the memory of the host, or what a container or batch job leaves of it."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_limits_of_groups(root)])


def _limits_of_groups(root: Path) -> Iterator[int]:
    """Yield what the control groups of this process, in version 1 or 2, say of memory (Linux)."""
    listed, mount = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    for line in listed.read_text().splitlines() if listed.exists() else ():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            place, name = mount, "memory.max"
        elif "memory" in controllers.split(","):
            place, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        innermost = place / group.strip("/")
        for file in (folder / name for folder in (innermost, *innermost.parents)):
            said = file.read_text().strip() if file.exists() else "max"
            if said.isdecimal():
                yield int(said)


def bytes_per_example(count: Callable[[PyTree], int], batch: PyTree) -> int:
    """Return how much `count(examples)` grows with each, from shapes of many (see `tiles`)."""

    def count_for(size):
        return count(each(lambda a: abstract(a, (size, *a.shape[1:])), batch))

    return max(1, (count_for(2 * MANY) - count_for(MANY)) // MANY)


def intermediate_bytes(jaxpr: core.Jaxpr) -> int:
    """Bytes of everything that the equations of a program write, calls included."""
    written = [variable.aval for equation in jaxpr.eqns for variable in equation.outvars]
    total = sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in written)
    return total + sum(intermediate_bytes(inner.jaxpr) for inner in subprograms(jaxpr))
