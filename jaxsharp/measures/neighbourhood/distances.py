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

    def distance(index):
        drawn = sphere(jax.random.fold_in(key, index // 2 if antithetic else index), params)
        sign = jnp.where(antithetic & (index % 2 == 1), -1.0, 1.0)
        moved = optax.tree.cast_like(optax.tree.scale(sign, drawn), params)
        return _distance(network, memory.divided(vmapped), params, stats, batch, moved, rise)

    with own_settings():
        return jax.lax.map(distance, jnp.arange(num), batch_size=vmapped)


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
    static = (network, options.num_perturbations, options.antithetic, memory)
    return random_distances(*static, at.params, at.stats, batch, key, jnp.asarray(options.rise))


def _mean(network, at: Trained, batch, options: Options, found) -> Record:
    """Of the directions, or pairs, along which the loss rises so far; unfinished if some are not.

    ValueError for fewer than two.
    """
    size = 2 if options.antithetic else 1
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
    return Record(mean.value, error, finished, cost, len(batch[0]), len(values), False)


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
        ("rise", "num_perturbations", "antithetic"),
        SYMMETRIES,
        _random,
        _mean,
    ),
}
