"""Average-case sharpness: the mean rise of the loss at random points around the parameters."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsharp.core.chunks import mean_over_chunks
from jaxsharp.core.memory import Budget, affordable_chunk, budget
from jaxsharp.core.trees import random_direction
from jaxsharp.networks.losses import frozen_loss
from jaxsharp.networks.network import Network, recompute_statistics


class RandomSharpness(NamedTuple):
    """Mean of the loss increases, its standard error, and the increases themselves."""

    value: float
    error: float
    increases: Float[np.ndarray, " n"]


def random_perturbation(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    *,
    radius: float = 5.0,
    num_perturbations: int = 49,
    recompute: bool = False,
    chunk_size: int | None = None,
    vmapped: int | None = None,
    memory: Budget | None = None,
) -> RandomSharpness:
    """Mean of L(theta + r u) - L(theta) over unit vectors u, uniform on the sphere in R^P.

    ``radius`` r is the norm of the whole perturbation (5 in study B), not a standard deviation per
    coordinate; r -> 0 gives r^2 tr(H)/(2 P). ``batch`` is (images, labels), the loss its mean
    cross-entropy. BatchNorm statistics are kept, or with ``recompute`` made anew over ``batch``
    at every point, theta included (study B). ``error`` is the standard error of the mean over
    the perturbations: it speaks of this model, not of the spread between seeds.

    Cost: num_perturbations + 1 forward passes over the data (as many more for each BatchNorm
    layer with ``recompute``), ``chunk_size`` examples (None: as ``memory`` allows) and ``vmapped``
    perturbations at a time (None: 1 on the CPU, 8 elsewhere, as ``memory`` says), each of which is
    a copy of the parameters. The value does not depend on either beyond rounding. Changes under
    layer rescaling.

    Raises ValueError for radius <= 0 and fewer than 2 perturbations.
    """
    if not radius > 0:
        raise ValueError(f"radius is {radius}; it must be a positive number")
    if num_perturbations < 2:
        raise ValueError(
            f"num_perturbations is {num_perturbations}; a standard error needs at least 2"
        )
    static = (network, num_perturbations, recompute, chunk_size, vmapped, memory or budget())
    return from_increases(loss_increases(*static, params, stats, batch, key, radius))


def from_increases(increases: ArrayLike) -> RandomSharpness:
    """Mean and standard error of the increases of the loss at the perturbed points."""
    increases = np.asarray(increases, np.float64)
    error = increases.std(ddof=1) / np.sqrt(len(increases))
    return RandomSharpness(float(increases.mean()), float(error), increases)


@partial(jax.jit, static_argnums=range(6))
def loss_increases(
    network: Network,
    num: int,
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
    """L(theta + r u_i) - L(theta) for i < num, u_i drawn from ``fold_in(key, i)``."""
    if vmapped is None:
        vmapped = 8 if memory.vmapped else 1
    if chunk_size is None:
        frozen = partial(frozen_loss(network.apply, stats), params)
        chunk_size = affordable_chunk(frozen, batch, memory.divided(vmapped))

    def loss(params):
        at = stats
        if recompute:
            at = recompute_statistics(network, params, stats, batch[0], chunk_size=chunk_size)
        return mean_over_chunks(partial(frozen_loss(network.apply, at), params), batch, chunk_size)

    def perturbed_loss(index):
        direction = random_direction(jax.random.fold_in(key, index), params)
        return loss(optax.tree.add_scale(params, radius, direction))

    with jax.default_matmul_precision("highest"):
        losses = jax.lax.map(perturbed_loss, jnp.arange(num), batch_size=vmapped)
        return losses - loss(params)
