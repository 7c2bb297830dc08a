"""Sharpness as the largest eigenvalue of the Hessian of the training loss."""

from functools import partial
from typing import NamedTuple

import jax
from jaxtyping import Array, PyTree

from jaxsharp.core.memory import Budget, budget
from jaxsharp.curvature.lanczos import EigenPairs, top_eigenpairs
from jaxsharp.curvature.products import hessian
from jaxsharp.networks.losses import frozen_loss
from jaxsharp.networks.network import Network

MAX_PRODUCTS = 200


class TopEigenvalue(NamedTuple):
    """Largest eigenvalue; ``error`` is its residual ||H v - lambda v||.

    Some eigenvalue of H lies within ``error`` of ``value``. ``converged``: the residual met the
    tolerance.
    """

    value: float
    error: float
    converged: bool
    num_products: int


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
    memory: Budget | None = None,
) -> TopEigenvalue:
    """Largest *algebraic* eigenvalue of the Hessian of the loss over ``batch``, by Lanczos.

    ``batch`` is (images, labels), the loss the mean cross-entropy, data loss alone, with BatchNorm
    at its running statistics. Stops when ||H v - lambda v|| <= tol |lambda|. Cost: one Hessian
    product a step, of ``chunk_size`` examples at a time (None: as ``memory`` allows). Changes under
    layer rescaling.
    """
    static = (network, tol, max_products, chunk_size, memory or budget())
    return from_pairs(eigenpairs(*static, params, stats, batch, key))


def from_pairs(pairs: EigenPairs) -> TopEigenvalue:
    """The first of some eigenpairs."""
    return TopEigenvalue(
        float(pairs.values[0]),
        float(pairs.residuals[0]),
        bool(pairs.converged[0]),
        int(pairs.num_products),
    )


@partial(jax.jit, static_argnums=range(5))
def eigenpairs(
    network: Network,
    tol: float,
    max_products: int,
    chunk_size: int | None,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
) -> EigenPairs:
    """Top eigenpair, compiled once for all models of one network."""
    loss = frozen_loss(network.apply, stats)
    matvec = hessian(loss, params, batch, chunk_size=chunk_size, memory=memory)
    return top_eigenpairs(matvec, params, key=key, k=1, tol=tol, max_products=max_products)
