"""Sharpness as the largest eigenvalue of the Hessian of the training loss."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxsharp.core.chunks import check_pair
from jaxsharp.core.keys import stream
from jaxsharp.core.memory import Budget, budget
from jaxsharp.curvature.lanczos import eigenpairs_at
from jaxsharp.curvature.products import hessian
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
    of as many, and say whether another start confirms it. Raises ValueError for ``starts`` below 1.
    """
    if starts < 1:
        raise ValueError(f"starts is {starts}; it must be at least 1")
    check_pair(batch)
    static = (network, tol, max_products, chunk_size, starts, memory or budget())
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


@partial(jax.jit, static_argnums=range(6))
def eigenvalues(
    network: Network,
    tol: float,
    max_products: int,
    chunk_size: int | None,
    starts: int,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
) -> Found:
    """Top eigenvalue from each start, compiled once for all models of one network."""
    loss = network.frozen_loss(stats, batch[1])
    matvec = hessian(loss, params, batch, chunk_size=chunk_size, memory=memory)
    return largest(matvec, params, key, tol=tol, max_products=max_products, starts=starts)


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
