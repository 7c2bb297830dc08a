"""Products of the cases with vectors, their dense matrices, and how close the two must be."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxsharp.curvature import hessian
from tests.cases import make_case
from tests.references import dense_hessian

# Rounding of sums of a hundred terms of size one in float64.
TOL = 1e-12
KEY = jax.random.key(5)


def random_like(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), tree)


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def assert_close(a, b, tol=TOL):
    np.testing.assert_allclose(flat(a), flat(b), rtol=tol, atol=tol)


case_of = cache(make_case)


@cache
def dense_of(name):
    case = case_of(name)
    return dense_hessian(case.plain_loss, case.params, case.batch)


@partial(jax.jit, static_argnames=("loss", "chunk_size"))
def compiled(loss, params, batch, vector, chunk_size):
    """The product as a user would write it, with everything as an argument."""
    return hessian(loss, params, batch, chunk_size=chunk_size, recompute=True)(vector)


def matrix(matvec, like):
    """Return the matrix of a product, all rows at once; to be called inside jit."""
    vector, unflatten = ravel_pytree(like)
    return jax.vmap(lambda v: ravel_pytree(matvec(unflatten(v)))[0])(jnp.eye(vector.size))


def product(case, vector, chunk_size=None, batch=None):
    return compiled(
        case.loss, case.params, case.batch if batch is None else batch, vector, chunk_size
    )


MODES = {
    "linearized": {"recompute": False},
    "linearized_in_chunks": {"recompute": False, "chunk_size": 4},
    "recomputed_in_chunks": {"recompute": True, "chunk_size": 4},
}
