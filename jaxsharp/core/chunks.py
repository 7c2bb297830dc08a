"""Means over a data set in chunks of examples; the only place that knows about remainders."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxsharp.core.streaming import each, is_streamed, shapes, streams, whole
from jaxsharp.core.trees import check_numbers, widen


def mean_over_chunks(
    fn: Callable[[PyTree], PyTree], batch: PyTree, chunk_size: int | None = None
) -> PyTree:
    """Return the mean over all examples of what `fn` averages over a chunk of them.

        mean = sum_c (n_c / n) fn(chunk_c),    sum_c n_c = n

    `batch` is a pytree of arrays with the same leading axis n; `fn(chunk)` returns a pytree of
    means over the chunk's examples. The n // chunk_size full chunks go through one `lax.scan`, a
    shorter rest through one more call, weighted by its number of examples. The sum is kept in at
    least float32, the result in the dtype that `fn` returns. With chunk_size None, or at least n,
    `fn` is called once.

    Cost: one pass over the data; memory of one chunk, twice the result. Differentiating through it
    keeps the intermediate values of every chunk: to stream a derivative, let `fn` return it.
    Works inside jit, vmap and any derivative. Called outside jit, the loop is compiled and the call
    for the rest runs operation by operation.

    Raises ValueError, before tracing, for a chunk_size below 1, no data, arrays that disagree on n;
    while tracing, for results that are not floating point or whose shape depends on the chunk.
    """
    n = num_examples(batch, chunk_size)
    if chunk_size is None or chunk_size >= n:
        return fn(whole(batch))
    num_full, num_rest = divmod(n, chunk_size)

    def add_chunk(total, index):
        part = fn(_chunk(batch, index, chunk_size))
        return jax.tree.map(jnp.add, total, part), None

    like = jax.eval_shape(fn, jax.eval_shape(lambda: _chunk(batch, 0, chunk_size)))
    _check_floating(like)
    zeros = widen(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like))
    total, _ = jax.lax.scan(add_chunk, zeros, jnp.arange(num_full))
    mean = jax.tree.map(lambda leaf: leaf * (chunk_size / n), total)
    if num_rest:
        rest = fn(each(lambda leaf: leaf[num_full * chunk_size :], batch))
        _check_same_shapes(mean, rest)
        mean = jax.tree.map(lambda leaf, part: leaf + part * (num_rest / n), mean, widen(rest))
    return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), mean, like)


def map_examples(fn: Callable[[PyTree], PyTree], batch: PyTree, size: int | None) -> PyTree:
    """Return `fn(example)` for every example, stacked, `size` at a time (None: all)."""
    n = num_examples(batch)
    if size is None or size >= n:
        return jax.vmap(fn)(whole(batch))
    if not streams(batch):
        return jax.lax.map(fn, batch, batch_size=size)
    num_full = n // size

    def of_block(index):
        return jax.vmap(fn)(each(lambda leaf: _neighbours(leaf, index, size), batch))

    found = jax.lax.map(of_block, jnp.arange(num_full))
    found = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)
    if n % size == 0:
        return found
    rest = jax.vmap(fn)(each(lambda leaf: leaf[num_full * size :], batch))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), found, rest)


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
    the device works on the last, and no more than two are on the device at a time. Sums are kept in
    at least float32, the result in the dtype that `fn` returns.
    Raises ValueError for a pass without examples.
    """
    total, n, last = None, 0, None
    for batch in batches.start():
        size = num_examples(batch)
        found = fn(batch)
        part = jax.tree.map(lambda leaf, size=size: leaf * size, widen(found))
        jax.block_until_ready(last)
        total = part if total is None else jax.tree.map(jnp.add, total, part)
        n, last = n + size, part
    if n == 0:
        raise ValueError(
            "batches gave no examples; start() must return a new iterable for every pass, not "
            "an iterator that is used up"
        )
    _check_floating(found)
    return jax.tree.map(lambda leaf, like: (leaf / n).astype(like.dtype), total, found)


