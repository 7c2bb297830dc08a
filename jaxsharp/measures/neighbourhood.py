"""Average-case sharpness: the mean rise of the loss at random points around the parameters."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsharp.core.chunks import check_pair, mean_over_chunks
from jaxsharp.core.keys import stream
from jaxsharp.core.memory import Budget, affordable_chunk, budget
from jaxsharp.core.programs import own_settings
from jaxsharp.core.trees import random_direction
from jaxsharp.networks.network import Network, recompute_statistics


class RandomSharpness(NamedTuple):
    """Mean of the loss increases, its standard error, and the increases themselves.

    In pairs, ``increases`` has those at u and -u one after the other.
    """

    value: float
    error: float
    increases: Float[np.ndarray, " n"]


@own_settings()
def random_perturbation(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    *,
    radius: float = 5.0,
    num_perturbations: int = 50,
    antithetic: bool = True,
    recompute: bool = False,
    chunk_size: int | None = None,
    vmapped: int | None = None,
    memory: Budget | None = None,
) -> RandomSharpness:
    """Mean of L(theta + r u) - L(theta) over unit vectors u, uniform on the sphere in R^P.

    ``radius`` r is the norm of the whole perturbation (5 in study B), not a standard deviation per
    coordinate; r -> 0 gives r^2 tr(H)/(2 P). ``batch`` is (images, labels), the loss its mean
    cross-entropy. BatchNorm statistics are kept, or with ``recompute`` made anew over ``batch``
    at every point, theta included (study B).

    Perturbations come in pairs u and -u, whose mean has no term r <g, u> of the gradient g: at a
    small radius, or where training has not converged, that term is all that independent directions
    see, as large as r |g| / sqrt(P) beside r^2 tr(H) / (2 P). ``antithetic=False`` takes
    independent ones, study B 49 of them. ``error`` is the standard error of the mean, over the
    pairs or the directions: it speaks of this model, not of the spread between seeds.

    Cost: num_perturbations + 1 forward passes over the data (as many more for each BatchNorm
    layer with ``recompute``), ``chunk_size`` examples (None: as ``memory`` allows) and ``vmapped``
    perturbations at a time (None: 1 on the CPU, 8 elsewhere, as ``memory`` says), each of which is
    a copy of the parameters. The value does not depend on either beyond rounding. Changes under
    layer rescaling.

    Raises ValueError for radius <= 0, for fewer perturbations than a standard error needs, or an
    odd number in pairs, and for a loss that is not finite at the parameters or a perturbed point.
    """
    if not radius > 0:
        raise ValueError(f"radius is {radius}; it must be a positive number")
    check_count(num_perturbations, antithetic)
    check_pair(batch)
    count = (num_perturbations, antithetic)
    static = (network, *count, recompute, chunk_size, vmapped, memory or budget())
    key = stream(key, "random_perturbation")
    increases = loss_increases(*static, params, stats, batch, key, radius)
    return from_increases(increases, antithetic)


def check_count(num_perturbations: int, antithetic: bool) -> None:
    """Raise ValueError for a number of perturbations that gives no standard error."""
    if antithetic and (num_perturbations < 4 or num_perturbations % 2):
        raise ValueError(
            f"num_perturbations is {num_perturbations}; in pairs it must be even and at least 4, "
            "or antithetic False for independent ones"
        )
    if num_perturbations < 2:
        raise ValueError(
            f"num_perturbations is {num_perturbations}; a standard error needs at least 2"
        )


def from_increases(increases: ArrayLike, antithetic: bool) -> RandomSharpness:
    """Mean and standard error of the increases of the loss; ValueError if one is not finite."""
    increases = np.asarray(increases, np.float64)
    bad = np.count_nonzero(~np.isfinite(increases))
    if bad:
        where = f"{bad} of {len(increases)} perturbed points"
        if bad == len(increases):
            where = f"the parameters, or at all {bad} perturbed points"
        raise ValueError(f"the loss is not finite at {where}")
    units = increases.reshape(-1, 2).mean(1) if antithetic else increases
    error = units.std(ddof=1) / np.sqrt(len(units))
    return RandomSharpness(float(units.mean()), float(error), increases)


@partial(jax.jit, static_argnums=range(7))
def loss_increases(
    network: Network,
    num: int,
    antithetic: bool,
    recompute: bool,
    chunk_size: int | None,
    vmapped: int | None,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    radius: Array,
) -> Float[Array, " num"]:
    """L(theta + r u_i) - L(theta) for i < num, u_i drawn from ``fold_in(key, i)``.

    With ``antithetic`` u_i is +v_j for i = 2 j and -v_j for i = 2 j + 1, v_j drawn for j.
    """
    if vmapped is None:
        vmapped = 8 if memory.vmapped else 1
    if chunk_size is None:
        frozen = partial(network.frozen_loss(stats), params)
        chunk_size = affordable_chunk(frozen, batch, memory.divided(vmapped))

    def loss(params):
        at = stats
        if recompute:
            at = recompute_statistics(network, params, stats, batch[0], chunk_size=chunk_size)
        return mean_over_chunks(partial(network.frozen_loss(at), params), batch, chunk_size)

    def perturbed_loss(index):
        drawn, step = index, radius
        if antithetic:  # in the dtype of the radius, whatever that of the index is
            drawn, step = index // 2, jnp.where(index % 2 == 0, radius, -radius)
        direction = random_direction(jax.random.fold_in(key, drawn), params)
        return loss(optax.tree.add_scale(params, step, direction))

    with own_settings():
        losses = jax.lax.map(perturbed_loss, jnp.arange(num), batch_size=vmapped)
        return losses - loss(params)
