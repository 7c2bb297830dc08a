"""Hutch++ and XTrace of matrices, compiled or recorded."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxsharp.curvature import Operator, hutchpp, xtrace
from tests.probing import SIZE

ESTIMATORS = (hutchpp, xtrace)
ROWS = 12
decaying = 0.7 ** np.arange(SIZE)


def options_of(estimator, max_products=50):
    sketch = {"sketch_size": ROWS} if estimator is hutchpp else {}
    return sketch | {"rtol": 0.0, "max_products": max_products}


@partial(jax.jit, static_argnames=("estimator", "options"))
def compiled(estimator, matrix, key, options):
    like = jax.ShapeDtypeStruct(matrix.shape[:1], matrix.dtype)
    return estimator(lambda vector: matrix @ vector, like, key=key, **dict(options))


def estimate(estimator, matrix, seed=0, **options):
    options = tuple((options_of(estimator) | options).items())
    return compiled(estimator, matrix, jax.random.key(seed), options)


def recorded(estimator, matrix, **options):
    """Return the result and every vector that was multiplied, from loops on the host."""
    vectors = []

    def product(vector):
        vectors.append(np.asarray(vector))
        return jnp.asarray(matrix @ vectors[-1])

    operator = Operator(product, "test", on_host=True)
    options = options_of(estimator) | options
    result = estimator(operator, jnp.zeros(len(matrix)), key=jax.random.key(0), **options)
    return result, np.array(vectors)
