"""Thick-restart Lanczos: the machine behind `lanczos`.

The basis is a pytree, each leaf of the vectors with a leading axis over the rows, so that large
leaves sharded over devices stay so (small ones are joined: `trees.packing`). Around products that
run on the host the loops are Python loops, and what lies between two is one compiled function.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxsharp.core.trees import combine, norm, scaled_to_norm, without
from jaxsharp.curvature.operators import Loops

# Relative to the largest ||H v|| seen: below 10 eps a product is rounding; if the last one leaves
# the basis by at most eps^(3/4), the basis is as good as invariant.
ROUNDING = 10.0
BREAKDOWN = 0.75
# A check costs a small eigendecomposition, a step costs a product; few products are wasted.
STEPS_PER_CHECK = 2
# The estimate has to undercut the tolerance by this factor, as the true residual is rounded; or by
# this one where that is not measured, and each product counts.
SAFETY, THRIFTY = 0.5, 0.99
# Of a vector's norm, what must be left by one orthogonalization for it to have been exact enough.
ENOUGH_LEFT = 0.7
# Passes over the basis: two for the vector, two for a fresh one in its place.
MAX_TURNS = 4
# Norm of the random part of a warm start, relative to the given part.
START_NOISE = 0.01


class Limits(NamedTuple):
    """What is asked for: how many pairs at the top and at the bottom, how exact, how many steps.

    ``thrifty``: a check after every step, and none in the end.
    """

    top: int
    bottom: int
    tol: float
    max_steps: int
    thrifty: bool = False


class State(NamedTuple):
    """The basis, the projection of H on it, and what is known of the progress."""

    basis: PyTree  # m orthonormal vectors; those not yet filled are zero
    projected: Float[Array, "m m"]  # basis H basis^T
    vector: PyTree  # unit vector orthogonal to the basis, its next row
    beta: Float[Array, ""]  # norm of the last product outside the basis
    broken: Bool[Array, ""]  # whether the basis is as good as invariant
    filled: Int[Array, ""]
    products: Int[Array, ""]
    scale: Float[Array, ""]  # largest ||H v|| seen
    at_breakdown: Float[Array, " k"]  # wanted Ritz values when the last breakdown was found
    stop: Bool[Array, ""]


def solve(matvec: Callable, loops: Loops, key: Array, limits: Limits, state: State) -> State:
    """Return the state in which the wanted pairs are good enough, or the limit is reached."""

    def cycle(state):
        return _assess(limits, _take_steps(matvec, loops, key, limits, state))

    return loops.while_loop(lambda state: ~state.stop, cycle, state)


def initial_state(
    key: Array, like: PyTree, start: PyTree | None, num_rows: int, num_wanted: int
) -> State:
    """Return the empty basis with a random next vector, or one near `start`."""
    vector = random_unit(key, like)
    if start is not None:
        noise = jax.tree.map(lambda x: START_NOISE * x, vector)
        vector = scaled_to_norm(optax.tree.add(scaled_to_norm(start, 1.0), noise), 1.0)
        vector = optax.tree.cast_like(vector, like)
    dtype = jnp.result_type(*jax.tree.leaves(like))
    zero, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    return State(
        basis=jax.tree.map(lambda x: jnp.zeros((num_rows, *x.shape), x.dtype), like),
        projected=jnp.zeros((num_rows, num_rows), dtype),
        vector=vector,
        beta=zero,
        broken=jnp.zeros((), bool),
        filled=count,
        products=count,
        scale=zero,
        at_breakdown=jnp.full((num_wanted,), jnp.inf, dtype),
        stop=jnp.zeros((), bool),
    )


def random_unit(key: Array, like: PyTree) -> PyTree:
    """Return a vector like `like`, uniform on the unit sphere."""
    return scaled_to_norm(optax.tree.random_like(key, like), 1.0)


def wanted_pairs(limits: Limits, state: State) -> tuple[Array, Array]:
    """Return the wanted Ritz values and, in columns, their vectors in terms of the basis.

    First the largest in descending order, then the smallest in ascending order.
    """
    values, coefficients = ritz_pairs(state.projected, state.filled)
    places = _wanted(limits, state)
    return values[places], coefficients[:, places]


def _wanted(limits, state):
    lowest = state.filled - 1 - jnp.arange(limits.bottom)
    return jnp.concatenate([jnp.arange(limits.top), jnp.maximum(lowest, 0)])


def _take_steps(matvec, loops, key, limits: Limits, state: State) -> State:
    """Take some steps, fewer at a breakdown, so that each breakdown is seen by a check."""
    room = jnp.minimum(len(state.projected) - state.filled, limits.max_steps - state.products)
    last = state.products + jnp.minimum(1 if limits.thrifty else STEPS_PER_CHECK, room)

    def going_on(carry):
        first, state = carry
        return (state.products < last) & (first | ~state.broken)

    def step(carry):
        _, state = carry
        return jnp.zeros((), bool), _extend(key, state, matvec(state.vector))

    return loops.while_loop(going_on, step, (jnp.ones((), bool), state))[1]


@jax.jit
def _extend(key, state: State, image) -> State:
    """Add the next vector to the basis, given its product `image`, and find the one after it."""
    basis = jax.tree.map(lambda b, x: b.at[state.filled].set(x), state.basis, state.vector)
    products = state.products + 1

    def fresh():
        return random_unit(jax.random.fold_in(key, products), image)

    rest = orthogonalize(basis, image, state.filled, state.scale, fresh)
    row = rest.coefficients
    return state._replace(
        basis=basis,
        projected=state.projected.at[state.filled].set(row).at[:, state.filled].set(row),
        vector=rest.vector,
        beta=jnp.where(rest.lost, jnp.zeros_like(rest.length), rest.length),
        broken=rest.length <= jnp.finfo(rest.scale.dtype).eps ** BREAKDOWN * rest.scale,
        filled=state.filled + 1,
        products=products,
        scale=rest.scale,
    )


@partial(jax.jit, static_argnums=0)
def _assess(limits: Limits, state: State) -> State:
    """Ask whether that is enough, and make room if it is not."""
    values, coefficients = ritz_pairs(state.projected, state.filled)
    # A loop of at most one turn: a branch that leaves the basis alone would copy it.
    return jax.lax.while_loop(
        lambda state: (state.filled == len(state.projected)) & ~state.stop,
        lambda state: _restart(limits, state, values, coefficients),
        _check(limits, state, values, coefficients),
    )


def ritz_pairs(
    projected: Float[Array, "m m"], filled: Int[Array, ""]
) -> tuple[Float[Array, " m"], Float[Array, "m m"]]:
    """Return the Ritz values, largest first, and in columns their vectors in terms of the basis.

    Rows that are not filled get values below all others, of a size that keeps B well scaled.
    """
    size = jnp.max(jnp.abs(projected))
    size = jnp.where(size > 0, size, jnp.ones_like(size))
    scaled = projected / size
    unused = jnp.arange(len(scaled)) >= filled
    padding = -1 - jnp.linalg.norm(scaled)
    values, vectors = jnp.linalg.eigh(scaled + jnp.diag(jnp.where(unused, padding, 0)))
    return size * values[::-1], vectors[:, ::-1]


def _check(limits: Limits, state: State, values, coefficients) -> State:
    """Decide whether to stop.

    After a breakdown, copies of the eigenvalues found may lie outside the basis. So once one has
    happened it takes another to stop, whose block, begun outside, brought nothing new to the ends.
    """
    rows, size = len(state.projected), optax.tree.size(state.vector)
    places = _wanted(limits, state)
    found = values[places]
    estimates = state.beta * jnp.abs(coefficients[state.filled - 1, places])
    factor = THRIFTY if limits.thrifty else SAFETY
    small = jnp.all(estimates <= factor * allowed(found, limits.tol, state.scale))
    unchanged = jnp.all(jnp.abs(found - state.at_breakdown) <= rounding(state.scale))
    never_broken = jnp.all(jnp.isinf(state.at_breakdown))
    enough = small & jnp.where(state.broken, unchanged, never_broken)
    enough &= state.filled >= limits.top + limits.bottom
    out_of_steps = (state.products >= limits.max_steps) | ~jnp.isfinite(state.scale)
    return state._replace(
        stop=(state.filled == size) | out_of_steps | (enough & (rows < size)),
        at_breakdown=jnp.where(state.broken, found, state.at_breakdown),
    )


def _restart(limits: Limits, state: State, values, coefficients) -> State:
    """Keep the wanted and half of the other Ritz vectors; the next vector stays as it is.

    The others are the next ones at each end, in the proportion of what is wanted there.
    """
    rows, wanted = len(state.projected), limits.top + limits.bottom
    others = (rows - wanted) // 2
    at_top = limits.top + others * limits.top // wanted
    at_bottom = wanted + others - at_top
    places = jnp.concatenate([jnp.arange(at_top), jnp.arange(rows - at_bottom, rows)])
    kept = len(places)
    ritz_vectors = combine(coefficients[:, places].T, state.basis)
    return state._replace(
        basis=jax.tree.map(
            lambda b, r: b.at[:kept].set(r).at[kept:].set(0), state.basis, ritz_vectors
        ),
        projected=jnp.zeros_like(state.projected)
        .at[jnp.arange(kept), jnp.arange(kept)]
        .set(values[places]),
        filled=jnp.full_like(state.filled, kept),
    )


class Remainder(NamedTuple):
    """What `orthogonalize` leaves of a vector."""

    vector: PyTree  # its part outside the basis, or a fresh one; in the end of norm 1
    coefficients: Float[Array, " m"]  # of its part inside
    length: Float[Array, ""]  # norm of its part outside
    scale: Float[Array, ""]  # the larger of the given one and the norm of the vector
    lost: Bool[Array, ""]  # whether the part outside is rounding
    norm: Float[Array, ""]  # of `vector` before it is divided by it
    again: Bool[Array, ""]
    turns: Int[Array, ""]


def orthogonalize(
    basis: PyTree,
    vector: PyTree,
    place: Int[Array, ""],
    scale: Float[Array, ""],
    fresh: Callable[[], PyTree],
) -> Remainder:
    """Return the part of a vector outside the basis; where nothing is left, that of `fresh()`.

    First the components along the rows at `place` and before it are removed, in Lanczos nearly all
    there is, then one pass over the whole basis; another one only if that has removed so much that
    rounding counts (the criterion of Daniel et al. 1976, Math. Comp. 30, 772-795). `fresh()` has
    norm 1. Norms before a pass follow from the one after it, by Pythagoras.
    """
    num_rows = len(jax.tree.leaves(basis)[0])
    # Of a basis of one vector each row once.
    rows = jnp.stack([place - 1, place][-num_rows:]) % num_rows
    vector, near = without(jax.tree.map(lambda b: b[rows], basis), vector)

    def turn(state: Remainder) -> Remainder:
        rest, more = without(basis, state.vector)
        length = norm(rest)
        coefficients = state.coefficients + jnp.where(state.lost, 0, more)
        scale = jnp.maximum(state.scale, jnp.hypot(length, norm(coefficients)))
        scale = jnp.where(state.lost, state.scale, scale)
        lost = ~state.lost & (length <= rounding(scale))
        return Remainder(
            vector=jax.lax.cond(lost, fresh, lambda: rest),
            coefficients=coefficients,
            length=jnp.where(state.lost, state.length, length),
            scale=scale,
            lost=state.lost | lost,
            norm=jnp.where(lost, 1, length),
            again=lost | (length < ENOUGH_LEFT * jnp.hypot(length, norm(more))),
            turns=state.turns + 1,
        )

    # One loop, no branches: around a branch that reads the basis XLA copies it.
    yes, zero, one = jnp.ones((), bool), jnp.zeros((), jnp.int32), jnp.ones((), near.dtype)
    coefficients = jnp.zeros(num_rows, near.dtype).at[rows].add(near)
    state = Remainder(vector, coefficients, one, scale, ~yes, one, yes, zero)
    state = jax.lax.while_loop(lambda s: s.again & (s.turns < MAX_TURNS), turn, state)
    # In one dimension nothing at all is outside.
    length = jnp.where(state.norm > 0, state.norm, 1)
    unit = jax.tree.map(lambda x: x / length.astype(x.dtype), state.vector)
    return state._replace(vector=unit)


def allowed(values: Array, tol: float, scale: Array) -> Array:
    """Return the largest residual with which a pair has converged."""
    return jnp.maximum(tol * jnp.abs(values), rounding(scale))


def rounding(scale: Array) -> Array:
    """Return the size below which a product is rounding, where the largest is `scale`."""
    return ROUNDING * jnp.finfo(scale.dtype).eps * scale
