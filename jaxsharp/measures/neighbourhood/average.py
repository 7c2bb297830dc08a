"""Average-case sharpness: the mean rise of the loss at random points around the parameters.

    E[L(theta + s d)] - L(theta),    d drawn by one of `directions`

random_perturbation    d = u/||u||, s = radius; _bn with BatchNorm statistics anew at every point
study_b_sharpness      d = u/||u||, s = 5, 49 single draws, BatchNorm statistics anew
gaussian_perturbation  d = u, s = sigma, the standard deviation, not the norm or the variance
adaptive_perturbation  d = u |theta| entry by entry, s = sigma_relative
filter_perturbation    d = u_f ||theta_f|| / ||u_f|| filter by filter, s = sigma_relative
lpf                    E[L(theta + s u)] itself, s = lpf_sigma

u is standard normal.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree, ScalarLike

from jaxsharp.core.chunks import check_pair
from jaxsharp.core.keys import stream
from jaxsharp.core.memory import Budget, budget
from jaxsharp.core.programs import own_settings
from jaxsharp.measures.contract import EVERY, Measure, Options, Record, Trained, check_count
from jaxsharp.measures.neighbourhood.directions import (
    adaptive,
    filter_normalized,
    gaussian,
    sphere,
)
from jaxsharp.measures.neighbourhood.losses import loss_around, side_by_side
from jaxsharp.measures.neighbourhood.sampling import block_size, sampled_rise
from jaxsharp.networks.checks import check_alone
from jaxsharp.networks.network import Network

# Of the loss at the parameters, which all rises have in common, in eps. Measured against float64:
# below 2, over 100 to 50,000 examples.
ROUNDING = 2


class RandomSharpness(NamedTuple):
    """Mean of the loss increases, its standard error, and the increases themselves.

    In pairs, ``increases`` has those at u and -u one after the other, and ``units`` their means.
    """

    value: float
    error: float
    increases: Float[np.ndarray, " n"]
    units: Float[np.ndarray, " k"]


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
    draw: Callable = sphere,
    chunk_size: int | None = None,
    vmapped: int | None = None,
    memory: Budget | None = None,
) -> RandomSharpness:
    """Mean of L(theta + r u) - L(theta) over unit vectors u, uniform on the sphere in R^P.

    ``radius`` r is the norm of the whole perturbation (5 in study B), not a standard deviation per
    coordinate; r -> 0 gives r^2 tr(H)/(2 P). ``batch`` is (images, labels), the loss its mean
    cross-entropy. BatchNorm statistics are kept, or with ``recompute`` made anew over ``batch``
    at every point, theta included (study B).

    With another ``draw(key, params)`` of `directions` u is what it returns: of ``gaussian``, say,
    ``radius`` is the standard deviation of each coordinate.

    Perturbations come in pairs u and -u, whose mean has no term r <g, u> of the gradient g: at a
    small radius, or where training has not converged, that term is all that independent directions
    see, as large as r |g| / sqrt(P) beside r^2 tr(H) / (2 P). ``antithetic=False`` takes
    independent ones, study B 49 of them. ``error`` is the standard error of the mean, over the
    pairs or the directions: it speaks of this model, not of the spread between seeds. What rounding
    of L(theta) moves all of them by is in it: at a radius so small that nothing else is seen, that.

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
    check_alone(network, params, stats, batch[0])
    count = (num_perturbations, antithetic)
    static = (network, *count, recompute, chunk_size, vmapped, memory or budget())
    key = stream(key, "random_perturbation")
    increases, base = perturbed(*static, params, stats, batch, key, radius, draw=draw)
    return from_increases(increases, antithetic, rounding_of(base))


def rounding_of(base: ArrayLike) -> float:
    """What rounding of the loss at the parameters may move all increases by."""
    base = np.asarray(base)
    return ROUNDING * float(jnp.finfo(base.dtype).eps) * abs(float(base))


def from_increases(
    increases: ArrayLike, antithetic: bool, rounding: float = 0.0
) -> RandomSharpness:
    """Mean and standard error of the increases of the loss; ValueError if one is not finite.

    ``rounding`` is what they have in common, of which their spread knows nothing.
    """
    increases = np.asarray(increases, np.float64)
    bad = np.count_nonzero(~np.isfinite(increases))
    if bad:
        where = f"{bad} of {len(increases)} perturbed points"
        if bad == len(increases):
            where = f"the parameters, or at all {bad} perturbed points"
        raise ValueError(f"the loss is not finite at {where}")
    units = increases.reshape(-1, 2).mean(1) if antithetic else increases
    error = math.hypot(units.std(ddof=1) / math.sqrt(len(units)), rounding)
    return RandomSharpness(float(units.mean()), error, increases, units)


@partial(jax.jit, static_argnums=range(7), static_argnames="draw")
def perturbed(
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
    radius: ScalarLike,
    *,
    draw: Callable = sphere,
) -> tuple[Float[Array, " num"], Float[Array, ""]]:
    """L(theta + r u_i) - L(theta) for i < num, u_i = ``draw(fold_in(key, i), params)``; L(theta).

    With ``antithetic`` u_i is +v_j for i = 2 j and -v_j for i = 2 j + 1, v_j drawn for j.
    """
    vmapped = side_by_side(vmapped, memory)
    loss = loss_around(
        *(network, params, stats, batch, memory.divided(vmapped)),
        recompute=recompute,
        chunk_size=chunk_size,
    )

    def perturbed_loss(index):
        drawn, step = index, radius
        if antithetic:  # in the dtype of the radius, whatever that of the index is
            drawn, step = index // 2, jnp.where(index % 2 == 0, radius, -radius)
        direction = draw(jax.random.fold_in(key, drawn), params)
        return loss(optax.tree.add_scale(params, step, direction))

    with own_settings():
        losses = jax.lax.map(perturbed_loss, jnp.arange(num), batch_size=vmapped)
        base = loss(params)
        return losses - base, base


