"""The quadratic of numpy_optimizers in JAX, and loops over an optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_optimizers
import optax
from numpy_optimizers import SHAPES


def initial_params(dtype=float):
    params = numpy_optimizers.initial_params()
    return {name: jnp.asarray(value, dtype) for name, value in params.items()}


def grad(params):
    vector = jnp.concatenate([jnp.ravel(params[name]).astype(float) for name in SHAPES])
    grads = numpy_optimizers.unflatten(jnp.asarray(numpy_optimizers.hessian(), float) @ vector)
    return optax.tree.cast_like(grads, params)


def flatten(trajectory):
    """Vectors per step in the order of the NumPy reference, from stacked parameters."""
    steps = len(trajectory["scale"])
    return jnp.concatenate([trajectory[name].reshape(steps, -1) for name in SHAPES], axis=1)


def with_grad_fn(grad):
    """What sharpness-aware optimizers get beside the gradient."""
    return {"grad_fn": grad}


def run(tx, params, steps, grad=grad, arguments=with_grad_fn):
    """Stacked parameters after every step, initial ones first; one compiled loop."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grad(params), state, params, **arguments(grad), unknown=1.0)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    @jax.jit
    def loop(params):
        _, later = jax.lax.scan(step, (params, tx.init(params)), length=steps)
        return jax.tree.map(lambda p, ps: jnp.concatenate([p[None], ps]), params, later)

    return loop(params)


def open_loop(tx, grads, arguments=with_grad_fn):
    """Stacked updates for stacked gradients that do not depend on the parameters."""
    params = jax.tree.map(lambda g: jnp.zeros_like(g[0]), grads)

    def step(state, g):
        updates, state = tx.update(g, state, params, **arguments(lambda _: g))
        return state, updates

    return jax.jit(lambda grads: jax.lax.scan(step, tx.init(params), grads)[1])(grads)


def gradient_sequence(steps, dtype=float):
    """Stacked gradients of mixed signs and of sizes from 1e-3 to 10."""
    rng = np.random.default_rng(0)

    def leaf(shape):
        sizes = 10 ** rng.uniform(-3.0, 1.0, (steps, *shape))
        return jnp.asarray(sizes * rng.choice([-1.0, 1.0], sizes.shape), dtype)

    return {name: leaf(shape) for name, shape in SHAPES.items()}
