"""The top eigenpair of a mean over all examples, by few products with it and more over a sample.

H is the matrix of all examples, C that of a sample: near it, and cheap. Davidson's method with a
model in the place of a preconditioner: on the orthonormal vectors V to which H was applied, the
model is H,

    M = C + E V^T + V E^T - V (V^T E) V^T,    E = (H - C) V,    so that M V = H V.

The next vector is the top eigenvector w of M, found by Lanczos with products of C alone. V grows by
what is new in it, and the largest Ritz pair of H in V is the answer, whose residual
||H u - theta u|| is known without another product. With P the projection on the complement of V,
H w - M w = P (H - C) P w: what is wrong is what was new in w, times how far C is from H.

References: Davidson (1975), J. Comput. Phys. 17, 87-94; Sleijpen and van der Vorst (1996), SIAM J.
Matrix Anal. Appl. 17, 401-425, who correct the pair where this one corrects the operator.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxsharp.core.chunks import num_examples
from jaxsharp.core.keys import stream
from jaxsharp.core.streaming import rows
from jaxsharp.core.trees import combine, dots, norm
from jaxsharp.curvature import krylov
from jaxsharp.curvature.lanczos import eigenpairs_at
from jaxsharp.curvature.operators import check_range, compiled_around, loops_around, packed

# Products with H before Lanczos takes over, from where they have come.
STEPS = 6
# Eigenvectors of the sample that may turn out to be the largest, and by how many times the largest
# change that was seen they might have changed.
RIVALS, WARY = 3, 2.0
# Relative residual of those: what is exact of the sample is not so of all examples.
FIRST_TOL = 1e-2


class Found(NamedTuple):
    """The largest Ritz pair, its residual, and the products with H and with C."""

    value: Float[Array, ""]
    vector: PyTree
    residual: Float[Array, ""]
    converged: Bool[Array, ""]
    num_products: Int[Array, ""]
    num_near: Int[Array, ""]


class State(NamedTuple):
    """The vectors V, H V and (H - C) V, those not yet filled zero, and what is known of them."""

    basis: PyTree
    images: PyTree
    off: PyTree
    projected: Float[Array, "m m"]  # V^T H V
    filled: Int[Array, ""]
    vector: PyTree  # the next one
    best: PyTree  # the Ritz vector, its value and residual
    value: Float[Array, ""]
    residual: Float[Array, ""]
    small: Bool[Array, ""]  # whether the residual is
    moved: Float[Array, ""]  # largest |v^T (H - C) v|
    scale: Float[Array, ""]  # largest ||H v||
    num_near: Int[Array, ""]
    stop: Bool[Array, ""]


def sampled(batch: PyTree, share: float, key: Array) -> tuple[PyTree, float]:
    """A share of the examples, at least one, drawn without repetition; and the share that it is."""
    n = num_examples(batch)
    size = max(1, round(share * n))
    chosen = jnp.sort(jax.random.choice(key, n, (size,), replace=False))
    return rows(batch, chosen), size / n


def top_by_sample(
    matvec: Callable,
    near: Callable,
    like: PyTree,
    key: Array,
    *,
    tol: float,
    max_products: int | None = None,
    rivals: int = RIVALS,
) -> Found:
    """Return the top eigenpair of H = ``matvec`` with residual at most tol |value|, C = ``near``.

    The first vectors are the top eigenvectors of C, of ``rivals`` of them those whose values could
    be the largest of H: within `WARY` times the largest change |v^T (H - C) v| that was seen. One
    that C knows nothing of is not looked for. After `STEPS` products with H that were not enough
    Lanczos goes on from there, to ``max_products`` in all.
    """
    static = {"tol": tol, "max_products": max_products, "rivals": rivals}
    return compiled_around(_top, matvec, like, near, key, **static)


class Problem(NamedTuple):
    """Products in packed form, and what the steps share."""

    product: Callable
    cheap: Callable
    near: Callable
    like: PyTree
    while_loop: Callable
    key: Array
    tol: float
    steps: int
    values: Float[Array, " rivals"]  # of the eigenvectors of C
    vectors: PyTree


def _top(matvec, like, near, key, *, tol, max_products, rivals) -> Found:
    product, zeros, pack, unpack = packed(matvec, like)
    size, while_loop = optax.tree.size(zeros), loops_around(matvec).while_loop
    steps = min(STEPS, size, STEPS if max_products is None else max_products)
    own, count, loose = stream(key, "of the sample"), min(rivals, size), max(tol, FIRST_TOL)
    first, _ = eigenpairs_at(near, like, (count, 0), own, loose, verify=False)
    problem = Problem(
        *(product, packed(near, like)[0], near, like, while_loop, key, tol, steps),
        *(first.values, jax.vmap(pack)(first.vectors)),
    )
    state = while_loop(
        lambda state: ~state.stop,
        lambda state: _step(problem, state),
        _empty(problem, zeros, first.num_products),
    )
    within = check_range(state.scale, matvec, like, probed=True)
    pair = state.value * within, unpack(state.best), state.residual * within
    found = Found(*pair, state.small, state.filled, state.num_near)
    left = None if max_products is None else max_products - steps
    if left is not None and left < 2:
        return found

    def lanczos(carry):
        _, found = carry
        own = stream(key, "of all examples")
        pairs, _ = eigenpairs_at(
            matvec, like, (1, 0), own, tol, left, start=found.vector, verify=False
        )
        parts = (pairs.values, pairs.vectors, pairs.residuals, pairs.converged)
        one = jax.tree.map(lambda leaf: leaf[0], parts)
        both = found.num_products + pairs.num_products
        return jnp.zeros((), bool), Found(*one, both, found.num_near)

    # Products that are all zero, or not finite, are for Lanczos to judge too.
    unfinished = ~state.small | (state.scale == 0)
    return while_loop(lambda carry: carry[0], lanczos, (unfinished, found))[1]


def _empty(problem: Problem, like: PyTree, num_near: Array) -> State:
    stack = jax.tree.map(lambda x: jnp.zeros((problem.steps, *x.shape), x.dtype), like)
    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(like)))
    projected, no = jnp.zeros((problem.steps,) * 2, zero.dtype), jnp.zeros((), bool)
    first = jax.tree.map(lambda x: x[0], problem.vectors)
    return State(
        *(stack, stack, stack, projected, jnp.zeros((), jnp.int32), first, like),
        *(zero, zero, no, zero, zero, num_near, no),
    )


def _step(problem: Problem, state: State) -> State:
    """Add the next vector, look at the pair that results, and find the vector after it."""
    at, own = state.filled, jax.random.fold_in(problem.key, state.filled)

    def fresh():
        return krylov.random_unit(stream(own, "fresh"), state.vector)

    place, one = jnp.maximum(at - 1, 0), jnp.ones_like(state.scale)
    new = krylov.orthogonalize(state.basis, state.vector, place, one, fresh).vector
    image = problem.product(new)
    change = optax.tree.sub(image, problem.cheap(new))
    old = state.basis, state.images, state.off
    basis, images, off = jax.tree.map(lambda rows, x: rows.at[at].set(x), old, (new, image, change))
    row = dots(basis, image)
    projected = state.projected.at[at].set(row).at[:, at].set(row)
    values, coefficients = krylov.ritz_pairs(projected, at + 1)
    value, of_basis = values[0], coefficients[:, 0]
    best = combine(of_basis, basis)
    rest = optax.tree.sub(combine(of_basis, images), optax.tree.scale(value, best))
    scale = jnp.maximum(state.scale, norm(image))
    residual = jnp.hypot(norm(rest), krylov.rounding(scale))
    moved = jnp.maximum(state.moved, jnp.abs(optax.tree.vdot(new, change)))
    small = residual <= krylov.allowed(value, problem.tol, scale)
    count = len(problem.values)
    following = jnp.minimum(at + 1, count - 1)
    rival = (at + 1 < count) & (problem.values[following] + WARY * moved > value)
    stop = (small & ~rival) | (at + 1 == problem.steps) | ~jnp.isfinite(scale)

    def model(carry):
        given = basis, off, best, stream(own, "of the model")
        vector, spent = compiled_around(
            _top_of_model, problem.near, problem.like, *given, tol=problem.tol
        )
        return jnp.zeros((), bool), vector, carry[2] + spent

    vector = jax.tree.map(lambda x: x[following], problem.vectors)
    carry = (~stop & ~rival, vector, state.num_near + 1)
    _, vector, num_near = problem.while_loop(lambda carry: carry[0], model, carry)
    return State(
        *(basis, images, off, projected, at + 1, vector, best, value, residual, small, moved),
        *(scale, num_near, stop),
    )


def _top_of_model(near, like, basis, off, best, key, *, tol) -> tuple[PyTree, Array]:
    """The top eigenvector of M, in packed form, from the Ritz vector, and the products with C."""
    cheap, _, pack, unpack = packed(near, like)
    crossed = jax.vmap(lambda x: dots(basis, x))(off)

    def product(vector):
        x = pack(vector)
        along, across = dots(basis, x), dots(off, x)
        known = optax.tree.add(combine(along, off), combine(across - crossed @ along, basis))
        return unpack(optax.tree.add(cheap(x), known))

    found, _ = eigenpairs_at(product, like, (1, 0), key, tol, start=unpack(best), verify=False)
    return pack(jax.tree.map(lambda leaf: leaf[0], found.vectors)), found.num_products
