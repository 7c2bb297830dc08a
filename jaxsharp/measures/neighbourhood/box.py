"""Sharpness in a box that grows with the parameters (Keskar et al. 2017, metric 2.1).

    100 (max_{z in box} L(theta + A z) - L(theta)) / (1 + L(theta)),
    box: |z_i| <= eps (|(A^+ theta)_i| + 1),    A^+ = (A'A)^(-1) A'

keskar_sharpness            A = I: the box around the parameters themselves
keskar_subspace_sharpness   A with P rows and p columns of standard normal numbers, several times

Deviations from the paper (arXiv 1609.04836, section 2.2.2): it maximizes by ten iterations of
L-BFGS-B, which runs on the host; here Auto-PGD in the coordinates z_i / (|(A^+ theta)_i| + 1), in
which the box is a cube. The tests hold it to the value of L-BFGS-B from scipy. The paper does not
say what the columns of A are drawn from. It is of losses from 0 on: of one of -1 or less, as a
density's may be, the quotient has a sign of its own, and it is refused.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, PyTree, ScalarLike

from jaxsharp.core.keys import stream
from jaxsharp.core.memory import Budget
from jaxsharp.core.programs import own_settings
from jaxsharp.core.trees import combine, dots, widen
from jaxsharp.measures.contract import EVERY, Measure, Options, Record, Trained
from jaxsharp.measures.neighbourhood.ascents import Peak, apgd, ascended
from jaxsharp.measures.neighbourhood.losses import value_and_grad_around
from jaxsharp.measures.neighbourhood.sampling import SampledMean, checked_mean, sampled_mean
from jaxsharp.networks.network import Network


@partial(jax.jit, static_argnums=range(4))
def box_peak(
    network: Network,
    steps: int,
    starts: int,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    eps: ScalarLike,
) -> Peak:
    """The largest loss in the box |d_i| <= eps (|theta_i| + 1), the loss at theta, and the gap."""
    of_loss = value_and_grad_around(network, params, stats, batch, memory)
    scale = jax.tree.map(lambda a: jnp.abs(a) + 1, widen(params))
    with own_settings():
        return ascended(apgd, of_loss, params, scale, "linf", eps, key, steps, starts)


@partial(jax.jit, static_argnums=range(6))
def subspace_peaks(
    network: Network,
    size: int,
    num: int,
    steps: int,
    starts: int,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    eps: ScalarLike,
) -> Peak:
    """The same over ``num`` random subspaces of ``size`` dimensions.

    Raises ValueError for more dimensions than parameters, or a basis that ``memory`` does not hold.
    """
    peak = _peak_of(network, size, steps, starts, memory, params, stats, batch, eps)
    with own_settings():
        return jax.lax.map(peak, jax.random.split(key, num))


@partial(jax.jit, static_argnums=range(6))
def sampled_peaks(
    network: Network,
    size: int,
    steps: int,
    starts: int,
    rtol: float,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    eps: ScalarLike,
) -> SampledMean:
    """The mean of the measure over random subspaces, to a relative error of ``rtol``."""
    peak = _peak_of(network, size, steps, starts, memory, params, stats, batch, eps)

    def drawn(index):
        found = peak(jax.random.fold_in(key, index))
        rise = relative_rise(found.value - found.start, found.start)
        return jnp.where(found.start > -1, rise, jnp.nan)

    with own_settings():
        return sampled_mean(drawn, rtol)


def _peak_of(network, size, steps, starts, memory, params, stats, batch, eps):
    wide = widen(params)
    leaves = jax.tree.leaves(wide)
    entries, dtype = sum(leaf.size for leaf in leaves), jnp.result_type(*leaves)
    if size > entries:
        raise ValueError(f"subspace_size is {size}; it must be at most {entries}, the parameters")
    most = (memory.kept_bytes + memory.state_bytes) // (entries * dtype.itemsize)
    if size > most:
        raise ValueError(f"subspace_size is {size}; memory holds a basis of at most {most}")
    of_loss = value_and_grad_around(network, params, stats, batch, memory)

    def peak(key):
        keys = jax.random.split(stream(key, "basis"), size)
        basis = jax.lax.map(lambda k: optax.tree.random_like(k, wide), keys)
        gram = jax.lax.map(lambda column: dots(basis, column), basis)
        center = jax.scipy.linalg.solve(gram, dots(basis, wide), assume_a="pos")

        def at(z):  # of A z
            moved = optax.tree.add(wide, combine(z, basis))
            value, grads = of_loss(optax.tree.cast_like(moved, params))
            return value, dots(basis, widen(grads))

        zero, scale = jnp.zeros(size, dtype), jnp.abs(center) + 1
        return ascended(apgd, at, zero, scale, "linf", eps, key, steps, starts)

    return peak


def relative_rise(rise: ArrayLike, loss: ArrayLike) -> ArrayLike:
    """A rise of the loss in percent of 1 + loss."""
    return 100 * rise / (1 + loss)


def keskar(peak: Peak) -> tuple[ArrayLike, ArrayLike]:
    """100 (max - L) / (1 + L), and the same of the gap; ValueError if one is not finite."""
    value, start, gap = (np.asarray(x, np.float64) for x in peak)
    if np.any(start <= -1):
        raise ValueError(f"the loss is {start.min():.6g} at the parameters; it must be above -1")
    found, left = relative_rise(value - start, start), relative_rise(gap, start)
    if not np.all(np.isfinite(found)):
        raise ValueError(f"the loss is not finite at the parameters, or {IN_BOX}")
    return found, left


def _box(network, at: Trained, batch, key, options: Options, memory):
    static = (network, options.ascent_steps, options.ascent_starts, memory)
    return box_peak(*static, at.params, at.stats, batch, key, jnp.asarray(options.box_eps))


def _of_box(network, at: Trained, batch, options: Options, peak) -> Record:
    value, gap = map(float, keskar(peak))
    cost = (options.ascent_steps + 1) * options.ascent_starts
    return Record(value, gap, True, cost, len(batch[0]), options.ascent_starts, False)


def _subspaces(network, at: Trained, batch, key, options: Options, memory):
    ascents = options.ascent_steps, options.ascent_starts
    arguments = at.params, at.stats, batch, key, jnp.asarray(options.box_eps)
    if options.measure_rtol is not None:
        how = options.subspace_size, *ascents, options.measure_rtol
        return sampled_peaks(network, *how, memory, *arguments)
    static = (network, options.subspace_size, options.subspaces, *ascents, memory)
    return subspace_peaks(*static, *arguments)


def _of_subspaces(network, at: Trained, batch, options: Options, found) -> Record:
    cost, total = (options.ascent_steps + 1) * options.ascent_starts, len(batch[0])
    if options.measure_rtol is not None:
        value, error, num, reached = checked_mean(found, IN_BOX)
        return Record(value, error, reached, cost * num, total, num, False)
    values, num = np.asarray(keskar(found)[0]), options.subspaces
    error = values.std(ddof=1) / math.sqrt(num)
    return Record(float(values.mean()), float(error), True, cost * num, total, num, False)


IN_BOX = "at the largest in the box, or -1 or less at the parameters"
REFERENCE = "Keskar et al. 2017, arXiv 1609.04836, metric 2.1; by Auto-PGD, not L-BFGS-B"
READ = ("box_eps", "ascent_steps", "ascent_starts")
BROKEN = {"layer_rescaling", "unit_rescaling", "logit_scale"}
MEASURES = {
    "keskar_sharpness": Measure(
        "largest relative rise of the loss in a box of size eps (|theta| + 1)",
        REFERENCE,
        "percent of 1 + loss",
        "first-order gap of the maximum",
        "gradients over the data",
        READ,
        EVERY - BROKEN,
        _box,
        _of_box,
    ),
    "keskar_subspace_sharpness": Measure(
        "the same in random subspaces, their mean",
        REFERENCE,
        "percent of 1 + loss",
        "standard error",
        "gradients over the data",
        (*READ, "subspace_size", "subspaces", "measure_rtol"),
        EVERY - BROKEN,
        _subspaces,
        _of_subspaces,
    ),
}
