"""Minimum sharpness from a sample of the examples, taken until its standard error is small enough.

A forward pass gives each example's size u_i = sum_k ||s_k||^2, the trace of the Hessian of its loss
in its outputs. Its traces in the parameters are about proportional to that, and 0 with it; in a
trained network a few examples have most of the sum. They are taken in the order of the priorities
u_i / U_i, U_i uniform on (0, 1). With tau the priority of the first that is left out, the n taken
ones are a sample where example i had probability p_i = min(1, u_i / tau), independently of the
others in all moments (Duffield, Lund and Thorup 2007, "Priority sampling for estimation of
arbitrary subset sums", theorem 1). One combination of an example's factors with random signs has
its traces t_ij for its mean (`curvature.exact.sampled_traces`), and the mean trace of group j is
estimated by

    m_j = mean(u) sum_i t_ij / p_i / sum_i u_i / p_i,    over the taken ones.

By the envelope theorem, with v the minimizing scales of the m_j, the minimum changes as the mean
over examples of r_i = sum_j exp(-2 <a_j, v>) t_ij does. With residuals e_i = r_i - c u_i, c the
ratio of the estimated means of r and u, and N the number of examples,

    N^2 error^2 = sum_i (1 - p_i) e_i^2 / p_i^2 + sum_i s_i^2 / p_i,    over the taken ones,

s_i^2 the variance due to the signs; of the second sum the first examples taken are an estimate, by
a second draw. The minimum of mean traces is lower than that of the true ones by O(1/n), of second
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
from jaxsharp.core.memory import Budget, budget, map_few
from jaxsharp.core.programs import own_settings
from jaxsharp.core.streaming import Inputs, rows
from jaxsharp.core.trees import widen
from jaxsharp.curvature.exact import sampled_traces
from jaxsharp.measures.minimum.scales import ScaleMinimum, minimize_over_scales
from jaxsharp.measures.minimum.sharpness import example_of, group_traces, structure_of
from jaxsharp.measures.output_losses import COMBINED, check_known, factors_of
from jaxsharp.networks.losses import loss_of
from jaxsharp.networks.network import Network

BLOCK = 256  # examples after which the error is looked at, and fewest that a sample has
AGAIN = 128  # the first of them, which have second signs
# On the CPU a forward pass is fastest with so much less than a chunk may take: nothing is kept for
# a backward one, and what is alive at a time stays in the caches.
FORWARD_SHARE = 8
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
    """Mean traces of J groups from the examples taken so far, and the covariance of these means.

    All in units of ``scale`` (J,), so that squares of small traces do not vanish. ``of_signs`` is
    the part of the covariance that is due to the signs. ``exact``: the mean is that of all examples
    and factors, which were taken besides the ``count`` ones.
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

    Examples are drawn without replacement, 256 at a time. Cost: a forward pass for each example of
    ``batch``, a forward and a backward one for each that is taken, and again for the first 128,
    whatever the number of classes; memory of the traces of all examples. If all do not reach
    ``rtol`` the exact form is taken. The error is for the sample over ``batch``, and not for these
    data as a sample of others.

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
    found = sample(network, rtol, memory or budget(), params, stats, images, key)
    return from_sample(network, params, stats, images, found)


def from_sample(
    network: Network, params: PyTree, stats: PyTree, images: Inputs, found: Sample
) -> SampledMinimum:
    """The minimum of the mean traces of a sample, solved in float64, and its standard error."""
    exponents = structure_of(network, params, stats, images).exponents
    scale, count, mean, covariance, _, exact = (np.asarray(x, np.float64) for x in found)
    least = minimize_over_scales(scale * mean, exponents)
    examples = len(images) if exact else int(count)
    exact = bool(exact) or (count == len(images) and not covariance.any())  # of a single factor
    error = least.error
    if not exact and least.value > 0:
        weights = scale * np.exp(-2 * exponents @ least.log_scales)
        error = np.sqrt(weights @ covariance @ weights)
    return SampledMinimum(least.value, float(error), least, examples, exact)


