"""Functionals of the density of the Hessian's eigenvalues, from one quadrature rule a probe.

With rules (theta_ij, w_ij) of probe i (`curvature.spectral_density`) and P parameters,

    tr f(H) = sum_l f(lambda_l)  ~  P mean_i sum_j w_ij f(theta_ij).

Eigenvalues below 0 have no part in the soft rank and the log-determinant, whose f has a pole at
-c. An error has two parts: the standard error over the probes, to first order where the value is no
mean, and the resolution of so many steps, which smooth the density. Most eigenvalues are near 0,
where each f has a kink, and a rule puts them at nodes of either sign that change from step to step.
The resolution is how far the value is, at most, from those of five numbers of steps from three
quarters to all, each without and with a node at 0 (`curvature.density.with_node_at_zero`): of two
rules alone, one may cross the other by chance. A value is finished where its resolution is at most
the standard error, or `RESOLVED` of the value.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import jax
import numpy as np

from jaxsharp.curvature.density import gauss_rules, with_node_at_zero
from jaxsharp.curvature.lanczos import spectral_density
from jaxsharp.curvature.products import hessian
from jaxsharp.measures.contract import Measure, Options, Record, Trained
from jaxsharp.measures.spectrum.eigenvalues import OF_SPECTRUM

# Vectors of Lanczos' basis: fewer than its steps, as copies of an eigenvalue share its weight.
BASIS = 24
FEWER = 5
"""Numbers of steps, of as many as are made, that say what the last of them change."""
RESOLVED = 0.05
"""How large the resolution of a value may be, relative to it."""
RESOLVED_SHARE = 0.01
"""The same of the negative share, in the share's own unit, as it may be 0."""


def rules(network, at: Trained, batch, key, options: Options, memory) -> tuple:
    """The rules of the density, as arrays: nodes, weights, products, and what they are made of."""
    matvec = hessian(network.frozen_loss(at.stats, batch[1]), at.params, batch, memory=memory)
    counts = {"num_probes": options.density_probes, "num_steps": options.density_steps}
    found = spectral_density(matvec, at.params, key=key, basis_size=BASIS, **counts)
    return found.nodes, found.weights, found.num_products, found.diagonal, found.below


def soft_rank(nodes: np.ndarray, shift: float) -> np.ndarray:
    """f of tr(H (H + c I)^-1), of the eigenvalues above 0."""
    above = np.maximum(nodes, 0)
    return above / (above + shift)


def log_determinant(nodes: np.ndarray, shift: float) -> np.ndarray:
    """f of log det(I + H / c), of the eigenvalues above 0."""
    return np.log1p(np.maximum(nodes, 0) / shift)


def entropy_rank(means: np.ndarray, size: int) -> tuple[float, np.ndarray]:
    """exp(entropy) of the |lambda| / sum |lambda|, and what each probe has of it, to first order.

    From rows (|lambda|, |lambda| log |lambda|) of the probes' means: with m and k their means, the
    entropy is log(P m) - k / m.
    """
    m, k = means.mean(0)
    if m == 0:
        return 0.0, np.zeros(len(means))
    value = size * m * math.exp(-k / m)
    first = means - means.mean(0)
    return value, value * ((1 / m + k / m**2) * first[:, 0] - first[:, 1] / m)


def negative_part(means: np.ndarray) -> tuple[float, np.ndarray]:
    """Ratio of the mean to that of another row, and what each probe has of it, to first order."""
    below, all_ = means.mean(0)
    if all_ == 0:
        return 0.0, np.zeros(len(means))
    return below / all_, (means[:, 0] - below / all_ * means[:, 1]) / all_


def sum_of(fn: Callable, nodes, weights, size: int, options: Options):
    """The sum of a function over all eigenvalues, and what each probe has of it."""
    each = size * np.sum(weights * fn(nodes, options.shift), axis=1)
    return each.mean(), each


def share_below_zero(nodes, weights, size: int, options: Options):
    """The same of the negative share."""
    absolute = np.abs(nodes)
    below = np.where(nodes < 0, absolute, 0)
    means = np.stack([np.sum(weights * f, axis=1) for f in (below, absolute)], axis=1)
    return negative_part(means)


def rank_of_entropy(nodes, weights, size: int, options: Options):
    """The same of the effective rank."""
    absolute = np.abs(nodes)
    logs = absolute * np.log(np.where(absolute > 0, absolute, 1))
    means = np.stack([np.sum(weights * f, axis=1) for f in (absolute, logs)], axis=1)
    return entropy_rank(means, size)


def _record(of: Callable, least: float, network, at: Trained, batch, options: Options, found):
    """Record of a functional, finished where its resolution is within the errors."""
    nodes, weights = checked(found)
    size = size_of(at)
    value, each = of(nodes, weights, size, options)
    error = each.std(ddof=1) / math.sqrt(len(each))
    others = [of(*rule, size, options)[0] for rule in rules_of_fewer_steps(*found[3:])]
    gap = max(abs(other - value) for other in others)
    finished = bool(gap <= max(error, RESOLVED * abs(value), least))
    total = float(math.hypot(error, gap))
    return Record(float(value), total, finished, int(found[2]), len(batch[0]), len(each), False)


def rules_of_fewer_steps(diagonal: np.ndarray, below: np.ndarray) -> Iterator[tuple]:
    """Nodes and weights of three quarters of the steps to all, without and with a node at 0."""
    steps = diagonal.shape[1]
    for number in np.unique(np.linspace(max(1, 3 * steps // 4), steps, FEWER).astype(int)):
        entries = diagonal[:, :number], below[:, :number]
        yield gauss_rules(*entries)
        yield with_node_at_zero(*entries)


def size_of(at: Trained) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(at.params))


def checked(found) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights in float64; ValueError if they are not finite."""
    nodes, weights = (np.asarray(x, np.float64) for x in found[:2])
    if not np.isfinite(nodes).all():
        raise ValueError("the second derivatives of the loss are not finite at the parameters")
    return nodes, weights


def _functional(
    description: str, reference: str, unit: str, of: Callable, *more: str, least: float = 0.0
) -> Measure:
    options = ("density_probes", "density_steps", *more)
    kinds = unit, "standard error and resolution", "Hessian products", options
    record = partial(_record, of, least)
    return Measure(description, reference, *kinds, OF_SPECTRUM, rules, record, stream="density")


MEASURES = {
    "soft_rank": _functional(
        "tr(H (H + c I)^-1) of the eigenvalues above 0, the directions that data determine",
        "MacKay 1992; Maddox, Benton and Wilson 2020, arXiv 2003.02139, effective dimensionality",
        "eigenvalues",
        partial(sum_of, soft_rank),
        "shift",
    ),
    "log_determinant": _functional(
        "log det(I + H / c) of the eigenvalues above 0",
        "MacKay 1992, Occam's factor",
        "nats",
        partial(sum_of, log_determinant),
        "shift",
    ),
    "effective_rank": _functional(
        "exp of the entropy of the eigenvalues' magnitudes, as shares of their sum",
        "Roy and Vetterli 2007",
        "eigenvalues",
        rank_of_entropy,
    ),
    "negative_share": _functional(
        "sum of the magnitudes of the eigenvalues below 0, as a share of that of all",
        "Ghorbani, Krishnan and Xiao 2019, arXiv 1901.10159",
        "1",
        share_below_zero,
        least=RESOLVED_SHARE,
    ),
}
