"""The few pytree vector operations that `optax.tree` lacks; a pytree counts as one long vector."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Inexact, Key, PyTree, ScalarLike, UInt32

Vector = PyTree[Inexact[Array, "..."]]

NUMBERS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct, bool, int, float, complex)
# What is to be done with a module that is given as parameters.
PARTITION = (
    "of a module take the arrays, params, static = equinox.partition(module, "
    "equinox.is_inexact_array)"
)
# Copying arrays of at most so many entries costs little.
PACKED_SIZE = 2**20


def widen(tree: PyTree) -> PyTree:
    """Return the tree with bfloat16 and float16 leaves as float32, wider leaves unchanged.

    Integers too become float32.
    """

    def wide(leaf):
        with jax.numpy_dtype_promotion("standard"):  # the cast is explicit where users are strict
            return jnp.asarray(leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32))

    return jax.tree.map(wide, tree)


def abstract(x: Any, shape: tuple[int, ...] | None = None) -> jax.ShapeDtypeStruct:
    """The shape and dtype of an array as JAX takes it, or its dtype and another shape.

    Integers of NumPy and of PyTorch have 64 bits, of which JAX by default takes 32.
    """
    return jax.ShapeDtypeStruct(x.shape if shape is None else shape, jnp.result_type(x))


def scaled_to_norm(tree: Vector, norm: ScalarLike) -> Vector:
    """Return norm * x / ||x||_2 over the whole tree, leaf dtypes kept.

    A zero tree, and one with an infinite or NaN entry, has no direction and gives zeros. Entries
    are divided by the largest one first, so that squares neither overflow nor vanish. Derivatives
    are finite everywhere and zero where the tree has no direction.
    """
    # At least float32, and so is all that is divided by it.
    largest = jax.tree.reduce(
        jnp.maximum, jax.tree.map(lambda x: jnp.max(jnp.abs(x), initial=0.0), tree), jnp.float32(0)
    )
    has_direction = (largest > 0) & (largest < jnp.inf)
    # The result does not depend on this divisor, so neither does its derivative. XLA multiplies
    # by the reciprocal, which is flushed to zero for the very largest numbers.
    divisor = jnp.minimum(largest, jnp.finfo(largest.dtype).max / 16)
    divisor = jax.lax.stop_gradient(jnp.where(has_direction, divisor, 1.0))
    moderate = jax.tree.map(lambda x: jnp.where(has_direction, x / divisor, 0.0), tree)
    length = jnp.sqrt(jnp.where(has_direction, optax.tree.norm(moderate, squared=True), 1.0))
    scaled = jax.tree.map(lambda x: norm * (x / length), moderate)
    return optax.tree.cast_like(scaled, tree)


def random_direction(key: Key[Array, ""] | UInt32[Array, "2"], tree: Vector) -> Vector:
    """Return a vector like the tree, uniform on the unit sphere over all of its entries.

    Every leaf draws from a key of its own.
    """
    direction = scaled_to_norm(optax.tree.random_like(key, widen(tree)), 1.0)
    return optax.tree.cast_like(direction, tree)


def path_names(path: tuple) -> tuple[str, ...]:
    """The names and indices of the steps of a path of `jax.tree_util`, as texts."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def select(tree: PyTree, mask: PyTree | None) -> PyTree:
    """Return the tree with None, which holds no numbers, in place of the leaves `mask` leaves out.

    `mask` is a pytree of True and False of the structure of `tree` or of its upper part, so that
    one bool may stand for a whole layer; None keeps everything. Containers of other types, as a
    dict for a FrozenDict, are the same structure if they give every part the same name.
    Raises ValueError for a mask of other structure or leaves, or one that keeps nothing.
    """
    if mask is None:
        return tree
    wrong = [leaf for leaf in jax.tree.leaves(mask) if not isinstance(leaf, bool | np.bool_)]
    if wrong:
        raise ValueError(f"mask holds {wrong[0]!r}; its leaves must be True or False")
    try:
        chosen = jax.tree.map(
            lambda keep, part: part if keep else jax.tree.map(lambda _: None, part), mask, tree
        )
    except (ValueError, TypeError) as error:
        if named := _named_leaves(mask, tree):
            return select(tree, named)
        raise ValueError(
            f"mask has the structure {jax.tree.structure(mask)}; it must be that of params, "
            f"{jax.tree.structure(tree)}, or an upper part of it"
        ) from error
    if jax.tree.leaves(tree) and not jax.tree.leaves(chosen):
        raise ValueError("mask leaves out all parameters; at least one leaf must be True")
    return chosen


def _named_leaves(mask, tree):
    """Return the mask as a tree like `tree`, by the names of its parts; None if some differ."""
    keeps = dict(jax.tree_util.tree_flatten_with_path(mask)[0])
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    above = [[path[:i] for i in range(len(path) + 1) if path[:i] in keeps] for path, _ in leaves]
    if any(len(found) != 1 for found in above) or {found[0] for found in above} != set(keeps):
        return None
    return structure.unflatten([keeps[found[0]] for found in above])


def mask_of(params: PyTree, mask: PyTree | Callable[[PyTree], PyTree] | None) -> PyTree | None:
    """Return the mask, or that of the parameters if it is a function of them.

    A pytree of bools is a mask also where its class can be called, as a module's can.
    """
    leaves = jax.tree.leaves(mask)
    if callable(mask) and not (leaves and all(isinstance(x, bool | np.bool_) for x in leaves)):
        return mask(params)
    return mask


