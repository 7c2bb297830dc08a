"""Networks with exact traces, and what is compared with what."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxsharp.curvature import (
    exact_diagonal,
    exact_traces,
    softmax_factors,
    squared_factors,
)
from tests.cases import cross_entropy, make_case, squared_error
from tests.references import dense_hessian

QUALIFIED = ("relu_mlp", "cnn", "batch_norm_cnn", "equinox")
LOSSES = {"softmax": (softmax_factors, cross_entropy), "squared": (squared_factors, squared_error)}
FUNCTIONS = [exact_traces, exact_diagonal]


@cache
def case_of(name):
    """The case, and its network of a single example."""
    case = make_case(name)
    return case, lambda params, stats, x: case.apply(params, {"x": x[None]})[0]


def single(network):
    return lambda params, stats, image: network.apply(params, stats, image[None], False)[0][0]


def assert_close(got, want):
    """Equal to rounding of the largest entry of all, and of the same shapes."""
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), got, want)
    got, want = ravel_pytree(got)[0], ravel_pytree(want)[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max())


def assert_both(functions, want, fn, params, stats, images, **options):
    """The diagonal is ``want``, and the traces are its sums."""
    traces, diag = functions
    assert_close(diag(fn, params, stats, images, **options), want)
    sums = jax.tree.map(jnp.sum, want)
    assert_close(traces(fn, params, stats, images, **options), sums)


def dense_diagonal(loss, params, batch):
    _, unflatten = ravel_pytree(params)
    return unflatten(jnp.diag(dense_hessian(loss, params, batch)))


@partial(jax.jit, static_argnums=(0, 1))
def gauss_newton_diagonal(fn, output_loss, params, images):
    """Diagonal of (1/n) sum_i J_i^T (Hessian of the loss in the logits) J_i, all of it dense."""
    logits = jax.vmap(lambda x: fn(params, {}, x))(images)
    labels = {"y": jnp.zeros(1, int)}  # the Hessians depend on none
    hessians = jax.vmap(jax.hessian(lambda f: output_loss(f[None], labels)))(logits)
    jacobians = jax.vmap(lambda x: jax.jacrev(fn)(params, {}, x))(images)
    return jax.tree.map(
        lambda j: jnp.einsum("nc...,ncd,nd...->...", j, hessians, j) / len(images), jacobians
    )
