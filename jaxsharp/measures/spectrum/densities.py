"""Functionals of the density of the Hessian's eigenvalues, from one quadrature rule a probe.

With rules (theta_ij, w_ij) of probe i (`curvature.spectral_density`) and P parameters,

    tr f(H) = sum_l f(lambda_l)  ~  P mean_i sum_j w_ij f(theta_ij).

Eigenvalues below 0 have no part in the soft rank and the log-determinant, whose f has a pole at
-c. An error is the standard error over the probes, to first order where the value is no mean: the
resolution of so many steps, which smooths the density, is not in it.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from jaxsharp.curvature.lanczos import spectral_density
from jaxsharp.curvature.products import hessian
from jaxsharp.measures.contract import Measure, Options, Record, Trained
from jaxsharp.measures.spectrum.eigenvalues import OF_SPECTRUM

# Vectors of Lanczos' basis: fewer than its steps, as copies of an eigenvalue share its weight.
BASIS = 24


def rules(network, at: Trained, batch, key, options: Options, memory) -> tuple:
    """The rules of the density, as arrays: nodes, weights, products."""
    matvec = hessian(network.frozen_loss(at.stats, batch[1]), at.params, batch, memory=memory)
    counts = {"num_probes": options.density_probes, "num_steps": options.density_steps}
    found = spectral_density(matvec, at.params, key=key, basis_size=BASIS, **counts)
    return found.nodes, found.weights, found.num_products


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


def _sum_of(fn: Callable, network, at: Trained, batch, options: Options, found) -> Record:
    """Record of the sum of a function over all eigenvalues."""
    nodes, weights = checked(found)
    each = size_of(at) * np.sum(weights * fn(nodes, options.shift), axis=1)
    return recorded(each.mean(), each, found, batch)


def _negative(network, at: Trained, batch, options: Options, found) -> Record:
    nodes, weights = checked(found)
    absolute = np.abs(nodes)
    below = np.where(nodes < 0, absolute, 0)
    means = np.stack([np.sum(weights * f, axis=1) for f in (below, absolute)], axis=1)
    return recorded(*negative_part(means), found, batch)


def _effective(network, at: Trained, batch, options: Options, found) -> Record:
    nodes, weights = checked(found)
    absolute = np.abs(nodes)
    logs = absolute * np.log(np.where(absolute > 0, absolute, 1))
    means = np.stack([np.sum(weights * f, axis=1) for f in (absolute, logs)], axis=1)
    return recorded(*entropy_rank(means, size_of(at)), found, batch)


def size_of(at: Trained) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(at.params))


def checked(found) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights in float64; ValueError if they are not finite."""
    nodes, weights = (np.asarray(x, np.float64) for x in found[:2])
    if not np.isfinite(nodes).all():
        raise ValueError("the second derivatives of the loss are not finite at the parameters")
    return nodes, weights


def recorded(value: float, each: np.ndarray, found, batch) -> Record:
    """Record of a value and its standard error over the probes."""
    error = each.std(ddof=1) / math.sqrt(len(each))
    return Record(float(value), float(error), True, int(found[2]), len(batch[0]), len(each), False)


def _functional(description: str, reference: str, unit: str, record, *more: str) -> Measure:
    options = ("density_probes", "density_steps", *more)
    kinds = unit, "standard error", "Hessian products", options
    return Measure(description, reference, *kinds, OF_SPECTRUM, rules, record, stream="density")


MEASURES = {
    "soft_rank": _functional(
        "tr(H (H + c I)^-1) of the eigenvalues above 0, the directions that data determine",
        "MacKay 1992; Maddox, Benton and Wilson 2020, arXiv 2003.02139, effective dimensionality",
        "eigenvalues",
        partial(_sum_of, soft_rank),
        "shift",
    ),
    "log_determinant": _functional(
        "log det(I + H / c) of the eigenvalues above 0",
        "MacKay 1992, Occam's factor",
        "nats",
        partial(_sum_of, log_determinant),
        "shift",
    ),
    "effective_rank": _functional(
        "exp of the entropy of the eigenvalues' magnitudes, as shares of their sum",
        "Roy and Vetterli 2007",
        "eigenvalues",
        _effective,
    ),
    "negative_share": _functional(
        "sum of the magnitudes of the eigenvalues below 0, as a share of that of all",
        "Ghorbani, Krishnan and Xiao 2019, arXiv 1901.10159",
        "1",
        _negative,
    ),
}
