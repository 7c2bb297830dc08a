"""How squares of gradients are summed over examples, from rows of activations and signals."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsharp.core.trees import widen
from jaxsharp.curvature.structure import Product, like_leaf, parameter_matrix


class Reduction(NamedTuple):
    """How squares are summed over the examples n and factors k of a chunk.

    ``product(product, leaf, a, d)`` of a parameter, activations a (n, positions, inputs) and
    signals d (n, k, positions, outputs); ``gradient(g)`` of gradients (n, k, *shape).
    """

    product: Callable
    gradient: Callable


def _trace_of_product(
    product: Product,
    leaf: Array,
    a: Float[Array, "n positions inputs"],
    d: Float[Array, "n k positions outputs"],
) -> Float[Array, ""]:
    """sum_(n, k) ||A_n^T D_nk||^2 by whichever of three forms takes the fewest operations."""
    (_, positions, inputs), num_rows, outputs = a.shape, d.shape[1], d.shape[3]
    if positions == 1:
        return jnp.sum(jnp.square(a).sum((1, 2)) * jnp.square(d).sum((1, 2, 3)))
    if positions * (inputs + num_rows * outputs) > inputs * num_rows * outputs:
        return jnp.sum(jnp.square(_gradients(a, d)))
    products = jnp.einsum("npi,nqi->npq", a, a) * jnp.einsum("nkpo,nkqo->npq", d, d)
    return jnp.maximum(jnp.sum(products), 0)  # a zero may round to either side


def _diagonal_of_product(
    product: Product,
    leaf: Array,
    a: Float[Array, "n positions inputs"],
    d: Float[Array, "n k positions outputs"],
) -> Array:
    """sum_(n, k) (A_n^T D_nk)^2, in the shape of the parameter."""
    if a.shape[1] == 1:
        squares = jnp.square(a[:, 0]).T @ jnp.square(d).sum((1, 2))
    else:
        squares = jnp.square(_gradients(a, d)).sum((0, 2))
    return like_leaf(product, squares)


def _flatness_of_product(product: Product, leaf: Array, a: Array, d: Array) -> Float[Array, ""]:
    """sum_(n, k) ||A_n^T D_nk W||^2: what comes back to the inputs in the place of the outputs."""
    back = jnp.einsum("nkpo,io->nkpi", d, widen(parameter_matrix(product, leaf)))
    return _trace_of_product(product, leaf, a, back)


def _gradients(a: Array, d: Array) -> Float[Array, "n inputs k outputs"]:
    """A_n^T D_nk, all k of an example in one product of matrices."""
    return jnp.einsum("npi,nkpo->niko", a, d)


TRACE = Reduction(_trace_of_product, lambda g: jnp.sum(jnp.square(g)))
FLATNESS = Reduction(_flatness_of_product, lambda g: jnp.zeros((), g.dtype))
DIAGONAL = Reduction(_diagonal_of_product, lambda g: jnp.sum(jnp.square(g), (0, 1)))
