"""Means to a stated relative error: of draws, and of rises by random directions and examples."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree, ScalarLike

from jaxsharp.core.averages import MIN_PROBES, Limits, average, itself
from jaxsharp.core.chunks import mean_over_chunks
from jaxsharp.core.keys import stream
from jaxsharp.core.memory import Budget, affordable_chunk
from jaxsharp.core.programs import own_settings
from jaxsharp.core.streaming import rows
from jaxsharp.measures.neighbourhood.losses import loss_around, side_by_side
from jaxsharp.networks.network import Network

BLOCK = 256  # examples at which one direction is looked at
MOST_PASSES = 200  # passes over the data after which it stops without the stated error
MOST_TERMS = 1_000  # groups, subspaces, directions or pairs after which others do


class SampledMean(NamedTuple):
    """Mean and standard error of so many independent ``draws``, and whether that was asked for."""

    mean: Float[Array, ""]
    stderr: Float[Array, ""]
    draws: Int[Array, ""]
    converged: Bool[Array, ""]


def sampled_mean(draw: Callable[[Int[Array, ""]], Array], rtol: float) -> SampledMean:
    """The mean of ``draw(i)``, from `MIN_PROBES` to `MOST_TERMS` of them, one at a time."""
    zero = jnp.zeros_like(jax.eval_shape(draw, jnp.int32(0)))
    found = average(draw, zero, itself, Limits(rtol, 0.0, MOST_TERMS), jax.lax, 1)
    return SampledMean(found.mean, found.stderr, found.count, found.converged)


def checked_mean(found: SampledMean, where: str) -> tuple[float, float, int, bool]:
    """The same as numbers of the host; ValueError if one is not finite."""
    value, error = float(found.mean), float(found.stderr)
    if not (math.isfinite(value) and math.isfinite(error)):
        raise ValueError(f"the loss is not finite at the parameters, or {where}")
    return value, error, int(found.draws), bool(found.converged)


def subset(key: Array, total: int, size: int) -> Int[Array, " size"]:
    """``size`` of the numbers below ``total`` without replacement, every subset as likely.

    Floyd's algorithm (Bentley and Floyd 1987, Communications of the ACM 30, 754-757), of whose
    cost ``total`` has no part.
    """
    last = jnp.arange(total - size, total)
    drawn = jax.random.randint(key, (size,), 0, last + 1)

    def include(chosen, pair):
        place, (number, otherwise) = pair
        taken = jnp.any(chosen == number)
        return chosen.at[place].set(jnp.where(taken, otherwise, number)), None

    none = jnp.full(size, -1, drawn.dtype)
    return jax.lax.scan(include, none, (jnp.arange(size), (drawn, last)))[0]


def block_size(num_examples: int, recompute: bool) -> int:
    """Examples at which one direction is looked at: all where BatchNorm is made anew over them."""
    return num_examples if recompute else min(BLOCK, num_examples)


@partial(jax.jit, static_argnums=range(6), static_argnames="draw")
def sampled_rise(
    network: Network,
    rtol: float,
    antithetic: bool,
    recompute: bool,
    level: bool,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    radius: ScalarLike,
    *,
    draw: Callable,
) -> SampledMean:
    """The mean of L(theta + r u) - L(theta) over directions u, to a relative error of ``rtol``.

        d_i = (L_i(theta + r u_i) + L_i(theta - r u_i)) / 2 - L_i(theta),
        mean = (1/n) sum_i d_i,    stderr = std(d_i) / sqrt(n)

    L_i is the mean loss over a block of `BLOCK` examples that is drawn for direction i, the same
    at all three points (common random numbers). Blocks and directions are drawn anew for every i,
    so that the d_i are independent, and their spread is that of both. Not ``antithetic``: without
    the term at -u_i, and twice that at u_i. With ``level`` L(theta) over all examples is added.
    n grows from `MIN_PROBES` until stderr <= rtol |mean|, or to `MOST_PASSES` over the data.
    """
    total, points = len(batch[1]), 3 if antithetic else 2
    all_examples = partial(loss_around, network, params, stats, batch, memory)
    drawn = looks(network, recompute, memory, params, stats, batch, key, draw)

    def rise(index):
        loss, direction = drawn(index)
        return moved_loss(loss, params, direction, radius, antithetic) - loss(params) + base

    with own_settings():
        base = all_examples()(params) if level else jnp.zeros(())
        vmapped = side_by_side(None, memory)
        most = max(MIN_PROBES, MOST_PASSES * total // (points * block_size(total, recompute)))
        zero = jnp.zeros_like(jax.eval_shape(rise, jnp.int32(0)))
        loops = jax.lax
        found = average(rise, zero, itself, Limits(rtol, 0.0, most), loops, vmapped)
    return SampledMean(found.mean, found.stderr, found.count, found.converged)


def looks(
    network: Network,
    recompute: bool,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    draw: Callable,
) -> Callable[[Int[Array, ""]], tuple[Callable, PyTree]]:
    """For direction i, a function of i: L_i, a function of the parameters, and u_i."""
    total = len(batch[1])
    size = block_size(total, recompute)
    order = jax.random.permutation(stream(key, "rise examples"), total)
    frozen = network.frozen_loss(stats, batch[1])
    all_examples = partial(loss_around, network, params, stats, batch, memory)

    def block_of(key):
        begin = jax.random.randint(stream(key, "rise block"), (), 0, total)
        return rows(batch, order[(begin + jnp.arange(size)) % total])

    def loss_of_block(key):
        if size == total:
            return all_examples(recompute=recompute)
        block = block_of(key)
        chunk = affordable_chunk(partial(frozen, params), block, memory)
        return lambda at: mean_over_chunks(partial(frozen, at), block, chunk)

    def drawn(index):
        own = jax.random.fold_in(key, index)
        return loss_of_block(own), draw(own, params)

    return drawn


def moved_loss(
    loss: Callable, params: PyTree, direction: PyTree, radius: ScalarLike, antithetic: bool
) -> Float[Array, ""]:
    """The loss at theta + r u, or the mean of that and the loss at theta - r u."""
    ways = (radius, -radius) if antithetic else (radius,)
    at = [loss(optax.tree.add_scale(params, way, direction)) for way in ways]
    return sum(at) / len(at)


def filled(
    term: Callable[[Int[Array, ""]], Array], count: Int[Array, ""], most: int, vmapped: int
) -> Float[Array, " most"]:
    """``term(i)`` of i < ``count``, a traced number of at most ``most``, and 0 from there on."""
    like = jax.eval_shape(term, jnp.int32(0))
    room = -(-most // vmapped) * vmapped

    def further(state):
        done, terms = state
        new = jax.lax.map(term, done + jnp.arange(vmapped), batch_size=vmapped)
        return done + vmapped, jax.lax.dynamic_update_slice(terms, new, (done,))

    state = jnp.int32(0), jnp.zeros(room, like.dtype)
    _, terms = jax.lax.while_loop(lambda state: state[0] < count, further, state)
    return jnp.where(jnp.arange(most) < count, terms[:most], 0)
