"""Minimum sharpness from a sample of the examples, taken until its standard error is small enough.

One combination of an example's factors with random signs has that example's traces t_ij for its
mean (`curvature.exact.sampled_traces`). By the envelope theorem, with v the minimizing scales of
the mean traces, the minimum changes as the mean over examples of

    r_i = sum_j exp(-2 <a_j, v>) t_ij

does, so that its variance is that of the mean of r_i: of n out of N examples, without replacement,

    error^2 = ((1 - n/N) (V - W) + W) / n,

V the variance of r_i over the sample, W the part that is due to the signs, of a second draw for the
first examples. The minimum of mean traces is lower than that of the true ones by O(1/n), of second
order.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxsharp.core.chunks import check_pair
from jaxsharp.core.keys import stream
from jaxsharp.core.memory import Budget, affordable_chunk, budget
from jaxsharp.core.programs import own_settings
from jaxsharp.curvature.exact import sampled_traces
from jaxsharp.measures.minimum.scales import ScaleMinimum, minimize_over_scales
from jaxsharp.measures.minimum.sharpness import example_of, group_traces, structure_of
from jaxsharp.measures.output_losses import COMBINED, check_known, factors_of
from jaxsharp.networks.losses import loss_of
from jaxsharp.networks.network import Network

BLOCK = 256  # examples after which the error is looked at, and fewest that a sample has
NEWTON_STEPS = 20


class SampledMinimum(NamedTuple):
    """Minimum sharpness and its standard error.

    ``examples``: how many of the data were taken; ``exact``: all of them, with all factors, so that
    ``error`` is the duality gap of ``minimum``. ``minimum`` is that of the mean traces.
    """

    value: float
    error: float
    minimum: ScaleMinimum
    examples: int
    exact: bool


class Sample(NamedTuple):
    """Moments of the traces of the examples so far, of J groups.

    All in units of ``scale`` (J,), so that squares of small traces do not vanish. ``covariance`` is
    over examples and signs, ``of_signs`` the part that is due to these. ``exact``: the mean is that
    of all examples and factors.
    """

    scale: Float[Array, " J"]
    count: Int[Array, ""]
    mean: Float[Array, " J"]
    covariance: Float[Array, "J J"]
    of_signs: Float[Array, "J J"]
    exact: Array


@own_settings()
def sampled_minimum_sharpness(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    *,
    rtol: float = 0.01,
    loss: str | None = None,
    memory: Budget | None = None,
) -> SampledMinimum:
    """Minimum sharpness to a relative standard error of ``rtol``, from as few examples as reach it.

    Examples are drawn without replacement, 256 at a time. Cost: one forward and one backward pass
    for each of them, whatever the number of classes. If all do not reach ``rtol`` the exact form is
    taken. The error is for the sample over ``batch``, and not for these data as a sample of others.

    Raises as `minimum_sharpness`, and ValueError for ``rtol`` outside of (0, 1).
    """
    if not 0 < rtol < 1:
        raise ValueError(f"rtol is {rtol}; it must be above 0 and below 1")
    check_pair(batch)
    images, targets = batch
    if loss is not None:
        network = network._replace(loss=loss_of(loss))
    check_known(network, params, stats, images, targets)
    key = stream(key, "sampled_minimum_sharpness")
    found = sample(network, rtol, memory or budget(), params, stats, jnp.asarray(images), key)
    return from_sample(network, params, stats, images, found)


def from_sample(
    network: Network, params: PyTree, stats: PyTree, images: Array | np.ndarray, found: Sample
) -> SampledMinimum:
    """The minimum of the mean traces of a sample, solved in float64, and its standard error."""
    exponents = structure_of(network, params, stats, images).exponents
    scale, count, mean, covariance, of_signs, exact = (np.asarray(x, np.float64) for x in found)
    least = minimize_over_scales(scale * mean, exponents)
    exact = bool(exact) or (count == len(images) and not of_signs.any())  # of a single factor
    error = least.error
    if not exact and least.value > 0:
        weights = scale * np.exp(-2 * exponents @ least.log_scales) / least.value
        squared = variance(weights, count, len(images), covariance, of_signs)
        error = least.value * np.sqrt(squared)
    return SampledMinimum(least.value, float(error), least, int(count), exact)


def variance(weights, count, total, covariance, of_signs):
    """Variance of the mean of r_i = <weights, t_i> over ``count`` of ``total`` examples."""
    both, signs = (jnp.maximum(weights @ c @ weights, 0) for c in (covariance, of_signs))
    signs = jnp.minimum(both, signs)
    return ((1 - count / total) * (both - signs) + signs) / count


@partial(jax.jit, static_argnums=range(3))
def sample(
    network: Network,
    rtol: float,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    images: Array,
    key: Array,
) -> Sample:
    """Moments of the traces of as many examples as reach ``rtol``, or the exact traces of all."""
    factors_of(network.loss)
    total, combined = len(images), COMBINED[network.loss.name]
    exponents = jnp.asarray(structure_of(network, params, stats, images).exponents)
    order = jax.random.permutation(stream(key, "examples"), total)
    keys = [stream(key, purpose) for purpose in ("signs", "second signs")]

    def traces_of(chunk, key, scale=1.0):
        found = sampled_traces(example_of(network), params, stats, chunk, key, combined=combined)
        return jnp.stack(jax.tree.leaves(found), axis=1) / scale

    fitting = affordable_chunk(lambda chunk: traces_of(chunk, keys[0]), images, memory)
    size = min(BLOCK, total, fitting or total)
    look = max(1, min(BLOCK, total) // size)  # blocks of a memory's chunks before the first look

    def block(i, key, scale=1.0):
        chunk = images[jax.lax.dynamic_slice(order, [i * size], [size])]
        return traces_of(chunk, jax.random.fold_in(key, i), scale)

    def add(so_far):
        n, traces = so_far.count, block(so_far.count // size, keys[0], so_far.scale)
        mean = traces.mean(0)
        off, share = mean - so_far.mean, size / (n + size)
        within = (traces - mean).T @ (traces - mean)
        before = so_far.covariance * jnp.maximum(n - 1, 0)
        covariance = before + within + n * share * jnp.outer(off, off)
        return so_far._replace(
            count=n + size,
            mean=so_far.mean + share * off,
            covariance=covariance / jnp.maximum(n + size - 1, 1),
        )

    def goes_on(so_far):
        return (so_far.count + size <= total) & ((so_far.count < look * size) | ~reached(so_far))

    def reached(so_far):
        log_traces = jnp.log(so_far.mean) + jnp.log(so_far.scale)
        terms = log_traces - 2 * exponents @ minimizing(log_traces, exponents)
        weights = jnp.where(so_far.mean > 0, jax.nn.softmax(terms) / so_far.mean, 0)  # of value 1
        return variance(weights, so_far.count, total, *so_far[3:5]) <= rtol**2

    first, second = (block(0, key) for key in keys)
    scale = jnp.where(first.mean(0) > 0, first.mean(0), 1)
    change, nothing = (first - second) / scale, jnp.zeros_like(scale)
    of_signs = change.T @ change / (2 * size)
    moments = nothing, jnp.outer(nothing, nothing), of_signs
    start = Sample(scale, jnp.zeros((), jnp.int32), *moments, jnp.zeros((), bool))
    found = jax.lax.while_loop(goes_on, add, start)

    def of_all(so_far):
        traces = group_traces(network, None, memory, params, stats, images)
        mean = (jnp.stack(jax.tree.leaves(traces)) / so_far.scale).astype(so_far.mean.dtype)
        count = jnp.full_like(so_far.count, total)
        return so_far._replace(count=count, mean=mean, exact=jnp.ones_like(so_far.exact))

    # A loop of one turn at most, which members of a group that are vmapped skip together.
    return jax.lax.while_loop(lambda s: ~s.exact & ~reached(s), of_all, found)


def minimizing(
    log_traces: Float[Array, " J"], exponents: Float[Array, "J K"]
) -> Float[Array, " K"]:
    """Scales near the minimizing ones, good enough to judge an error by.

    Newton's steps for the logarithm of the objective, with the root of the gradient's norm as
    damping (Mishchenko 2023), in the dtype of the traces.
    """
    if exponents.shape[1] == 0:
        return jnp.zeros(0, log_traces.dtype)
    exponents = exponents.astype(log_traces.dtype)

    def step(_, v):
        weights = jax.nn.softmax(log_traces - 2 * exponents @ v)
        mean = weights @ exponents
        centered = exponents - mean
        hessian = 4 * (centered.T * weights) @ centered
        damping = jnp.sqrt(jnp.linalg.norm(mean)) + 1e-6
        return v + jnp.linalg.solve(hessian + damping * jnp.eye(len(v), dtype=v.dtype), 2 * mean)

    return jax.lax.fori_loop(0, NEWTON_STEPS, step, jnp.zeros(exponents.shape[1], exponents.dtype))
