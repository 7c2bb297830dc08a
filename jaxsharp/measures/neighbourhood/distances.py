"""How far the parameters may move until the loss has risen by a given amount.

    t with L(theta + t d) - L(theta) = rise,    ||d||_2 = 1

epsilon_sharpness          d = g/||g||, the direction of the gradient
epsilon_sharpness_random   d uniform on the sphere; the mean of t over draws, those of the draws
                           along which the loss rises so far, and unfinished if some are not

The smaller, the sharper. A width is that of the bracket, and what rounding may move t by
(`crossings.with_rounding`). A distance that is not larger than that is none, and not finished.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree, ScalarLike

from jaxsharp.core.averages import Average, Limits, average
from jaxsharp.core.memory import Budget
from jaxsharp.core.programs import own_settings
from jaxsharp.core.trees import scaled_to_norm
from jaxsharp.measures.contract import EVERY, Measure, Options, Record, Trained
from jaxsharp.measures.neighbourhood.average import from_increases
from jaxsharp.measures.neighbourhood.crossings import Crossing, crossing, with_rounding
from jaxsharp.measures.neighbourhood.directions import sphere
from jaxsharp.measures.neighbourhood.losses import (
    loss_around,
    side_by_side,
    value_and_grad_around,
)
from jaxsharp.measures.neighbourhood.sampling import MOST_TERMS
from jaxsharp.networks.network import Network


@partial(jax.jit, static_argnums=range(2))
def gradient_distance(
    network: Network,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    rise: ScalarLike,
) -> Crossing:
    """Distance along the gradient at which the loss has risen; not found for a zero gradient."""
    with own_settings():
        _, grads = value_and_grad_around(network, params, stats, batch, memory)(params)
        return _distance(network, memory, params, stats, batch, scaled_to_norm(grads, 1.0), rise)


@partial(jax.jit, static_argnums=range(4))
def random_distances(
    network: Network,
    num: int,
    antithetic: bool,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    rise: ScalarLike,
) -> Crossing:
    """Distances along random directions, as `average.perturbed` draws them; all along an axis."""
    vmapped = side_by_side(None, memory)
    distance = _drawn(network, antithetic, memory.divided(vmapped), params, stats, batch, key, rise)
    with own_settings():
        return jax.lax.map(distance, jnp.arange(num), batch_size=vmapped)


@partial(jax.jit, static_argnums=range(4))
def sampled_distances(
    network: Network,
    antithetic: bool,
    rtol: float,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    rise: ScalarLike,
) -> Average:
    """Means over those directions, or pairs, until the error is ``rtol`` of the distance.

    A direction along which the loss does not rise so far ends it, with 0 for a distance.
    """
    vmapped, size = side_by_side(None, memory), 2 if antithetic else 1
    distance = _drawn(network, antithetic, memory.divided(vmapped), params, stats, batch, key, rise)

    def drawn(index):
        found = jax.lax.map(distance, size * index + jnp.arange(size))
        risen = jnp.all(found.found)
        calls, dtype = jnp.sum(found.calls), found.value.dtype
        value, width = (jnp.where(risen, jnp.mean(x), 0) for x in (found.value, found.width))
        return Crossing(value, width, risen.astype(dtype), calls.astype(dtype))

    def summary(mean, stderr):
        value = jnp.where(mean.found < 1, jnp.nan, mean.value)
        return value, jnp.hypot(stderr.value, mean.width)

    with own_settings():
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(drawn, jnp.int32(0)))
        return average(drawn, zeros, summary, Limits(rtol, 0.0, MOST_TERMS), jax.lax, vmapped)


def _drawn(network, antithetic, memory, params, stats, batch, key, rise):
    def distance(index):
        drawn = sphere(jax.random.fold_in(key, index // 2 if antithetic else index), params)
        sign = jnp.where(antithetic & (index % 2 == 1), -1.0, 1.0)
        moved = optax.tree.cast_like(optax.tree.scale(sign, drawn), params)
        return _distance(network, memory, params, stats, batch, moved, rise)

    return distance


def _distance(network, memory, params, stats, batch, direction, rise):
    loss = loss_around(network, params, stats, batch, memory)
    base = loss(params)

    def risen(distance):
        moved = optax.tree.add_scale(params, distance, direction)
        return loss(optax.tree.cast_like(moved, params)) - base

    return with_rounding(crossing(risen, rise, base), base, rise, params, 1.0)


def check_found(found: Crossing, rise: float) -> None:
    """Raise ValueError where the loss does not rise as far."""
    missing = np.count_nonzero(~np.asarray(found.found))
    if missing:
        raise ValueError(
            f"the loss does not rise by {rise:g} along {missing} of {np.size(found.found)} "
            "directions, or is not finite at the parameters"
        )


def _along(network, at: Trained, batch, key, options: Options, memory):
    rise = jnp.asarray(options.rise)
    return gradient_distance(network, memory, at.params, at.stats, batch, rise)


def _one(network, at: Trained, batch, options: Options, found) -> Record:
    check_found(found, options.rise)
    value, width, cost = float(found.value), float(found.width), int(found.calls) + 2
    return Record(value, width, width < value, cost, len(batch[0]), 1, True)


def _random(network, at: Trained, batch, key, options: Options, memory):
    arguments = at.params, at.stats, batch, key, jnp.asarray(options.rise)
    if options.measure_rtol is not None:
        how = options.antithetic, options.measure_rtol
        found = sampled_distances(network, *how, memory, *arguments)
        return found.mean, found.stderr, found.count, found.converged
    static = (network, options.num_perturbations, options.antithetic, memory)
    return random_distances(*static, *arguments)


def _mean(network, at: Trained, batch, options: Options, found) -> Record:
    """Of the directions, or pairs, along which the loss rises so far; unfinished if some are not.

    ValueError for fewer than two.
    """
    size, total = 2 if options.antithetic else 1, len(batch[0])
    if options.measure_rtol is not None:
        return _of_sample(size, total, options.rise, *found)
    risen = np.asarray(found.found).reshape(-1, size).all(1)
    if risen.sum() < 2:
        check_found(found, options.rise)
    values, widths = (
        np.asarray(x, np.float64).reshape(-1, size)[risen].ravel()
        for x in (found.value, found.width)
    )
    mean, cost = from_increases(values, options.antithetic), int(np.sum(found.calls)) + 1
    error, finished = math.hypot(mean.error, widths.mean()), bool(risen.all())
    finished &= bool(widths.mean() < mean.value)
    return Record(mean.value, error, finished, cost, total, len(values), False)


def _of_sample(size, total, rise, mean, stderr, count, reached) -> Record:
    """The same of means over ``count`` directions, or pairs; no error where some do not rise."""
    value, width, risen, calls = (float(x) for x in mean)
    if not risen > 0:
        raise ValueError(
            f"the loss does not rise by {rise:g} along a direction, or is not finite at the "
            "parameters"
        )
    error = math.hypot(float(stderr.value), width) if risen == 1 else math.nan
    finished, num = bool(reached) and width < value, round(risen * int(count))
    cost = round(calls * int(count)) + 1
    return Record(value / risen, error, finished, cost, total, size * num, False)


REFERENCE = "the distance form of the sharpness of Keskar et al. 2017, arXiv 1609.04836"
SYMMETRIES = EVERY - {"layer_rescaling", "unit_rescaling", "logit_scale"}
MEASURES = {
    "epsilon_sharpness": Measure(
        "distance along the gradient at which the loss has risen by 0.1 (--rise)",
        REFERENCE,
        "distance of parameters; the smaller, the sharper",
        "width of the bracket, and rounding",
        "losses over the data",
        ("rise",),
        SYMMETRIES,
        _along,
        _one,
    ),
    "epsilon_sharpness_random": Measure(
        "the same along random directions, their mean",
        REFERENCE,
        "distance of parameters; the smaller, the sharper",
        "standard error",
        "losses over the data",
        ("rise", "num_perturbations", "antithetic", "measure_rtol"),
        SYMMETRIES,
        _random,
        _mean,
    ),
}
