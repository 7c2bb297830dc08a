"""Matrices known by their products with vectors, and loops around such products.

Anything that maps a pytree to one of the same structure will do as a product. An `Operator` also
says how it computes, and whether it does so on the host: then what surrounds it cannot be
compiled, and `loops_around` gives loops that run in Python.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array, PyTree

from jaxsharp.core.programs import compiled, constants, every_program, own_settings
from jaxsharp.core.trees import PARTITION, check_numbers, norm, packing

Matvec = Callable[[PyTree], PyTree]
# The norm of vectors that show whether products were too small: a power of two, so that nothing
# rounds, and at which neither they nor products of norm one overflow in float32.
LARGE = 2.0**50


@partial(
    jax.tree_util.register_dataclass, data_fields=["product"], meta_fields=["strategy", "on_host"]
)
@dataclass(frozen=True, eq=False)
class Operator:
    """The product v -> A v with a symmetric matrix; `strategy` says in words how it is computed.

    A pytree of the arrays that it needs, so that it may be an argument of compiled functions: two
    of one matrix at two places in parameter space meet the same program.

    With `on_host` each product reads its data from the host and is a Python loop. It cannot be
    traced: calling it inside jit, vmap or a compiled loop raises ValueError.
    """

    product: Matvec
    strategy: str
    on_host: bool = False

    def __call__(self, vector: PyTree) -> PyTree:
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(vector))
        if self.on_host and traced:
            raise ValueError(
                "a product that streams batches from the host was called inside jit, vmap or a "
                "compiled loop; call it, or the function that takes it, outside of them"
            )
        return self.product(vector)


def change_product(matvec: Matvec, change: Callable[[Matvec], Matvec]) -> Matvec:
    """Return `change(matvec)`, for an `Operator` as another that computes in the same way."""
    if isinstance(matvec, Operator):
        return replace(matvec, product=change(matvec.product))
    return change(matvec)


def compiled_around(
    fn: Callable, matvec: Matvec, like: PyTree, *args: PyTree, **static: Hashable
) -> Any:
    """Return fn(matvec, like, *args, **static), compiled if the product is an `Operator` of arrays.

    Then one program serves all operators of one kind. Any other function may change from call to
    call in what it closes over, and is used as it is; so is what runs on the host or is traced.
    """
    portable = isinstance(matvec, Operator) and not matvec.on_host
    if not portable or not all(map(_is_known, jax.tree.leaves((matvec, args)))):
        return fn(matvec, like, *args, **static)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    leaves, structure = jax.tree.flatten((matvec, zeros, args))

    def program(leaves):
        matvec, like, args = structure.unflatten(leaves)
        return fn(matvec, like, *args, **static)

    return compiled(program, (fn, structure, tuple(sorted(static.items()))))(leaves)


def _is_known(leaf):
    return isinstance(leaf, jax.Array | np.ndarray) and not isinstance(leaf, jax.core.Tracer)


def checked_like(vector: PyTree, image: PyTree) -> PyTree:
    """Return the image A v, or raise ValueError if it is not like v."""
    given, found = ([f"{x.dtype}{x.shape}" for x in jax.tree.leaves(t)] for t in (vector, image))
    if given != found or jax.tree.structure(vector) != jax.tree.structure(image):
        pairs = zip(given, found, strict=False)
        change = next((f"{a} into {b}" for a, b in pairs if a != b), "the structure")
        raise ValueError(f"matvec changed {change}; it must keep structure, shapes and dtypes")
    return image


def packed(
    matvec: Matvec, like: PyTree, up_to: float | None = None
) -> tuple[Matvec, PyTree, Callable, Callable]:
    """Return the product on vectors packed by `trees.packing`, one such, `pack` and `unpack`."""
    pack, unpack = packing(like, up_to)

    def product(vector):
        tree = unpack(vector)
        return pack(checked_like(tree, matvec(tree)))

    zeros = pack(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like))
    return product, zeros, pack, unpack


def check_range(
    scale: Array, matvec: Matvec, like: PyTree, power: int = 1, *, probed: bool = False
) -> Array:
    """Return 1 if products of norm up to `scale` are far from over- and underflow, else NaN.

    Far means that scale^power, relative to which results round, lies within tiny / eps and
    eps x max of its dtype. Raises ValueError instead where the scale is known (not inside jit).
    There a scale of zero is that of a zero matrix only if larger vectors have no product either,
    which is one more product in such a program unless `probed` says that it has been tried, and if
    the product holds no number that is flushed to zero (`flushed_number`).
    NaN and infinity are left to speak for themselves.
    """
    info = jnp.finfo(scale.dtype)
    least, most = (float(x) ** (1 / power) for x in (info.tiny / info.eps, info.eps * info.max))
    good = (scale == 0) | ~jnp.isfinite(scale) | ((scale >= least) & (scale <= most))
    wave = lambda x: LARGE * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)  # noqa: E731
    if isinstance(scale, jax.core.Tracer):
        program = jax.make_jaxpr(matvec)(like)
        hidden = jnp.full_like(scale, flushed_number(program) is not None, dtype=bool)
        if not probed:
            product = jaxpr_as_fun(program)
            waves = jax.tree.leaves(jax.tree.map(wave, like))
            hidden |= jax.lax.cond(
                scale == 0, lambda: norm(product(*waves)) > 0, lambda: jnp.zeros((), bool)
            )
        return jnp.where(good & ~((scale == 0) & hidden), jnp.ones_like(scale), jnp.nan)
    found, small = float(scale), None
    if found == 0:
        found = float(norm(matvec(jax.tree.map(wave, like)))) / LARGE
        good = found == 0
    if found == 0 and not (isinstance(matvec, Operator) and matvec.on_host):
        small = flushed_number(jax.make_jaxpr(matvec)(like))
    if not good:
        raise ValueError(
            f"products have norms of {found:.1e}; {scale.dtype} is exact enough from {least:.1e} "
            f"to {most:.1e}, so multiply the loss by a constant"
        )
    if small is not None:
        raise ValueError(
            f"products have norms of 0.0e+00, and the product holds the number {small:.1e}, which "
            "is flushed to zero; multiply the loss by a constant"
        )
    return jnp.ones_like(scale)


def flushed_number(program: ClosedJaxpr) -> float | None:
    """Return a number that a program holds and that is zero to the machine, but is none.

    Below the smallest normal number of its dtype, which XLA flushes to zero; None if there is none.
    """
    literals = (
        atom.val
        for jaxpr in every_program(program.jaxpr)
        for equation in jaxpr.eqns
        for atom in equation.invars
        if isinstance(atom, Literal)
    )
    for held in (*constants(program), *literals):
        if isinstance(held, jax.core.Tracer):
            continue
        array = np.asarray(held)
        if array.dtype not in (np.float32, np.float64):
            continue
        small = (array != 0) & (np.abs(array) < np.finfo(array.dtype).tiny)
        if small.any():
            return float(array[small][0] if array.ndim else array)
    return None


def num_entries(like: PyTree) -> int:
    """Return the number of entries of vectors like `like`; ValueError if not float32 or float64."""
    check_numbers(like, "like", PARTITION)
    leaves = jax.tree.leaves(like)
    size = sum(leaf.size for leaf in leaves)
    dtypes = {str(leaf.dtype) for leaf in leaves}
    if size == 0 or dtypes - {"float32", "float64"}:
        found = f"{size} numbers of {sorted(dtypes)}"
        raise ValueError(f"like has {found}; it needs float32 or float64")
    return size


class Loops(NamedTuple):
    """`while_loop(going_on, body, state)` and `map(fn, xs, batch_size=None)`, as in `jax.lax`."""

    while_loop: Callable
    map: Callable


def loops_around(matvec: Matvec) -> Loops:
    """Return compiled loops, or Python loops if the product runs on the host."""
    if isinstance(matvec, Operator) and matvec.on_host:
        return Loops(_python_while, _python_map)
    return Loops(jax.lax.while_loop, jax.lax.map)


def _python_while(going_on, body, state):
    while going_on(state):
        state = body(state)
    return state


def _python_map(fn, xs, *, batch_size=None):
    """Return stacked results, one call an entry: what runs on the host cannot be vmapped."""
    del batch_size
    num = len(jax.tree.leaves(xs)[0])
    results = [fn(jax.tree.map(lambda leaf, i=i: leaf[i], xs)) for i in range(num)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


@own_settings()
def preconditioned(matvec: Matvec, diagonal: PyTree) -> Matvec:
    """Return the product with D^(-1/2) A D^(-1/2), D the diagonal matrix of positive `diagonal`.

    Its eigenvalues are those of D^(-1) A; an eigenvector w gives the vector D^(-1/2) w of the
    latter. `diagonal` has the structure of the vectors; for an adaptive optimizer with steps
    lr D^(-1) grad, sharpness against 2/lr (Cohen et al. 2022, arXiv 2207.14484).

    Cost: that of `matvec`. Raises ValueError for leaves that are not arrays of reals, for entries
    that are not positive and finite, where they are known (not inside jit), and, at a product,
    for other shapes than the vector's.
    """
    for leaf in jax.tree.leaves(diagonal):
        if not isinstance(leaf, np.ndarray | jax.Array) or not jnp.isrealobj(leaf):
            raise ValueError(f"diagonal holds {leaf!r}; its leaves must be arrays of reals")
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        least = jnp.finfo(leaf.dtype).tiny if real else 1  # what is below is flushed to zero
        bad = ~((leaf >= least) & (leaf < jnp.inf))
        if not isinstance(leaf, jax.core.Tracer) and jnp.any(bad):
            raise ValueError(
                f"diagonal holds {leaf[bad][0]}; its entries must be positive and finite, and at "
                f"least {least:.1e}"
            )

    def scaled(vector):
        given, valid = (jax.tree.map(jnp.shape, tree) for tree in (diagonal, vector))
        if given != valid:
            raise ValueError(f"diagonal has the shapes {given}; they must be the vector's, {valid}")
        return jax.tree.map(lambda x, d: (x / jnp.sqrt(d)).astype(x.dtype), vector, diagonal)

    return change_product(matvec, lambda product: lambda vector: scaled(product(scaled(vector))))
