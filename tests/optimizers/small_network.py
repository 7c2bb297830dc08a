"""A loss over a few examples, without symmetry, with auxiliary output."""

import jax
import jax.numpy as jnp
import numpy as np


def network():
    """Parameters and a batch of six examples for `value_and_grad`, in float64."""
    keys = jax.random.split(jax.random.key(0), 2)
    params = {"w": jax.random.normal(keys[0], (3,)), "s": jnp.array(0.7)}
    return params, jax.random.normal(keys[1], (6, 3))


def value_and_grad(params, batch):
    """A mean over examples, with their number and the mean of the batch as auxiliary output."""

    def loss(params):
        prediction = jnp.tanh(batch @ params["w"]) * params["s"]
        return jnp.mean((prediction - 1.0) ** 2), (len(batch), jnp.mean(batch, 0))

    return jax.value_and_grad(loss, has_aux=True)(params)


def grad_fn(params, batch):
    return value_and_grad(params, batch)[1]


def assert_close(actual, expected, rtol=1e-12):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol, 1e-14), actual, expected)