@partial(jax.jit, static_argnums=range(3))
def sample(
    network: Network,
    rtol: float,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    images: Inputs,
    key: Array,
) -> Sample:
    """Mean traces of as many examples as reach ``rtol``, or the exact traces of all."""
    total, factors = len(images), factors_of(network.loss)
    size = min(BLOCK, total)
    fn, combined = example_of(network), COMBINED[network.loss.name]
    exponents = jnp.asarray(structure_of(network, params, stats, images).exponents)

    def size_of(image):
        return jnp.sum(jnp.square(factors(widen(fn(params, stats, image)))))

    def traces_of(chosen, key):
        arguments = (fn, params, stats, rows(images, chosen), key)
        found = sampled_traces(*arguments, combined=combined, memory=memory)
        return jnp.stack(jax.tree.leaves(found), axis=1)

    sizes = map_few(size_of, images, memory if memory.vmapped else memory.divided(FORWARD_SHARE))
    uniform = 1 - jax.random.uniform(stream(key, "examples"), sizes.shape, sizes.dtype)
    order = jnp.argsort(-sizes / uniform)
    sizes, priorities = sizes[order], (sizes / uniform)[order]

    def taken(count):
        """1 / p_i of the first examples in order, 0 of others; N times the weight of their sum."""
        threshold = jnp.where(count < total, priorities[jnp.minimum(count, total - 1)], 0)
        inverse = jnp.where(sizes < threshold, threshold / nonzero(sizes), 1)
        inverse = jnp.where(jnp.arange(total) < count, inverse, 0)
        return inverse, sizes.mean() / nonzero(inverse @ sizes)

    signs, second_signs = (stream(key, purpose) for purpose in ("signs", "second signs"))
    first = traces_of(order[:size], jax.random.fold_in(signs, 0))
    second = traces_of(order[: min(AGAIN, total)], second_signs)
    scale, again = nonzero(first.mean(0)), len(second)
    change = (first[:again] - second) / scale * jnp.sqrt(taken(again)[0][:again, None] / 2)
    of_signs = change.T @ change / total**2

    def include(so_far, block):
        """The sample with the traces of as many examples more, of which some may be there."""
        (_, traces), count = so_far, jnp.minimum(so_far[0].count + size, total)
        traces = jax.lax.dynamic_update_slice(traces, block / scale, [so_far[0].count, 0])
        inverse, weight = taken(count)
        mean = weight * (inverse @ traces)
        residuals = inverse[:, None] * (traces - jnp.outer(sizes, mean / nonzero(sizes.mean())))
        left_out = 1 - 1 / jnp.maximum(inverse, 1)
        covariance = weight**2 * (residuals.T * left_out) @ residuals + of_signs
        return Sample(scale, count, mean, covariance, of_signs, so_far[0].exact), traces

    def add(so_far):
        count = so_far[0].count
        chosen = jax.lax.dynamic_slice(order, [count], [size])
        return include(so_far, traces_of(chosen, jax.random.fold_in(signs, count)))

    def relative_variances(found):
        log_traces = jnp.log(found.mean) + jnp.log(scale)
        terms = log_traces - 2 * exponents @ minimizing(log_traces, exponents)
        weights = jnp.where(found.mean > 0, jax.nn.softmax(terms) / found.mean, 0)  # of value 1
        return [weights @ c @ weights for c in (found.covariance, found.of_signs)]

    def reached(found):
        return relative_variances(found)[0] <= rtol**2

    def goes_on(so_far):
        """Where the error is too large, and not by the signs alone, which no more examples mend."""
        both, of_signs = relative_variances(so_far[0])
        return (so_far[0].count < total) & ~(both <= rtol**2) & (of_signs <= rtol**2)

    nothing = jnp.zeros((total, len(scale)), scale.dtype)
    none = jnp.zeros((), jnp.int32)
    start = Sample(scale, none, nothing[0], of_signs, of_signs, jnp.zeros((), bool))
    found, _ = jax.lax.while_loop(goes_on, add, include((start, nothing), first))

    def of_all(found):
        # Of parameters that depend on the loop's state: XLA would take the work out of the loop,
        # and do it always.
        known = jax.tree.map(lambda p: jnp.where(found.exact, jnp.nan, p), params)
        traces = group_traces(network, None, memory, known, stats, images)
        mean = (jnp.stack(jax.tree.leaves(traces)) / scale).astype(found.mean.dtype)
        return found._replace(mean=mean, exact=jnp.ones_like(found.exact))

    # A loop of one turn at most, which members of a group that are vmapped skip together.
    return jax.lax.while_loop(lambda found: ~found.exact & ~reached(found), of_all, found)


def nonzero(x: Array) -> Array:
    """The numbers, with 1 in the place of 0, to divide by."""
    return jnp.where(x == 0, 1, x)


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
