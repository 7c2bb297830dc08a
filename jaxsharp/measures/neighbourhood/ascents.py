"""The largest value of a function in a ball around zero: one step, PGD, Auto-PGD.

Balls are around zero in coordinates z, in which they are round or cubes: what they are in parameter
space is for the caller to say. ``value_and_grad(z)`` is of a pytree z.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree, ScalarLike

from jaxsharp.core.keys import stream
from jaxsharp.core.trees import norm, random_direction, scaled_to_norm, widen


class Ball(NamedTuple):
    """A ball ||z|| <= rho of a norm.

    ``project(z, rho)`` is the nearest point in it, ``steepest(grads, step)`` the maximizer of
    <grads, z> over the ball of radius step, ``draw(key, like, rho)`` uniform in it, ``dual(grads)``
    the largest <grads, z> over the unit ball.
    """

    project: Callable[[PyTree, ScalarLike], PyTree]
    steepest: Callable[[PyTree, ScalarLike], PyTree]
    draw: Callable[[Array, PyTree, ScalarLike], PyTree]
    dual: Callable[[PyTree], Array]


def _shrunk(z, rho):
    length = norm(z)
    return optax.tree.scale(jnp.where(length > rho, rho / jnp.maximum(length, rho), 1.0), z)


def _in_sphere(key, like, rho):
    size = sum(leaf.size for leaf in jax.tree.leaves(like))
    share = jax.random.uniform(stream(key, "radius")) ** (1 / size)
    return optax.tree.scale(rho * share, random_direction(key, like))


def _signs(grads, step):
    return jax.tree.map(lambda g: step * jnp.sign(g), grads)


def _in_cube(key, like, rho):
    drawn = optax.tree.random_like(
        key, widen(like), partial(jax.random.uniform, minval=-1.0, maxval=1.0)
    )
    return optax.tree.cast_like(optax.tree.scale(rho, drawn), like)


BALLS = {
    "l2": Ball(_shrunk, scaled_to_norm, _in_sphere, norm),
    "linf": Ball(
        lambda z, rho: jax.tree.map(lambda x: jnp.clip(x, -rho, rho), z),
        _signs,
        _in_cube,
        lambda grads: optax.tree.norm(grads, ord=1),
    ),
}


class Peak(NamedTuple):
    """The largest value found, the value at the start, and the gap at the largest.

    ``gap`` is max <g, z' - z> over the ball, g the gradient at the point z of the largest value: 0
    at a stationary point, and what linearizing says that the value could still rise by.
    """

    value: Float[Array, ""]
    start: Float[Array, ""]
    gap: Float[Array, ""]


class _Point(NamedTuple):
    z: PyTree
    value: Array
    grads: PyTree


Ascent = Callable[[Callable, PyTree, Ball, ScalarLike, int], Peak]


def one_step(
    value_and_grad: Callable, start: PyTree, ball: Ball, rho: ScalarLike, steps: int
) -> Peak:
    """The value after one step from zero to the boundary, where the linearized value is largest.

    SAM's perturbation (Foret et al. 2021, equation 2). ``steps`` is not looked at; the value may
    lie below that at the start. Cost: 2 gradients.
    """
    first = _point(value_and_grad, start, start)
    last = _point(value_and_grad, ball.steepest(first.grads, rho), start)
    return _peak(last, first, ball, rho)


def pgd(value_and_grad: Callable, start: PyTree, ball: Ball, rho: ScalarLike, steps: int) -> Peak:
    """Projected gradient ascent, the best of all points by value, the start included.

        z <- project(z + eta steepest(g)),    eta = 2.5 rho / steps

    Madry et al. 2018 (arXiv 1706.06083), with the last point and its step size as there. Cost:
    steps + 1 gradients.
    """

    def step(carry, _):
        point, best = carry
        moved = optax.tree.add(point.z, ball.steepest(point.grads, 2.5 * rho / steps))
        point = _point(value_and_grad, ball.project(moved, rho), start)
        return (point, _better(point, best)), None

    first = _point(value_and_grad, start, start)
    (_, best), _ = jax.lax.scan(step, (first, first), length=steps)
    return _peak(best, first, ball, rho)


def apgd(value_and_grad: Callable, start: PyTree, ball: Ball, rho: ScalarLike, steps: int) -> Peak:
    """Auto-PGD: ascent with momentum whose step size halves when it makes no progress.

        y_k     = project(z_k + eta steepest(g_k)),    eta = 2 rho at first
        z_(k+1) = project(z_k + a (y_k - z_k) + (1 - a)(z_k - z_(k-1))),    a = 3/4, 1 at first

    At checkpoints w_j (`checkpoints`) eta halves, and the best point is gone back to, if the value
    rose in fewer than 3/4 of the steps since the last one, or neither eta nor the largest value
    changed since then. Croce and Hein 2020 (arXiv 2003.01690), algorithm 1. Cost: steps + 1
    gradients.
    """
    marks = checkpoints(steps)
    since = np.zeros(steps, np.int32)  # steps since the last checkpoint, at checkpoints
    since[marks] = np.diff(marks, prepend=0)

    def step(carry, xs):
        point, previous, best, last, eta, rises, old = carry
        k, length = xs
        y = ball.project(optax.tree.add(point.z, ball.steepest(point.grads, eta)), rho)
        a = jnp.where(k == 0, 1.0, 0.75)
        moved = jax.tree.map(
            lambda z, y, p: z + a * (y - z) + (1 - a) * (z - p),
            *(point.z, y, previous),
        )
        new = _point(value_and_grad, ball.project(moved, rho), start)
        stuck = (old[0] == eta) & (old[1] == best.value)
        halve = (length > 0) & ((rises < 0.75 * length) | stuck)
        old = _where(length > 0, (eta, best.value), old)
        rises = jnp.where(length > 0, 0, rises) + (new.value > last)
        best, last = _better(new, best), new.value
        eta = jnp.where(halve, eta / 2, eta)
        return (_where(halve, best, new), point.z, best, last, eta, rises, old), None

    first = _point(value_and_grad, start, start)
    eta = jnp.asarray(2 * rho, first.value.dtype)
    carry = (first, start, first, first.value, eta, jnp.int32(0), (eta, first.value))
    (_, _, best, *_), _ = jax.lax.scan(step, carry, (np.arange(steps), since))
    return _peak(best, first, ball, rho)


def checkpoints(steps: int) -> list[int]:
    """Steps w_j = ceil(p_j steps) below ``steps`` at which Auto-PGD may halve its step size.

    p_0 = 0, p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06).
    """
    found, before, now = [], 0.0, 0.22
    while (mark := math.ceil(round(now * steps, 9))) < steps:
        found.append(mark)
        before, now = now, now + max(now - before - 0.03, 0.06)
    return list(dict.fromkeys(found))


def restarted(
    ascent: Ascent,
    value_and_grad: Callable,
    like: PyTree,
    ball: Ball,
    rho: ScalarLike,
    key: Array,
    *,
    steps: int,
    starts: int,
) -> Peak:
    """The best by value of ascents from zero and from ``starts - 1`` random points of the ball.

    ``start`` of the result is the value at zero, which is among those compared. Starts follow each
    other, each from a point of its own.
    """

    def from_start(index):
        drawn = ball.draw(jax.random.fold_in(key, index), like, rho)
        start = jax.tree.map(lambda x: jnp.where(index == 0, jnp.zeros_like(x), x), drawn)
        return ascent(value_and_grad, start, ball, rho, steps)

    peaks = jax.lax.map(from_start, jnp.arange(starts))
    best = jnp.argmax(peaks.value)
    return Peak(peaks.value[best], peaks.start[0], peaks.gap[best])


def ascended(
    ascent: Ascent,
    value_and_grad: Callable,
    params: PyTree,
    scale: PyTree,
    norm: str,
    rho: ScalarLike,
    key: Array,
    steps: int,
    starts: int,
) -> Peak:
    """The peak of a loss of the parameters over ||d / scale||_norm <= rho around them."""
    wide = widen(params)

    def at(z):
        moved = optax.tree.add(wide, optax.tree.mul(scale, z))
        value, grads = value_and_grad(optax.tree.cast_like(moved, params))
        return value, optax.tree.mul(scale, widen(grads))

    return restarted(ascent, at, wide, BALLS[norm], rho, key, steps=steps, starts=starts)


def _point(value_and_grad, z, like):
    z = optax.tree.cast_like(z, like)
    return _Point(z, *value_and_grad(z))


def _better(new, best):
    return _where(new.value > best.value, new, best)


def _where(condition, new, old):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _peak(best, first, ball, rho):
    inner = optax.tree.vdot(best.grads, best.z)
    gap = jnp.maximum(rho * ball.dual(best.grads) - inner, 0)  # below only by rounding
    return Peak(best.value, first.value, gap)
