"""Directions in parameter space: random ones, drawn from a key, and those between networks.

A function ``draw(key, params)`` returns a vector like ``params``:

    sphere             u / ||u||_2
    gaussian           u
    adaptive           u |theta|, entry by entry
    filter_normalized  u_f ||theta_f||_2 / ||u_f||_2 for every filter f, 0 for biases

with u standard normal.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from jaxsharp.core.trees import random_direction, scaled_to_norm, widen
from jaxsharp.optimizers.sharpness_aware.ascent import last_name

sphere = random_direction
# Names of arrays whose filters lie along the first axis, as in PyTorch and Equinox; others along
# the last, as in Flax and Haiku.
FIRST_AXIS = ("weight", "embedding")


def gaussian(key: Array, params: PyTree) -> PyTree:
    """Standard normal entries: a standard deviation of 1 a coordinate, a norm of about sqrt(P)."""
    return optax.tree.cast_like(optax.tree.random_like(key, widen(params)), params)


def adaptive(key: Array, params: PyTree) -> PyTree:
    """Normal entries of standard deviation |theta_i|, as Andriushchenko et al. 2023 with c = |w|.

    Unchanged by every rescaling of the parameters: theta_i -> a_i theta_i takes it along.
    """
    return optax.tree.mul(gaussian(key, params), jax.tree.map(jnp.abs, params))


def filter_normalized(key: Array, params: PyTree) -> PyTree:
    """Normal entries, every filter scaled to the norm of the filter of the parameters.

    Li et al. 2018 (arXiv 1712.09913), section 4. A filter is what makes one output unit: all
    weights with one index of the last axis, or of the first in arrays called weight or embedding.
    Arrays of at most one axis, biases and BatchNorm, are not moved, as in the authors' code.
    """

    def scaled(path, drawn, leaf):
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        axis = 0 if last_name(path) in FIRST_AXIS else leaf.ndim - 1
        norms = jnp.sqrt(jnp.sum(jnp.square(leaf), _others(leaf, axis), keepdims=True))
        own = jax.vmap(lambda one: scaled_to_norm(one, 1.0), axis, axis)(drawn)
        return (own * norms).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(scaled, gaussian(key, params), params)


def between(start: PyTree, end: PyTree) -> PyTree:
    """Return end - start: the loss along it, from 0 to 1, is that between two networks.

    Raises ValueError for parameters of other names or shapes.
    """
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (start, end)]
    if shapes[0] != shapes[1]:
        raise ValueError("end has other names or shapes than start; valid are the same")
    return optax.tree.sub(end, start)


def _others(leaf, axis):
    return tuple(i for i in range(leaf.ndim) if i != axis)
