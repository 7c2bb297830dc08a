"""Means over a data set in chunks of examples; the only place that knows about remainders."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def mean_over_chunks(
    fn: Callable[[PyTree], PyTree], batch: PyTree, chunk_size: int | None = None
) -> PyTree:
    """Return the mean over all examples of what `fn` averages over a chunk of them.

        mean = sum_c (n_c / n) fn(chunk_c),    sum_c n_c = n

    `batch` is a pytree of arrays with the same leading axis n; `fn(chunk)` returns a pytree of
    means over the chunk's examples. The n // chunk_size full chunks go through one `lax.scan`, a
    shorter rest through one more call, weighted by its number of examples. The sum is kept in the
    dtype that `fn` returns. With chunk_size None, or at least n, `fn` is called once.

    Cost: one pass over the data; memory of one chunk, twice the result. Differentiating through it
    keeps the intermediate values of every chunk: to stream a derivative, let `fn` return it.
    Works inside jit, vmap and any derivative. Called outside jit, the loop is compiled and the call
    for the rest runs operation by operation.

    Raises ValueError, before tracing, for a chunk_size below 1, no data, arrays that disagree on n;
    while tracing, for results that are not floating point or whose shape depends on the chunk.
    """
    n = num_examples(batch, chunk_size)
    if chunk_size is None or chunk_size >= n:
        return fn(batch)
    num_full, num_rest = divmod(n, chunk_size)

    def add_chunk(total, index):
        part = fn(_chunk(batch, index, chunk_size))
        return jax.tree.map(jnp.add, total, part), None

    shapes = jax.eval_shape(fn, jax.eval_shape(lambda: _chunk(batch, 0, chunk_size)))
    _check_floating(shapes)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add_chunk, zeros, jnp.arange(num_full))
    mean = jax.tree.map(lambda leaf: leaf * (chunk_size / n), total)
    if num_rest == 0:
        return mean
    rest = fn(jax.tree.map(lambda leaf: leaf[num_full * chunk_size :], batch))
    _check_same_shapes(mean, rest)
    return jax.tree.map(lambda leaf, part: leaf + part * (num_rest / n), mean, rest)


@dataclass(frozen=True)
class Batches:
    """A data set that does not fit the device: each call of `start` begins a pass over batches.

    `start()` returns an iterable of batches, pytrees of arrays with a common leading axis over
    examples; the batches may differ in length. Every pass must give the same examples.
    """

    start: Callable[[], Iterable[PyTree]]


def mean_over_batches(fn: Callable[[PyTree], PyTree], batches: Batches) -> PyTree:
    """Return the mean over all examples of what `fn` averages over a batch of them.

        mean = sum_b (n_b / n) fn(batch_b),    n = sum_b n_b

    A Python loop, to be called outside jit; `fn` should be compiled. The next batch is read while
    the device works on the last, and no more than two are on the device at a time.
    Raises ValueError for a pass without examples.
    """
    total, n, last = None, 0, None
    for batch in batches.start():
        size = num_examples(batch)
        part = jax.tree.map(lambda leaf, size=size: leaf * size, fn(batch))
        jax.block_until_ready(last)
        total = part if total is None else jax.tree.map(jnp.add, total, part)
        n, last = n + size, part
    if n == 0:
        raise ValueError(
            "batches gave no examples; start() must return a new iterable for every pass, not "
            "an iterator that is used up"
        )
    return jax.tree.map(lambda leaf: leaf / n, total)


def num_examples(batch: PyTree, chunk_size: int | None = None) -> int:
    """Return the common length n of the leading axes of `batch`.

    Raises ValueError where `batch` cannot be cut into chunks of `chunk_size` examples.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    lengths = sorted({shape[0] for shape in shapes if shape})
    if any(not shape for shape in shapes):
        raise ValueError("batch holds a scalar; every array needs a leading axis over examples")
    if len(lengths) > 1:
        raise ValueError(f"batch has leading axes of lengths {lengths}; they must be equal")
    if lengths in ([], [0]):
        raise ValueError("batch is empty; a mean needs at least one example")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; it must be at least 1, or None")
    return lengths[0]


def _chunk(batch, index, size):
    """Return a chunk of `size` examples.

    Where chunks are equal each takes every n/size-th example: if devices share the examples, they
    share each chunk. Otherwise they are neighbours, as the rest would have to be copied off first.
    """

    def part(leaf):
        if len(leaf) % size == 0:
            return leaf.reshape(size, -1, *leaf.shape[1:])[:, index]
        return jax.lax.dynamic_slice_in_dim(leaf, index * size, size)

    return jax.tree.map(part, batch)


def _check_floating(shapes):
    for leaf in jax.tree.leaves(shapes):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise ValueError(f"fn returned {leaf.dtype}; a mean over examples is floating point")


def _check_same_shapes(mean, rest):
    for full, part in zip(jax.tree.leaves(mean), jax.tree.leaves(rest), strict=True):
        if full.shape != jnp.shape(part):
            raise ValueError(
                f"fn returned shape {full.shape} for a full chunk and {jnp.shape(part)} for the "
                "rest; it must return means over the examples of its chunk"
            )
