"""Arrays that stay on the host, of which compiled programs read a part at a time.

Where inputs are larger than a device holds, a `Streamed` takes the place of the array in a batch.
A program asks for some examples, and gets those alone (`jax.pure_callback`); with what it asks for
it says which examples are next, and a thread reads these meanwhile. The numbers are those of the
array on the device, bit for bit.

A program is compiled for a shape and a type, not for an array: which one it reads is an argument, a
number under which this module knows the array. It does not keep the array, so somebody has to.
"""

import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from weakref import WeakValueDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import PyTree

# Parts that were announced and not yet asked for, at most; readers of such.
MOST_AHEAD, READERS = 16, 4
SEVERAL = -1  # in the place of a number, where members side by side have different ones

_arrays: WeakValueDictionary[int, np.ndarray] = WeakValueDictionary()
_numbers = itertools.count()
_ahead: OrderedDict[tuple, Future] = OrderedDict()
_lock = threading.Lock()
_pool = ThreadPoolExecutor(READERS, "jaxsharp-reader")


@jax.tree_util.register_pytree_node_class
class Streamed:
    """An array of the host in the place of one on the device, with examples along the first axis.

    A pytree of one number, so that it is an argument of compiled functions like the array. Whoever
    maps a function over the arrays of a batch has to take it as a leaf (`is_streamed`, `each`).
    """

    def __init__(self, number: Any, shape: tuple[int, ...], dtype: Any):
        self.number, self.shape, self.dtype = number, shape, dtype

    def tree_flatten(self):
        """The number under which the array is known; shape and type are static."""
        return (self.number,), (self.shape, self.dtype)

    @classmethod
    def tree_unflatten(cls, static, leaves):
        """The inverse of `tree_flatten`."""
        return cls(*leaves, *static)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen) -> jax.Array:
        """The examples of an array of indices, or of a slice from the first on, on the device."""
        if isinstance(chosen, slice):
            begin, stop, step = chosen.indices(len(self))
            return self.part(begin, len(range(begin, stop, step)), step=step)
        return self.rows(chosen)

    def __jax_array__(self):
        raise ValueError(
            f"inputs of shape {self.shape} do not fit the device and are streamed; they are not "
            "there all at once, but in core.mean_over_chunks(fn, batch, chunk_size)"
        )

    def rows(self, indices: Any, then: Any = None) -> jax.Array:
        """The examples of some indices, from 0 on; ``then`` are those asked for next, -1: none."""
        indices = jnp.asarray(indices, jnp.int32)
        then = jnp.full_like(indices, -1) if then is None else jnp.asarray(then, jnp.int32)

        @custom_vmap
        def ask(number, indices, then):
            return self._asked(_rows, indices.shape, number, jnp.stack([indices, then]))

        @ask.def_vmap
        def side_by_side(size, batched, number, indices, then):
            _, many, announced = batched
            if many and not announced:
                then = jnp.broadcast_to(then, (size, *then.shape))
            elif announced and not many:
                then = then[0]
            return ask(number, indices, then), many

        return ask(self.number, indices, then)

    def part(self, begin: Any, size: int, *, step: int = 1, then: Any = -1) -> jax.Array:
        """``size`` examples, every ``step``-th from ``begin`` on.

        ``then`` is where the part begins that is asked for next, -1: none. Members that are side by
        side have the part once, where all ask for the same.
        """
        place = jnp.stack([jnp.asarray(x, jnp.int32) for x in (begin, step, size, then)])

        @custom_vmap
        def ask(number, place):
            return self._asked(_part, (size,), number, place)

        @ask.def_vmap
        def side_by_side(_, batched, number, place):
            if not batched[1]:
                return ask(number, place), False
            indices = place[:, :1] + place[:, 1:2] * jnp.arange(size)
            return Streamed(number, self.shape, self.dtype).rows(indices), True

        return ask(self.number, place)

    def _asked(self, read: Callable, lengths: tuple[int, ...], number, where) -> jax.Array:
        """What ``read`` finds; of one argument, as each is a transfer that is waited for."""
        lowest, highest = jnp.min(number), jnp.max(number)
        one = jnp.where(lowest == highest, lowest, SEVERAL).astype(jnp.int32)
        shape = jax.ShapeDtypeStruct((math.prod(lengths), *self.shape[1:]), self.dtype)
        found = jax.pure_callback(read, shape, jnp.append(one, where))
        return found.reshape(*lengths, *self.shape[1:])


Inputs = jax.Array | np.ndarray | Streamed