def check_data(batch: PyTree | Batches) -> None:
    """Raise ValueError for data that are no arrays: loaders, tensors of other libraries, texts."""
    if not isinstance(batch, Batches):
        advice = (
            "give NumPy or JAX arrays (of a tensor, tensor.numpy()), or what gives batches of them "
            "one by one as core.Batches(lambda: loader)"
        )
        check_numbers(batch, "batch", advice)


def check_pair(batch: PyTree) -> None:
    """Raise ValueError unless data are two arrays, (inputs, targets), of as many examples."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        many = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise ValueError(
            f"batch is {type(batch).__name__}{many}; a measure takes all data at once, arrays "
            "(images, labels), of which chunk_size examples are on the way at a time"
        )
    check_data(batch)
    num_examples(batch)


def numbered(batch: PyTree | Batches) -> PyTree | Batches:
    """Return the data as pairs of the examples and their places in the whole, 0 to n - 1."""
    if not isinstance(batch, Batches):
        return batch, jnp.arange(num_examples(batch))

    def start():
        first = 0
        for part in batch.start():
            size = num_examples(part)
            yield part, jnp.arange(first, first + size)
            first += size

    return Batches(start)


def weighted(
    batch: PyTree | Batches, weights: Callable[[PyTree], jax.Array]
) -> tuple[PyTree, jax.Array] | Batches:
    """Return the data as pairs of the examples and their weights, of mean 1 over all data.

    `weights(batch)` returns one number for each example of a batch, none negative, not all zero.
    For `Batches` one pass over the data finds their mean. Traced weights that are not so become
    NaN. Raises ValueError for other shapes, and for weights of wrong sign where they are known.
    """

    def of(part):
        found, n = widen(weights(part)), num_examples(part)
        if found.shape != (n,):
            raise ValueError(f"weights have shape {found.shape}; it must be ({n},), one an example")
        good = (found >= 0) & (found < jnp.inf)
        if not isinstance(good, jax.core.Tracer) and not good.all():
            raise ValueError(f"weights hold {found[~good][0]}; they must be finite, not negative")
        return jnp.where(good, found, jnp.nan)

    streamed = isinstance(batch, Batches)
    mean = mean_over_batches(lambda b: jnp.mean(of(b)), batch) if streamed else jnp.mean(of(batch))
    if not isinstance(mean, jax.core.Tracer) and not mean > 0:
        raise ValueError("weights are all zero; some example must count")
    if streamed:
        return Batches(lambda: ((part, of(part) / mean) for part in batch.start()))
    return batch, of(batch) / mean


def weighted_loss(losses: Callable) -> Callable:
    """Return the mean of weights times losses of single examples, of pairs of both."""

    def loss(first, data):
        batch, weights = data
        found = losses(first, batch)
        if jnp.shape(found) != weights.shape:
            raise ValueError(
                f"loss returned shape {jnp.shape(found)}; with weights it must return one number "
                f"for each example, {weights.shape}"
            )
        return jnp.mean(weights * widen(found))

    return loss


def num_examples(batch: PyTree, chunk_size: int | None = None) -> int:
    """Return the common length n of the leading axes of `batch`.

    Raises ValueError where `batch` cannot be cut into chunks of `chunk_size` examples.
    """
    found = [jnp.shape(leaf) for leaf in jax.tree.leaves(shapes(batch))]
    lengths = sorted({shape[0] for shape in found if shape})
    if any(not shape for shape in found):
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
        count, rest = divmod(len(leaf), size)
        if rest:
            return _neighbours(leaf, index, size)
        if is_streamed(leaf):
            then = jnp.where(index + 1 < count, index + 1, -1)
            return leaf.part(index, size, step=count, then=then)
        return jnp.asarray(leaf).reshape(size, -1, *leaf.shape[1:])[:, index]

    return each(part, batch)


def _neighbours(leaf, index, size):
    """Return `size` examples in their order, the next of which are announced."""
    if is_streamed(leaf):
        then = jnp.where(index + 2 <= len(leaf) // size, (index + 1) * size, -1)
        return leaf.part(index * size, size, then=then)
    return jax.lax.dynamic_slice_in_dim(leaf, index * size, size)


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
