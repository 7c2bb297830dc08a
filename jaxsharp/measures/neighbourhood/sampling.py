"""Mean rises of the loss to a stated relative error, by random directions and random examples."""

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


class SampledRise(NamedTuple):
    """Mean and standard error of the rises of ``draws`` directions, each at ``block`` examples."""

    mean: Float[Array, ""]
    stderr: Float[Array, ""]
    draws: Int[Array, ""]
    converged: Bool[Array, ""]


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
) -> SampledRise:
    """The mean of L(theta + r u) - L(theta) over directions u, to a relative error of ``rtol``.

        d_i = (L_i(theta + r u_i) + L_i(theta - r u_i)) / 2 - L_i(theta),
        mean = (1/n) sum_i d_i,    stderr = std(d_i) / sqrt(n)

    L_i is the mean loss over a block of `BLOCK` examples that is drawn for direction i, the same
    at all three points (common random numbers). Blocks and directions are drawn anew for every i,
    so that the d_i are independent, and their spread is that of both. Not ``antithetic``: without
    the term at -u_i, and twice that at u_i. With ``level`` L(theta) over all examples is added.
    n grows from `MIN_PROBES` until stderr <= rtol |mean|, or to `MOST_PASSES` over the data.
    """
    total = len(batch[1])
    size, points = block_size(total, recompute), 3 if antithetic else 2
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

    def rise(index):
        own = jax.random.fold_in(key, index)
        loss, direction = loss_of_block(own), draw(own, params)
        ways = (radius, -radius) if antithetic else (radius,)
        at = [loss(optax.tree.add_scale(params, way, direction)) for way in ways]
        return sum(at) / len(at) - loss(params) + base

    with own_settings():
        base = all_examples()(params) if level else jnp.zeros(())
        vmapped = side_by_side(None, memory)
        most = max(MIN_PROBES, MOST_PASSES * total // (points * size))
        zero = jnp.zeros_like(jax.eval_shape(rise, jnp.int32(0)))
        loops = jax.lax
        found = average(rise, zero, itself, Limits(rtol, 0.0, most), loops, vmapped)
    return SampledRise(found.mean, found.stderr, found.count, found.converged)