class Protocol(NamedTuple):
    """How perturbations are drawn: their ``draw``, how far, how many, in pairs or not.

    ``far`` and ``num`` are names of `Options`, or numbers that are part of the protocol.
    """

    draw: Callable
    far: str | float
    num: str | int = "num_perturbations"
    antithetic: bool | None = None
    recompute: bool = False
    level: bool = False
    """Whether the value is the mean loss itself, and not its rise."""

    @property
    def options(self) -> tuple[str, ...]:
        """The `Options` that it reads."""
        read = tuple(x for x in (self.far, self.num) if isinstance(x, str))
        read += ("antithetic",) if self.antithetic is None else ()
        return read + (("measure_rtol",) if isinstance(self.num, str) else ())

    def rtol(self, options: Options) -> float | None:
        """The relative standard error that decides how many are drawn; None for a number."""
        return options.measure_rtol if isinstance(self.num, str) else None

    def read(self, options: Options) -> tuple[float, int, bool]:
        """Distance, number of perturbations, and whether they come in pairs."""
        far, num = (getattr(options, x) if isinstance(x, str) else x for x in (self.far, self.num))
        return far, num, options.antithetic if self.antithetic is None else self.antithetic


def _increases(protocol, network, at: Trained, batch, key, options: Options, memory):
    (far, *count), rtol = protocol.read(options), protocol.rtol(options)
    arguments = (at.params, at.stats, batch, key, jnp.asarray(far))
    if rtol is not None:
        how = (count[-1], protocol.recompute, protocol.level)
        return sampled_rise(network, rtol, *how, memory, *arguments, draw=protocol.draw)
    static = (network, *count, protocol.recompute, None, None, memory)
    return perturbed(*static, *arguments, draw=protocol.draw)


def _mean(protocol, network, at: Trained, batch, options: Options, found) -> Record:
    antithetic, total = protocol.read(options)[-1], len(batch[0])
    if protocol.rtol(options) is not None:
        value, error, draws, converged = (float(x) for x in found)
        if not (np.isfinite(value) and np.isfinite(error)):
            raise ValueError("the loss is not finite at the parameters or at a perturbed point")
        looks = int(draws) * block_size(total, protocol.recompute)
        losses = -(-looks * (3 if antithetic else 2) // total) + protocol.level
        directions = int(draws) * (2 if antithetic else 1)
        sizes = losses, min(total, looks), directions
        return Record(value, error, bool(converged), *sizes, False)
    increases, base = found
    rise = from_increases(increases, antithetic, rounding_of(base))
    value, drawn = rise.value + protocol.level * float(base), len(rise.increases)
    return Record(value, rise.error, True, drawn + 1, total, drawn, False)


def _entry(description, reference, protocol, broken) -> Measure:
    return Measure(
        description,
        reference,
        "nats",
        "standard error",
        "losses over the data",
        protocol.options,
        EVERY - {"logit_scale", *broken},
        partial(_increases, protocol),
        partial(_mean, protocol),
    )


JIANG = "Jiang et al. 2020, arXiv 1912.02178, the average case; distance as in study B"
RESCALINGS = ("layer_rescaling", "unit_rescaling")
MEASURES = {
    "random_perturbation": _entry(
        "mean rise of the loss at random points of a sphere, BatchNorm frozen",
        JIANG,
        Protocol(sphere, "radius"),
        RESCALINGS,
    ),
    "random_perturbation_bn": _entry(
        "the same, BatchNorm statistics recomputed at every point",
        JIANG,
        Protocol(sphere, "radius", recompute=True),
        RESCALINGS,
    ),
    "study_b_sharpness": _entry(
        "the same by study B's protocol: 49 single directions at distance 5",
        JIANG,
        Protocol(sphere, 5.0, 49, False, True),
        RESCALINGS,
    ),
    "lpf": _entry(
        "mean loss under normal noise of standard deviation lpf_sigma a parameter",
        "Bisla et al. 2022, arXiv 2201.08025, low-pass filter; pairs are ours",
        Protocol(gaussian, "lpf_sigma", "lpf_draws", level=True),
        RESCALINGS,
    ),
    "gaussian_perturbation": _entry(
        "mean rise of the loss under normal noise of standard deviation sigma a parameter",
        "Neyshabur et al. 2017, arXiv 1706.08947, expected sharpness",
        Protocol(gaussian, "sigma"),
        RESCALINGS,
    ),
    "adaptive_perturbation": _entry(
        "the same, of standard deviation sigma_relative |theta| (Andriushchenko et al.)",
        "Andriushchenko et al. 2023, arXiv 2302.07011, average case with c = |w|",
        Protocol(adaptive, "sigma_relative"),
        (),
    ),
    "filter_perturbation": _entry(
        "the same, every filter's noise of norm sigma_relative times the filter's; no biases",
        "Li et al. 2018, arXiv 1712.09913, filter normalization",
        Protocol(filter_normalized, "sigma_relative"),
        ("unit_rescaling",),
    ),
}
