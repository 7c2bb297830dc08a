"""Largest eigenvalues of a symmetric operator that is known only by its products with vectors."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

# Relative to the largest ||H v|| seen: below 10 eps a product is rounding; if the last one leaves
# the basis by at most eps^(3/4), the basis is as good as invariant.
ROUNDING = 10.0
BREAKDOWN = 0.75
# A check costs a small eigendecomposition, a step costs a product; few products are wasted.
STEPS_PER_CHECK = 2
# The estimate has to undercut the tolerance by this factor, as the true residual is rounded.
SAFETY = 0.5
# Norm of the random part of a warm start, relative to the given part.
START_NOISE = 0.01


class EigenPairs(NamedTuple):
    """Eigenvalues in descending order, unit eigenvectors along a new leading axis, their errors.

    `residuals` are ||H v - value v||: some true eigenvalue is at most that far from the value.
    """

    values: Float[Array, " k"]
    vectors: PyTree
    residuals: Float[Array, " k"]
    converged: Bool[Array, " k"]
    num_products: Int[Array, ""]


class _State(NamedTuple):
    basis: Float[Array, "m p"]  # orthonormal rows; those not yet filled are zero
    projected: Float[Array, "m m"]  # basis H basis^T
    vector: Float[Array, " p"]  # unit vector orthogonal to the basis, its next row
    beta: Float[Array, ""]  # norm of the last product outside the basis
    broken: Bool[Array, ""]  # whether the basis is as good as invariant
    filled: Int[Array, ""]
    products: Int[Array, ""]
    scale: Float[Array, ""]  # largest ||H v|| seen
    at_breakdown: Float[Array, " k"]  # top Ritz values when the last breakdown was found
    stop: Bool[Array, ""]


def top_eigenpairs(
    matvec: Callable[[PyTree], PyTree],
    like: PyTree,
    *,
    key: PRNGKeyArray,
    k: int = 5,
    tol: float = 1e-4,
    max_products: int | None = None,
    basis_size: int | None = None,
    start: PyTree | None = None,
) -> EigenPairs:
    """Return the k largest (algebraic, not by magnitude) eigenvalues of a symmetric operator H.

        H V^T = V^T B + beta q e_m^T,    B y = theta y,    v = V^T y,
        ||H v - theta v|| = beta |y_m| <= tol |theta|    for the first k

    Thick-restart Lanczos: V (basis_size x P) grows by one product a step; when full it shrinks to
    its best Ritz vectors and goes on from q. `matvec` maps a pytree with the structure, shapes and
    dtypes of `like` (arrays or ShapeDtypeStruct, P numbers) to another. `start`, a guess like
    `like`, may be a previous eigenvector or the sum of several; a little noise is mixed in.

    Stops at `tol`, at `max_products` (default 10 basis_size + k), if H returns NaN (then so does
    this), or when V spans the whole space: with basis_size >= P it always goes that far and the
    answer is exact. A pair has `converged` if its true residual is at most tol |theta|, or at most
    10 eps ||H||: below that products are rounding, and so zero eigenvalues converge too.

    Cost: num_products, k of them for the true residuals at the end; per step four passes over V.
    Memory: basis_size x P (default 2 k + 20), half more at a restart, and the result, k x P.
    Runs as compiled loops; pure, so it works in jit and in vmap over models; fixed by `key`.

    Multiplicity: where H has so few distinct eigenvalues that the Krylov space closes before the
    pairs converge (identity, low rank), random vectors go on until one brings nothing new.
    Otherwise further copies of an eigenvalue show only by rounding, and smaller eigenvalues may
    stand in their place: the residuals vouch for each pair, not for none being missed.

    Invariances: those of the spectrum of H, so none under rescaling of layers. Values scale with H,
    vectors stay: nothing is compared with an absolute number.

    References: Wu and Simon (2000), SIAM J. Matrix Anal. Appl. 22, 602-616; Stewart (2002), 23,
    601-614. Deviations: B is filled from the coefficients of the full double orthogonalization,
    arrow and tridiagonal alike (Rayleigh-Ritz form); no locking, converged pairs stay in V; k and
    half of the other Ritz vectors are kept; breakdowns continue with a random vector.

    Raises ValueError, before tracing: k not in 1..P, basis_size not above k (unless P),
    max_products below 2 k, tol below 10 eps, `like` neither float32 nor float64.
    """
    size, dtype = _check_arguments(like, k, tol, basis_size, max_products)
    rows = min(2 * k + 20 if basis_size is None else basis_size, size)
    budget = 10 * rows + k if max_products is None else max_products
    unflatten = ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like))[1]

    def flat_matvec(vector):
        return ravel_pytree(matvec(unflatten(vector)))[0]

    with jax.default_matmul_precision("highest"):
        state = _start(key, start, (k, rows, size), dtype)
        cycle = partial(_cycle, flat_matvec, key, (k, tol, budget - k))
        state = jax.lax.while_loop(lambda s: ~s.stop, cycle, state)
        values, coefficients = _ritz_pairs(state)
        values, vectors = values[:k], coefficients[:, :k].T @ state.basis
        images = jax.lax.map(flat_matvec, vectors)
        residuals = jax.vmap(_norm)(images - values[:, None] * vectors)
    converged = residuals <= _allowed(values, tol, state.scale)
    products = state.products + k
    return EigenPairs(values, jax.vmap(unflatten)(vectors), residuals, converged, products)


def _start(key, start, sizes, dtype) -> _State:
    k, rows, size = sizes
    vector = _unit(jax.random.normal(key, (size,), dtype))
    if start is not None:
        vector = _unit(_unit(ravel_pytree(start)[0]) + START_NOISE * vector)
    zero = jnp.zeros((), dtype)
    count = jnp.zeros((), jnp.int32)
    return _State(
        basis=jnp.zeros((rows, size), dtype),
        projected=jnp.zeros((rows, rows), dtype),
        vector=vector,
        beta=zero,
        broken=jnp.zeros((), bool),
        filled=count,
        products=count,
        scale=zero,
        at_breakdown=jnp.full((k,), jnp.inf, dtype),
        stop=jnp.zeros((), bool),
    )


def _cycle(matvec, key, limits, state: _State) -> _State:
    """Take a few steps, ask whether that is enough, and make room if it is not."""
    state = _take_steps(matvec, key, limits[-1], state)
    values, coefficients = _ritz_pairs(state)
    state = _check(limits, state, values, coefficients)
    full = state.filled == state.basis.shape[0]
    restart = partial(_restart, limits[0])
    return jax.lax.cond(full & ~state.stop, restart, lambda s, *_: s, state, values, coefficients)


def _take_steps(matvec, key, budget, state: _State) -> _State:
    """Take some steps, fewer at a breakdown, so that each breakdown is seen by a check."""
    room = jnp.minimum(state.basis.shape[0] - state.filled, budget - state.products)
    last = state.products + jnp.minimum(STEPS_PER_CHECK, room)

    def going_on(carry):
        first, state = carry
        return (state.products < last) & (first | ~state.broken)

    def step(carry):
        return jnp.zeros((), bool), _step(matvec, key, carry[1])

    return jax.lax.while_loop(going_on, step, (jnp.ones((), bool), state))[1]


def _step(matvec, key, state: _State) -> _State:
    """Add the next vector to the basis, at the cost of one product, and find the one after it."""
    basis = state.basis.at[state.filled].set(state.vector)
    image = matvec(state.vector)
    scale = jnp.maximum(state.scale, _norm(image))
    rest, row = _orthogonalize(basis, image)
    norm = _norm(rest)
    products = state.products + 1
    lost = norm <= _rounding(scale)

    def fresh():
        noise = jax.random.normal(jax.random.fold_in(key, products), image.shape, image.dtype)
        return _orthogonalize(basis, noise)[0]

    vector = _unit(jax.lax.cond(lost, fresh, lambda: rest))
    return state._replace(
        basis=basis,
        projected=state.projected.at[state.filled].set(row).at[:, state.filled].set(row),
        vector=vector,
        beta=jnp.where(lost, jnp.zeros_like(norm), norm),
        broken=norm <= jnp.finfo(norm.dtype).eps ** BREAKDOWN * scale,
        filled=state.filled + 1,
        products=products,
        scale=scale,
    )


def _ritz_pairs(state: _State):
    """Return the Ritz values, largest first, and in columns their vectors in terms of the basis.

    Rows that are not filled get values below all others, of a size that keeps B well scaled.
    """
    size = jnp.max(jnp.abs(state.projected))
    size = jnp.where(size > 0, size, jnp.ones_like(size))
    scaled = state.projected / size
    unused = jnp.arange(scaled.shape[0]) >= state.filled
    padding = -1 - jnp.linalg.norm(scaled)
    values, vectors = jnp.linalg.eigh(scaled + jnp.diag(jnp.where(unused, padding, 0)))
    return size * values[::-1], vectors[:, ::-1]


def _check(limits, state: _State, values, coefficients) -> _State:
    """Decide whether to stop.

    After a breakdown, copies of the eigenvalues found may lie outside the basis. So once one has
    happened it takes another to stop, whose block, begun outside, brought nothing new to the top.
    """
    k, tol, budget = limits
    rows, size = state.basis.shape
    top = values[:k]
    estimates = state.beta * jnp.abs(coefficients[state.filled - 1, :k])
    small = jnp.all(estimates <= SAFETY * _allowed(top, tol, state.scale))
    unchanged = jnp.all(jnp.abs(top - state.at_breakdown) <= _rounding(state.scale))
    never_broken = jnp.all(jnp.isinf(state.at_breakdown))
    enough = small & jnp.where(state.broken, unchanged, never_broken) & (state.filled >= k)
    at_end = (state.filled == size) | (state.products >= budget) | ~jnp.isfinite(state.scale)
    return state._replace(
        stop=at_end | (enough & (rows < size)),
        at_breakdown=jnp.where(state.broken, top, state.at_breakdown),
    )


def _restart(k, state: _State, values, coefficients) -> _State:
    """Keep k and half of the other Ritz vectors, the largest; the next vector stays as it is."""
    rows = state.basis.shape[0]
    kept = k + (rows - k) // 2
    ritz_vectors = coefficients[:, :kept].T @ state.basis
    diagonal = jnp.where(jnp.arange(rows) < kept, values, 0)
    return state._replace(
        basis=state.basis.at[:kept].set(ritz_vectors).at[kept:].set(0),
        projected=jnp.diag(diagonal),
        filled=jnp.full_like(state.filled, kept),
    )


def _orthogonalize(basis, vector):
    """Return the part of a vector outside the basis and its coefficients inside, in two passes."""
    first = basis @ vector
    vector = vector - first @ basis
    second = basis @ vector
    return vector - second @ basis, first + second


def _allowed(values, tol, scale):
    return jnp.maximum(tol * jnp.abs(values), _rounding(scale))


def _rounding(scale):
    return ROUNDING * jnp.finfo(scale.dtype).eps * scale


def _norm(vector):
    """Return the Euclidean norm, free of under- and overflow in the squares."""
    largest = jnp.max(jnp.abs(vector))
    largest = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    return largest * jnp.linalg.norm(vector / largest)


def _unit(vector):
    norm = _norm(vector)
    return vector / jnp.where(norm > 0, norm, jnp.ones_like(norm))


def _check_arguments(like, k, tol, basis_size, max_products):
    """Return the number of entries of `like` and their dtype."""
    leaves = jax.tree.leaves(like)
    size = sum(leaf.size for leaf in leaves)
    dtype = jnp.result_type(*(leaf.dtype for leaf in leaves)) if leaves else None
    if size == 0 or dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"like has {size} numbers of dtype {dtype}; it needs float32 or float64")
    if not 1 <= k <= size:
        raise ValueError(f"k is {k}; the operator has {size} eigenvalues, so k is 1 to {size}")
    if basis_size is not None and basis_size <= k and basis_size < size:
        raise ValueError(f"basis_size is {basis_size}; it must be above k = {k}, or {size} (P)")
    if max_products is not None and max_products < 2 * k:
        raise ValueError(f"max_products is {max_products}; it must be at least 2 k = {2 * k}")
    reachable = ROUNDING * float(jnp.finfo(dtype).eps)
    if not tol >= reachable:
        raise ValueError(f"tol is {tol}; at best {reachable:.1e} can be reached in {dtype}")
    return size, dtype