def streamed(array: np.ndarray) -> Streamed:
    """Stand in for an array of the host, which the caller keeps for as long as it may be read.

    Raises ValueError for what has no examples, or a type that devices do not have.
    """
    if array.ndim == 0 or array.size == 0:
        raise ValueError(
            f"an array of shape {array.shape} cannot be streamed; it must have at least one example"
        )
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(
            f"an array of {array.dtype} cannot be streamed; its type must be one of 32 bits or less"
        )
    try:
        jax.local_devices(backend="cpu")
    except RuntimeError:
        raise ValueError(
            "inputs that do not fit the device are streamed by way of JAX's CPU backend, which is "
            "switched off; add cpu to JAX_PLATFORMS, as in cuda,cpu"
        ) from None
    number = next(_numbers)
    _arrays[number] = array
    return Streamed(np.int32(number), array.shape, array.dtype)


def is_streamed(leaf: Any) -> bool:
    """Whether a leaf of a batch is on the host."""
    return isinstance(leaf, Streamed)


def streams(batch: PyTree) -> bool:
    """Whether any array of a batch is on the host."""
    return any(map(is_streamed, leaves(batch)))


def each(fn: Callable, batch: PyTree) -> PyTree:
    """``fn`` of every array of a batch, those on the host among them."""
    return jax.tree.map(fn, batch, is_leaf=is_streamed)


def leaves(batch: PyTree) -> list:
    """The arrays of a batch, those on the host among them."""
    return jax.tree.leaves(batch, is_leaf=is_streamed)


def rows(batch: PyTree, indices: Any, then: Any = None) -> PyTree:
    """The examples of some indices, on the device; ``then`` as in `Streamed.rows`."""
    return each(
        lambda x: x.rows(indices, then) if is_streamed(x) else jnp.asarray(x)[indices], batch
    )


def first(batch: PyTree, size: int | None) -> PyTree:
    """The first examples of a batch (None: all); what is on the host stays there."""

    def cut(x):
        if not is_streamed(x):
            return x[:size]
        count = len(x) if size is None else min(size, len(x))
        return Streamed(x.number, (count, *x.shape[1:]), x.dtype)

    return each(cut, batch)


def whole(batch: PyTree) -> PyTree:
    """All of a batch on the device; the batch itself where nothing is streamed."""
    return each(lambda x: x[:] if is_streamed(x) else x, batch) if streams(batch) else batch


def shapes(batch: PyTree) -> PyTree:
    """Shape and type in the place of what is on the host, with which to trace a function."""
    return each(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if is_streamed(x) else x, batch)


def following(batches: jax.Array) -> jax.Array:
    """For each row of indices those of the next, and -1 for the last."""
    return jnp.concatenate([batches[1:], jnp.full_like(batches[:1], -1)])


def _rows(asked) -> np.ndarray:
    """Examples by index."""
    asked = np.asarray(asked)
    indices, then = asked[1:].reshape(2, -1)
    if indices.size and indices.min() < 0:
        raise IndexError(f"index {indices.min()} of examples that are streamed; they are from 0 on")
    return _read(int(asked[0]), indices, then if then.size and then.min() >= 0 else None)


def _part(asked) -> np.ndarray:
    """Examples in regular distances."""
    number, begin, step, size, then = np.asarray(asked).tolist()
    now, after = (slice(at, at + step * size, step) for at in (begin, then))
    return _read(number, now, after if then >= 0 else None)


def _read(number, now, then) -> np.ndarray:
    """What is asked for now, read ahead or read here; a thread begins with what is next."""
    if number == SEVERAL:
        raise RuntimeError("several arrays are streamed side by side; members must share one")
    array = _arrays.get(number)
    if array is None:
        raise RuntimeError("an array that is streamed is gone; keep it while it is read")
    with _lock:
        begun = _ahead.pop(_key(number, now), None)
    # One that no thread has begun with is read here: there may be no core for that thread.
    found = _copy(array, now) if begun is None or begun.cancel() else begun.result()
    if then is not None:
        with _lock:
            _ahead[_key(number, then)] = _pool.submit(_copy, array, then)
            while len(_ahead) > MOST_AHEAD:
                _ahead.popitem(last=False)[1].cancel()
    return found


def _key(number: int, chosen: slice | np.ndarray) -> tuple:
    """What is asked for, to find it again."""
    if isinstance(chosen, slice):
        return number, chosen.start, chosen.stop, chosen.step
    return number, chosen.tobytes()


def _copy(array: np.ndarray, chosen: slice | np.ndarray) -> np.ndarray:
    """What is asked for, in memory and in C's order."""
    if not isinstance(chosen, slice):
        return np.take(np.asarray(array), chosen, axis=0)
    if not array.flags.c_contiguous:
        return np.array(array[chosen], order="C", subok=False)
    flat = np.asarray(array).reshape(len(array), -1)[chosen]  # copied row by row, as is quick
    return np.array(flat).reshape(-1, *array.shape[1:])