def merge(selected: PyTree, tree: PyTree) -> PyTree:
    """Return the tree with the leaves of `selected`, a result of `select`, in their places."""
    return jax.tree.map(
        lambda new, old: old if new is None else new, selected, tree, is_leaf=lambda x: x is None
    )


def norm(tree: Vector) -> Float[Array, ""]:
    """Return ||x||_2 over the whole tree, in its widest real dtype, without over- or underflow."""
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return jnp.zeros(())
    dtype = jnp.finfo(jnp.result_type(*leaves)).dtype
    largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(x), initial=0.0) for x in leaves])
    largest = jnp.where(largest > 0, largest, jnp.ones_like(largest)).astype(dtype)
    # As in `scaled_to_norm`: the reciprocal of the very largest numbers is flushed to zero.
    largest = jnp.minimum(largest, jnp.finfo(dtype).max / 16)
    squares = [jnp.sum(_squared(x / largest.astype(x.dtype))).astype(dtype) for x in leaves]
    return largest * jnp.sqrt(sum(squares))


def _squared(x):
    """|x|^2 for each entry, real also where x is complex."""
    if jnp.iscomplexobj(x):
        return jnp.square(jnp.real(x)) + jnp.square(jnp.imag(x))
    return jnp.square(x)


def check_numbers(tree: PyTree, name: str, advice: str) -> None:
    """Raise ValueError for a leaf that is neither an array nor a number, with what to do."""
    used_up = lambda x: hasattr(x, "__next__")  # noqa: E731
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=used_up):
        text = isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "OSUMm"
        if text or not (isinstance(leaf, NUMBERS) or hasattr(leaf, "__jax_array__")):
            kind = type(leaf)
            library = "" if kind.__module__ == "builtins" else kind.__module__.split(".")[0] + "."
            of = f" of {leaf.dtype}" if text else ""
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} is {library}{kind.__name__}{of}, "
                f"no array of numbers; {advice}"
            )


def check_real(tree: PyTree, name: str = "params") -> None:
    """Raise ValueError for leaves that are not real floating point."""
    check_numbers(tree, name, PARTITION)
    dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)}
    wrong = sorted(str(d) for d in dtypes if not jnp.issubdtype(d, jnp.floating))
    if wrong:
        raise ValueError(
            f"{name} hold {', '.join(wrong)}; they must be real floating point: a complex array "
            "is two real ones, and what is not trained is no parameter"
        )


def added(part: Vector, tree: Vector) -> Vector:
    """Return part + tree, where `part`, like a result of `select`, has None for zeros."""
    return jax.tree.map(
        lambda x, leaf: leaf if x is None else leaf + x, part, tree, is_leaf=lambda x: x is None
    )


def dots(stack: PyTree, tree: Vector) -> Inexact[Array, " m"]:
    """Return the inner products <s_m, x> of m vectors, stacked along a new axis, with one."""
    products = jax.tree.map(lambda s, x: jnp.tensordot(jnp.conj(s), x, x.ndim), stack, tree)
    return functools.reduce(jnp.add, jax.tree.leaves(products))


def combine(coefficients: Inexact[Array, "*n m"], stack: PyTree) -> PyTree:
    """Return sum_m c_m x_m, or a stack of such sums, for m stacked vectors; leaf dtypes kept."""
    return jax.tree.map(lambda s: jnp.tensordot(coefficients.astype(s.dtype), s, 1), stack)


def without(stack: PyTree, tree: Vector) -> tuple[Vector, Inexact[Array, " m"]]:
    """Return a vector without its components along m orthonormal ones, and their coefficients."""
    coefficients = dots(stack, tree)
    return optax.tree.sub(tree, combine(coefficients, stack)), coefficients


def packing(like: PyTree, up_to: float | None = None) -> tuple[Callable, Callable]:
    """Return functions from pytrees like `like` to short lists of arrays, and back.

    Programs that do much with vectors compile faster if these have few leaves. Leaves of at most
    `up_to` entries (default PACKED_SIZE) are joined, in their widest dtype; others, which may be
    sharded, stay as they are.
    """
    up_to = PACKED_SIZE if up_to is None else up_to
    leaves, treedef = jax.tree.flatten(like)
    small = [i for i, leaf in enumerate(leaves) if leaf.size <= up_to]
    large = [i for i, leaf in enumerate(leaves) if leaf.size > up_to]
    ends = np.cumsum([leaves[i].size for i in small])

    def pack(tree):
        arrays = jax.tree.leaves(tree)
        if not small:
            return arrays
        # Written piece by piece: XLA on the CPU joins by concatenate at 0.1 GB/s.
        joined = jnp.zeros(ends[-1], jnp.result_type(*(leaves[i].dtype for i in small)))
        for i, end in zip(small, ends, strict=True):
            joined = joined.at[end - leaves[i].size : end].set(jnp.ravel(arrays[i]))
        return [joined, *(arrays[i] for i in large)]

    def unpack(packed):
        arrays = dict(zip(large, packed[bool(small) :], strict=True))
        if small:
            arrays |= dict(zip(small, jnp.split(packed[0], ends[:-1]), strict=True))
        shaped = [arrays[i].reshape(leaf.shape).astype(leaf.dtype) for i, leaf in enumerate(leaves)]
        return treedef.unflatten(shaped)

    return pack, unpack
