"""Sharpness as eigenvalues at the ends of the spectrum of the Hessian of the training loss."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from jaxsharp.core.chunks import check_pair
from jaxsharp.core.keys import stream
from jaxsharp.core.memory import Budget, budget
from jaxsharp.core.programs import own_settings
from jaxsharp.curvature.lanczos import eigenpairs_at
from jaxsharp.curvature.products import hessian
from jaxsharp.measures.contract import EVERY, Measure, Options, Record, Trained
from jaxsharp.measures.spectrum.samples import sampled, top_by_sample
from jaxsharp.networks.checks import check_alone
from jaxsharp.networks.network import Network

MAX_PRODUCTS = 200


class TopEigenvalue(NamedTuple):
    """Largest eigenvalue found; ``error`` is its residual ||H v - lambda v||.

    Some eigenvalue of H lies within ``error`` of ``value``: the residual does not say that it is
    the largest. ``converged``: the residual met the tolerance. ``confirmed``: one of several starts
    beside the one that found ``value`` converged to it, within both residuals; None for a single
    start, which nothing checks. ``num_products`` counts those of all starts.
    """

    value: float
    error: float
    converged: bool
    num_products: int
    confirmed: bool | None

    @property
    def finished(self) -> bool:
        """Whether it met the tolerance, and was confirmed where that was asked."""
        return self.converged and self.confirmed is not False


class Found(NamedTuple):
    """What each start found: the value, its residual, whether it converged, and its products."""

    values: Float[Array, " starts"]
    residuals: Float[Array, " starts"]
    converged: Bool[Array, " starts"]
    num_products: Int[Array, " starts"]


@own_settings()
def top_eigenvalue(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    *,
    tol: float = 1e-3,
    max_products: int = MAX_PRODUCTS,
    chunk_size: int | None = None,
    starts: int = 1,
    sample: float = 0.0,
    memory: Budget | None = None,
) -> TopEigenvalue:
    """Largest *algebraic* eigenvalue of the Hessian of the loss over ``batch``, by Lanczos.

    ``batch`` is (images, labels), the loss the mean cross-entropy, data loss alone, with BatchNorm
    at its running statistics. Stops when ||H v - lambda v|| <= tol |lambda|. Cost: one Hessian
    product a step, of ``chunk_size`` examples at a time (None: as ``memory`` allows), for each of
    ``starts`` random starts. Changes under layer rescaling.

    The residual vouches for an eigenvalue near the value, not for the largest: a loose ``tol`` may
    be met at another while the direction of the largest is still too faint in the start. Of 2,000
    eigenvalues of which one is 1.1 and the others are within 0.005 of 1, ``tol`` 1e-2 ends at one
    of the others from 67 of 1,000 starts, 1e-3 from none. ``starts`` above 1 take the largest value
    of as many, and say whether another start confirms it.

    With ``sample`` above 0 the first start is not random: the top eigenvectors of the Hessian of
    that share of the examples, drawn at random, are corrected by few products over all
    (`samples`). The residual is over all examples as before. Products of the sample are counted as
    the share that they cost, rounded up. The other starts are random.

    Raises ValueError for ``starts`` below 1, and a ``sample`` outside of [0, 1).
    """
    if starts < 1:
        raise ValueError(f"starts is {starts}; it must be at least 1")
    if not 0 <= sample < 1:
        raise ValueError(f"sample is {sample}; it must be from 0 to below 1")
    check_pair(batch)
    check_alone(network, params, stats, batch[0])
    static = (network, tol, max_products, chunk_size, starts, sample, memory or budget())
    key = stream(key, "top_eigenvalue")
    return from_starts(eigenvalues(*static, params, stats, batch, key))


def from_starts(found: Found) -> TopEigenvalue:
    """The largest value of some starts, and whether another start confirms it.

    Raises ValueError for a value that is not finite.
    """
    values, residuals, converged, products = (np.atleast_1d(np.asarray(x)) for x in found)
    best = int(np.argmax(values))
    if not np.isfinite(values[best]):
        raise ValueError("the second derivatives of the loss are not finite at the parameters")
    near = converged & (values[best] - values <= residuals[best] + residuals)
    return TopEigenvalue(
        float(values[best]),
        float(residuals[best]),
        bool(converged[best]),
        int(products.sum()),
        None if len(values) == 1 else bool(converged[best] and near.sum() > 1),
    )


@partial(jax.jit, static_argnums=range(7))
def eigenvalues(
    network: Network,
    tol: float,
    max_products: int,
    chunk_size: int | None,
    starts: int,
    sample: float,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
) -> Found:
    """Top eigenvalue from each start, compiled once for all models of one network."""
    options = {"chunk_size": chunk_size, "memory": memory}
    matvec = hessian(network.frozen_loss(stats, batch[1]), params, batch, **options)
    options = {"tol": tol, "max_products": max_products}
    if not sample:
        return largest(matvec, params, key, starts=starts, **options)
    few, share = sampled(batch, sample, stream(key, "sample"))
    near = hessian(network.frozen_loss(stats, few[1]), params, few, memory=memory)
    pair = top_by_sample(matvec, near, params, stream(key, "by the sample"), **options)
    spent = jnp.ceil(share * pair.num_near).astype(pair.num_products.dtype)
    products = pair.num_products + spent
    first = jax.tree.map(
        lambda x: x[None], Found(pair.value, pair.residual, pair.converged, products)
    )
    if starts == 1:
        return first
    others = largest(matvec, params, key, starts=starts - 1, **options)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), first, others)


def largest(
    matvec: Callable, like: PyTree, key: Array, *, tol: float, max_products: int, starts: int
) -> Found:
    """Top eigenvalue of a symmetric operator from each of some random starts, the first ``key``'s.

    The starts are taken one after the other by one program.
    """

    def from_start(key):
        pairs, _ = eigenpairs_at(matvec, like, (1, 0), key, tol, max_products)
        return Found(*(x[0] for x in (pairs.values, pairs.residuals, pairs.converged)), pairs[-1])

    if starts == 1:
        return jax.tree.map(lambda x: x[None], from_start(key))
    others = stream(key, "other starts")
    keys = [key, *(jax.random.fold_in(others, i) for i in range(1, starts))]
    return jax.lax.map(from_start, jnp.stack(keys))


def _top(network, at: Trained, batch, key, options: Options, memory):
    limits = (options.eigenvalue_tol, MAX_PRODUCTS)
    static = (network, *limits, None, options.eigenvalue_starts, options.eigenvalue_sample, memory)
    return eigenvalues(*static, at.params, at.stats, batch, key)


def _largest(network, at: Trained, batch, options: Options, found) -> Record:
    top = from_starts(found)
    counts = top.num_products, len(batch[0]), options.eigenvalue_starts
    return Record(top.value, top.error, top.finished, *counts, False)


def extreme(ends: Callable, network, at: Trained, batch, key, options: Options, memory):
    """Eigenvalues, residuals, convergence and products of ``ends(options)`` pairs, from one end."""
    top, bottom = ends(options)
    loss = network.frozen_loss(at.stats, batch[1])
    matvec = hessian(loss, at.params, batch, memory=memory)
    limits = options.eigenvalue_tol, max(MAX_PRODUCTS, top + bottom + 1)
    found = eigenpairs_at(matvec, at.params, (top, bottom), key, *limits)[bottom]
    return Found(found.values, found.residuals, found.converged, found.num_products)


def _record(value: ArrayLike, error: ArrayLike, finished: bool, found: Found, batch) -> Record:
    if not np.isfinite(np.append(found.values, value)).all():
        raise ValueError("the second derivatives of the loss are not finite at the parameters")
    converged = bool(np.all(found.converged) and finished)
    return Record(float(value), float(error), converged, int(found[-1]), len(batch[0]), 1, False)


def _sum(network, at: Trained, batch, options: Options, found: Found) -> Record:
    # With R = H V - V Theta, Hoffman and Wielandt: sum (lambda - theta)^2 <= 2 ||R||_F^2.
    error = np.sqrt(2 * len(found.values)) * np.linalg.norm(found.residuals)
    return _record(np.sum(found.values), error, True, found, batch)


def _ratio(network, at: Trained, batch, options: Options, found: Found) -> Record:
    largest, last = np.float64(found.values[0]), np.float64(found.values[-1])
    off = found.residuals[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = largest / last
        error = (found.residuals[0] + ratio * off) / (last - off)
    apart = bool(last > off)
    return _record(ratio if apart else np.nan_to_num(ratio), abs(error), apart, found, batch)


def _smallest(network, at: Trained, batch, options: Options, found: Found) -> Record:
    return _record(found.values[0], found.residuals[0], True, found, batch)


def _top_count(options: Options) -> tuple[int, int]:
    return options.eigenvalue_count, 0


def _one_at_bottom(options: Options) -> tuple[int, int]:
    return 0, 1


TOP = partial(extreme, _top_count)
UNIT = "nats a squared unit of the parameters"
LANCZOS = "Lanczos 1950; Wu and Simon 2000, the restart"
KINDS = ("residual", "Hessian products")
OF_SPECTRUM = EVERY - {"layer_rescaling", "unit_rescaling", "logit_scale"}
MEASURES = {
    "top_eigenvalue": Measure(
        "largest eigenvalue of the Hessian, by Lanczos",
        LANCZOS,
        UNIT,
        *KINDS,
        ("eigenvalue_tol", "eigenvalue_starts", "eigenvalue_sample"),
        OF_SPECTRUM,
        _top,
        _largest,
    ),
    "top_eigenvalues_sum": Measure(
        "sum of the largest eigenvalues of the Hessian",
        LANCZOS,
        UNIT,
        *KINDS,
        ("eigenvalue_tol", "eigenvalue_count"),
        OF_SPECTRUM,
        TOP,
        _sum,
        stream="top",
    ),
    "eigenvalue_ratio": Measure(
        "largest eigenvalue of the Hessian over the fifth, or last of as many as are asked for",
        "Foret et al. 2021, arXiv 2010.01412; Jastrzebski et al. 2020, arXiv 2002.09572",
        "1",
        *KINDS,
        ("eigenvalue_tol", "eigenvalue_count"),
        OF_SPECTRUM,
        TOP,
        _ratio,
        stream="top",
    ),
    "smallest_eigenvalue": Measure(
        "smallest eigenvalue of the Hessian, below 0 at a saddle",
        LANCZOS,
        UNIT,
        *KINDS,
        ("eigenvalue_tol",),
        OF_SPECTRUM,
        partial(extreme, _one_at_bottom),
        _smallest,
    ),
}
