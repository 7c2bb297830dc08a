"""Where a function of a distance has risen to a value: brackets by doubling, then bisection."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, ScalarLike

from jaxsharp.core.trees import norm

DOUBLINGS = 40  # from 1, up or down
BISECTIONS = 10  # of the logarithm: 2^(1/1024), a relative width of 7e-4
# Of a loss, in units of its last digit: a rise or fall that is less is none.
ROUNDING = 16


class Crossing(NamedTuple):
    """The distance, the width of its bracket, whether there is one, and the calls it took."""

    value: Float[Array, "*n"]
    width: Float[Array, "*n"]
    found: Bool[Array, "*n"]
    calls: Int[Array, "*n"]


def crossing(
    rise: Callable[[Array], Array],
    target: ScalarLike,
    like: Array,
    *,
    bisections: int = BISECTIONS,
) -> Crossing:
    """Where ``rise``, below ``target`` near 0, reaches it.

    The bracket is of two neighbouring powers of 2, the first from 1 on, up or down, between which
    rise crosses the target: the only one where rise is monotone. What is not finite counts as above
    the target. Bisections of its logarithm, to a relative width of 2^(2^-bisections) - 1, and
    interpolation. Not found: no crossing from 2^-40 to 2^40. Cost: a call for each bisection and
    doubling, and one. ``like`` has the dtype of distances.
    """

    def below(value):
        return value < target

    one = jnp.ones_like(like)
    at_one = rise(one)
    outwards = below(at_one)
    factor = jnp.where(outwards, 2.0, 0.5).astype(one.dtype)

    def still_going(state):
        _, now, k = state
        return (below(now[1]) == outwards) & (k < DOUBLINGS)

    def further(state):
        _, (distance, _), k = state
        return state[1], (distance * factor, rise(distance * factor)), k + 1

    first = (one, at_one)
    last, now, doublings = jax.lax.while_loop(still_going, further, (first, first, jnp.int32(0)))
    found = below(now[1]) != outwards
    low, high = _pick(outwards, last, now), _pick(outwards, now, last)

    def halved(_, ends):
        low, high = ends
        middle = jnp.sqrt(low[0]) * jnp.sqrt(high[0])
        point = (middle, rise(middle))
        is_below = below(point[1])
        return _pick(is_below, point, low), _pick(is_below, high, point)

    low, high = jax.lax.fori_loop(0, bisections, halved, (low, high))
    share = (target - low[1]) / (high[1] - low[1])
    share = jnp.where((share >= 0) & (share <= 1), share, 0.5)
    value = low[0] * (high[0] / low[0]) ** share
    calls = 1 + doublings + bisections
    return Crossing(value.astype(one.dtype), high[0] - low[0], found, calls)


def with_rounding(
    found: Crossing, base: Array, rise: ScalarLike, params: PyTree, length: ScalarLike
) -> Crossing:
    """The crossing of a rise of the loss, with what rounding may move it by in its width.

        ROUNDING eps (|L(theta)| + rise) t / rise + eps ||theta|| / ||d||

    with eps of the loss and of the parameters, where the rise along d is convex, so that its slope
    is at least rise/t. ``base`` is L(theta), ``length`` the norm of d.
    """
    eps = max(jnp.finfo(leaf.dtype).eps for leaf in jax.tree.leaves(params))
    of_loss = ROUNDING * jnp.finfo(base.dtype).eps * (jnp.abs(base) + rise) / rise * found.value
    width = found.width + of_loss + eps * norm(params) / length
    return found._replace(width=width.astype(found.width.dtype))


def _pick(condition, one, other):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
