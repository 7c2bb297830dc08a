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
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, ScalarLike

from jaxsharp.core.memory import Budget
from jaxsharp.core.trees import norm
from jaxsharp.measures.contract import EVERY, Measure, Options, Record, Trained
from jaxsharp.measures.neighbourhood.average import from_increases, perturbed
from jaxsharp.measures.neighbourhood.crossings import Crossing, crossing, with_rounding
from jaxsharp.measures.neighbourhood.directions import adaptive, gaussian
from jaxsharp.measures.neighbourhood.distances import check_found
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
    without = sigma * (mean / rest) ** (1 / power)
    return sigma, math.hypot(math.sqrt(others) * without.std(), width)


def _sigma(draw, network, at: Trained, batch, key, options: Options, memory):
    static = (network, draw, options.num_perturbations, options.antithetic, memory)
    return sigma_of_rise(*static, at.params, at.stats, batch, key, jnp.asarray(options.rise))


def _of_sigma(network, at: Trained, batch, options: Options, found) -> Record:
    value, error = from_sigma(found, options.antithetic, options.rise)
    return _record(value, error, found, batch, options)


def _record(value, error, found, batch, options):
    drawn = options.num_perturbations
    cost = (int(found.sigma.calls) + 3) * (drawn + 1)
    resolved = bool(found.sigma.width < found.sigma.value) and not math.isnan(error)
    return Record(value, error, resolved, cost, len(batch[0]), drawn, False)


def _bound(network, at: Trained, batch, options: Options, found) -> Record:
    sigma, error = from_sigma(found, options.antithetic, options.rise)
    moved = jax.tree.map(lambda a, b: _wide(a) - _wide(b), at.params, at.initial)
    term = sum(np.sum(leaf**2) for leaf in jax.tree.leaves(moved)) / (4 * sigma**2)
    value = float(term) + math.log(len(batch[0]) / options.delta)
    return _record(value, float(2 * term * error / sigma), found, batch, options)


def _wide(leaf) -> np.ndarray:
    return np.asarray(jax.device_get(leaf), np.float64)


JIANG = "Jiang et al. 2020, arXiv 1912.02178, PAC-Bayes flatness; rise of the loss, not the error"
RESCALINGS = {"layer_rescaling", "unit_rescaling"}
READ = ("rise", "num_perturbations", "antithetic")
KINDS = "standard error", "losses over the data"
OF_NOISE = partial(_sigma, gaussian)
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
        partial(_sigma, adaptive),
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
