"""The noise under which the loss rises by a given amount, and the bound's term that it enters.

    sigma with E[L(theta + sigma d)] - L(theta) = rise

pacbayes_sigma             d = u, standard normal
pacbayes_sigma_magnitude   d = u |theta|, entry by entry
pacbayes_bound             ||theta - theta_0||^2 / (4 sigma^2) + log(n / delta), sigma the first

The smaller sigma, the sharper; 1/sigma^2 is what Jiang et al. 2020 (arXiv 1912.02178) correlate.
Deviations from them: the mean *loss* rises by 0.1, not the training error; the noise of the
magnitude-aware form has no epsilon of 1e-3 beside |theta|, so that it is unchanged by rescalings;
sigma is searched with the same draws at every sigma (common random numbers), in pairs u and -u.

Its standard error is the jackknife's: of where the mean rise of all pairs but one crosses, m_i at
sigma, by the power k of sigma as which the mean rise m grows there, at no further loss:

    s_i = sigma (m / m_i)^(1/k),    k = slope sigma / m
    stderr^2 = (n - 1)/n sum_i (s_i - mean s)^2

Of 10 pairs, sigma ~ m^(-1/k) is far from linear: stderr(m) / slope is up to a quarter too small.
With it is the width of the bracket, and what rounding may move sigma by
(`crossings.with_rounding`). A sigma that is not larger than that is none, and not finished; nor is
one without an error (NaN), where without some pair the loss does not rise.

To a stated error each pair is looked at on examples of its own, the same at every sigma, as in
`sampling`, m_i and the error are of both, and n grows from 30 by what its error asks for.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, ScalarLike

from jaxsharp.core.averages import MIN_PROBES
from jaxsharp.core.memory import Budget
from jaxsharp.core.programs import own_settings
from jaxsharp.core.trees import norm
from jaxsharp.measures.contract import EVERY, Measure, Options, Record, Trained
from jaxsharp.measures.neighbourhood.average import from_increases, perturbed
from jaxsharp.measures.neighbourhood.crossings import Crossing, crossing, with_rounding
from jaxsharp.measures.neighbourhood.directions import adaptive, gaussian
from jaxsharp.measures.neighbourhood.distances import check_found
from jaxsharp.measures.neighbourhood.losses import side_by_side
from jaxsharp.measures.neighbourhood.sampling import (
    MOST_TERMS,
    block_size,
    filled,
    looks,
    moved_loss,
)
from jaxsharp.networks.network import Network

NEARBY = 1.05  # sigmas above and below between which the slope is taken


class Sigma(NamedTuple):
    """Where the mean rise crosses, the rise of each draw there, and the slope of their mean."""

    sigma: Crossing
    rises: Float[Array, " num"]
    slope: Float[Array, ""]


@partial(jax.jit, static_argnums=range(5))
def sigma_of_rise(
    network: Network,
    draw: Callable,
    num: int,
    antithetic: bool,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    rise: ScalarLike,
) -> Sigma:
    """The sigma at which the mean over ``num`` draws of L(theta + sigma d) has risen."""
    static = (network, num, antithetic, False, None, None, memory)

    def rises(sigma):
        return perturbed(*static, params, stats, batch, key, sigma, draw=draw)

    def mean(sigma):
        return jnp.mean(rises(sigma)[0])

    like = jax.eval_shape(mean, jnp.ones(()))
    found = crossing(mean, rise, jnp.ones((), like.dtype))
    low, high = found.value / NEARBY, found.value * NEARBY
    slope = (mean(high) - mean(low)) / (high - low)
    at_sigma, base = rises(found.value)
    length = norm(draw(jax.random.fold_in(key, 0), params))
    return Sigma(with_rounding(found, base, rise, params, length), at_sigma, slope)


class SampledSigma(NamedTuple):
    """The crossing of the mean of ``count`` terms; rises are 0 from there on.

    ``losses`` of a block of examples were taken for it, and it was ``reached`` as asked for.
    """

    found: Sigma
    count: Int[Array, ""]
    following: Int[Array, ""]
    losses: Int[Array, ""]
    reached: Bool[Array, ""]
    stop: Bool[Array, ""]


@partial(jax.jit, static_argnums=range(6))
def sampled_sigma(
    network: Network,
    draw: Callable,
    antithetic: bool,
    rtol: float,
    share: float,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    rise: ScalarLike,
) -> SampledSigma:
    """The sigma of so many terms, pairs or draws, that its error is ``share`` of ``rtol`` of it.

    From `MIN_PROBES` to `MOST_TERMS`, at each number a search of its own, of which the next number
    is at most four times as large. It ends where no number of terms can reach ``rtol``.
    """
    vmapped = side_by_side(None, memory)
    drawn = looks(network, False, memory.divided(vmapped), params, stats, batch, key, draw)
    length = norm(draw(jax.random.fold_in(key, 0), params))

    def searched(count):
        def terms(term):
            return filled(lambda i: term(*drawn(i)), count, MOST_TERMS, vmapped)

        def rises(sigma):
            return terms(lambda loss, u: moved_loss(loss, params, u, sigma, antithetic)) - bases

        def mean(sigma):
            return jnp.sum(rises(sigma)) / count

        bases = terms(lambda loss, _: loss(params))
        found = crossing(mean, rise, jnp.ones((), bases.dtype))
        at = found.value * jnp.array([1 / NEARBY, 1, NEARBY], found.value.dtype)
        lower, at_sigma, higher = jax.lax.map(rises, at)  # in a loop, which is compiled once
        slope = (jnp.sum(higher) - jnp.sum(lower)) / count / (at[2] - at[0])
        base = jnp.sum(bases) / count
        return Sigma(with_rounding(found, base, rise, params, length), at_sigma, slope)

    def further(state):
        count = state.following
        found = searched(count)
        sigma, width, risen, calls = found.sigma
        error, asked = jackknife(found, count), 0.99 * rtol * sigma  # of the record, in float64
        reached = risen & (error <= share * asked)
        stop = reached | ~risen | ~jnp.isfinite(error) | (width >= asked) | (count >= MOST_TERMS)
        factor = jnp.clip(1.1 * (error / (share * asked)) ** 2, 1.1, 4.0)
        following = jnp.minimum(jnp.ceil(count * factor).astype(count.dtype), MOST_TERMS)
        losses = state.losses + count * ((calls + 3) * (2 if antithetic else 1) + 1)
        return SampledSigma(found, count, following, losses, reached, stop)

    with own_settings():
        number, no = jnp.int32(MIN_PROBES), jnp.zeros((), bool)
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(searched, number))
        state = SampledSigma(zeros, number, number, jnp.int32(0), no, no)
        return jax.lax.while_loop(lambda state: ~state.stop, further, state)


def jackknife(found: Sigma, count: Int[Array, ""]) -> Float[Array, ""]:
    """The standard error of sigma from the first ``count`` rises, the only ones that are not 0."""
    sigma, taken = found.sigma.value, jnp.arange(len(found.rises)) < count
    total, others = jnp.sum(found.rises), count - 1
    mean, rest = total / count, (total - found.rises) / others
    power = found.slope * sigma / mean
    spread = jnp.std(_without_one(sigma, mean, rest, power), where=taken)
    error = jnp.hypot(jnp.sqrt(others) * spread, found.sigma.width)
    return jnp.where((power > 0) & (jnp.min(rest) > 0), error, jnp.nan).astype(sigma.dtype)


def _without_one(sigma, mean, rest, power):
    return sigma * (mean / rest) ** (1 / power)


def from_sigma(found: Sigma, antithetic: bool, rise: float) -> tuple[float, float]:
    """Sigma and its standard error; ValueError if the loss does not rise as far.

    The error is NaN where without some pair the loss does not rise.
    """
    check_found(found.sigma, rise)
    sigma, width = float(found.sigma.value), float(found.sigma.width)
    units = from_increases(found.rises, antithetic).units
    mean, others = units.mean(), len(units) - 1
    power, rest = float(found.slope) * sigma / mean, (units.sum() - units) / others
    if not (power > 0 and rest.min() > 0):
        return sigma, math.nan
    without = _without_one(sigma, mean, rest, power)
    return sigma, math.hypot(math.sqrt(others) * without.std(), width)


def _sigma(draw, share, network, at: Trained, batch, key, options: Options, memory):
    arguments = at.params, at.stats, batch, key, jnp.asarray(options.rise)
    if options.measure_rtol is not None:
        how = options.antithetic, options.measure_rtol, share
        return sampled_sigma(network, draw, *how, memory, *arguments)
    static = (network, draw, options.num_perturbations, options.antithetic, memory)
    return sigma_of_rise(*static, *arguments)


def _of_sigma(network, at: Trained, batch, options: Options, found) -> Record:
    sigma, error = _value(found, options)
    return _record(sigma, error, found, batch, options)


def _value(found, options):
    if options.measure_rtol is None:
        return from_sigma(found, options.antithetic, options.rise)
    found, count = found.found, int(found.count)
    return from_sigma(found._replace(rises=found.rises[:count]), False, options.rise)


def _record(value, error, found, batch, options):
    total, rtol, size = len(batch[0]), options.measure_rtol, 2 if options.antithetic else 1
    if rtol is None:
        drawn, examples = options.num_perturbations, total
        cost = (int(found.sigma.calls) + 3) * (drawn + 1)
    else:
        block, drawn = block_size(total, False), size * int(found.count)
        cost = -(-int(found.losses) * block // total)
        examples, found = min(total, block * int(found.count)), found.found
    resolved = bool(found.sigma.width < found.sigma.value) and not math.isnan(error)
    resolved &= rtol is None or error <= rtol * value
    return Record(value, error, resolved, cost, examples, drawn, False)


def _bound(network, at: Trained, batch, options: Options, found) -> Record:
    sigma, error = _value(found, options)
    moved = jax.tree.map(lambda a, b: _wide(a) - _wide(b), at.params, at.initial)
    term = sum(np.sum(leaf**2) for leaf in jax.tree.leaves(moved)) / (4 * sigma**2)
    value = float(term) + math.log(len(batch[0]) / options.delta)
    return _record(value, float(2 * term * error / sigma), found, batch, options)


def _wide(leaf) -> np.ndarray:
    return np.asarray(jax.device_get(leaf), np.float64)


JIANG = "Jiang et al. 2020, arXiv 1912.02178, PAC-Bayes flatness; rise of the loss, not the error"
RESCALINGS = {"layer_rescaling", "unit_rescaling"}
READ = ("rise", "num_perturbations", "antithetic", "measure_rtol")
KINDS = "standard error", "losses over the data"
# To half the error that is asked for, as that of the bound, which shares it, is twice as large.
OF_NOISE = partial(_sigma, gaussian, 0.5)
MEASURES = {
    "pacbayes_sigma": Measure(
        "standard deviation of noise under which the mean loss rises by 0.1 (--rise)",
        JIANG,
        "standard deviation of a parameter; the smaller, the sharper",
        *KINDS,
        READ,
        EVERY - RESCALINGS - {"logit_scale"},
        OF_NOISE,
        _of_sigma,
        stream="pacbayes_sigma",
    ),
    "pacbayes_sigma_magnitude": Measure(
        "the same of noise with standard deviation sigma |theta|",
        JIANG,
        "standard deviation relative to a parameter; the smaller, the sharper",
        *KINDS,
        READ,
        EVERY - {"logit_scale"},
        partial(_sigma, adaptive, 1.0),
        _of_sigma,
    ),
    "pacbayes_bound": Measure(
        "|theta - theta_0|^2 / (4 sigma^2) + log(n / delta), sigma of pacbayes_sigma",
        JIANG,
        "nats",
        *KINDS,
        (*READ, "delta"),
        EVERY - RESCALINGS - {"logit_scale"},
        OF_NOISE,
        _bound,
        from_initial=True,
        stream="pacbayes_sigma",
        per_example=True,
    ),
}
