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
from jax.tree_util import tree_leaves_with_path, tree_map_with_path
from jaxtyping import Array, PyTree

from jaxsharp.core.trees import path_names, random_direction, scaled_to_norm, widen
from jaxsharp.optimizers.sharpness_aware.ascent import WEIGHTS_ALONE, is_weight, last_name

sphere = random_direction
# Names of arrays whose filters lie along the first axis, as in PyTorch and Equinox; others along
# the last, as in Flax and Haiku.
FIRST_AXIS = ("weight", "embedding")
# Parts of Flax's attention, whose kernels have the axes (inputs, heads, size of a head).
TO_HEADS = ("query", "key", "value")


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
    weights with one index of the last axis, or of the first in arrays called weight or embedding;
    of Flax's query, key and value, one index of the last two. Arrays of at most one axis, biases
    and BatchNorm, are not moved, as in the authors' code; nor are they with further axes of length
    1, as biases of Equinox's convolutions.
    """

    shapes = {path_names(path): leaf.shape for path, leaf in tree_leaves_with_path(params)}

    def scaled(path, drawn, leaf):
        if not _has_filters(last_name(path), leaf.shape):
            return jnp.zeros_like(leaf)
        shape = (len(leaf), -1) if _to_heads(path_names(path), shapes) else leaf.shape
        drawn, by_units = drawn.reshape(shape), leaf.reshape(shape)
        axis = 0 if last_name(path) in FIRST_AXIS else len(shape) - 1
        others = tuple(i for i in range(len(shape)) if i != axis)
        norms = jnp.sqrt(jnp.sum(jnp.square(by_units), others, keepdims=True))
        own = jax.vmap(lambda one: scaled_to_norm(one, 1.0), axis, axis)(drawn)
        return (own * norms).astype(leaf.dtype).reshape(leaf.shape)

    return tree_map_with_path(scaled, gaussian(key, params), params)


def between(start: PyTree, end: PyTree) -> PyTree:
    """Return end - start: the loss along it, from 0 to 1, is that between two networks.

    Raises ValueError for parameters of other names or shapes.
    """
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (start, end)]
    if shapes[0] != shapes[1]:
        raise ValueError("end has other names or shapes than start; valid are the same")
    return optax.tree.sub(end, start)


def _has_filters(name, shape):
    """Whether an array holds weights of units, and is no bias and no scale of each."""
    long = sum(n > 1 for n in shape)
    scale = long < 2 and name.lower() in WEIGHTS_ALONE
    return len(shape) > 1 and is_weight(name, long) is not False and not scale


def _to_heads(names, shapes):
    """Whether an array is the kernel of a part of Flax's attention, with all its parts beside."""
    *above, part, name = ("", "", *names)
    of = lambda part, name: shapes.get((*above[2:], part, name), ())  # noqa: E731
    if part not in TO_HEADS or name != "kernel":
        return False
    kernels, biases = ([of(each, name) for each in TO_HEADS] for name in ("kernel", "bias"))
    of_heads = all(len(shape) == 3 and shape[1] == kernels[0][1] for shape in kernels)
    return of_heads and all(len(shape) != 1 for shape in biases)
