"""Inner maximizers: perturbations of bounded size that raise the loss.

Measures look for the worst loss in a neighbourhood with them, optimizers avoid it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree, ScalarLike

from jaxsharp.core.trees import Vector, scaled_to_norm, widen

# Last parts of the paths of weights in Flax, Equinox and Haiku; "scale" is BatchNorm's weight.
WEIGHTS = ("kernel", "weight", "w", "embedding", "scale")

Mask = PyTree[bool] | Callable[[PyTree], PyTree[bool]] | None


def ascent_step(grads: Vector, rho: ScalarLike) -> Vector:
    """Return the maximizer of <grads, step> over the ball ||step||_2 <= rho.

    step = rho * grads / ||grads||_2, with the norm over the whole pytree and leaf dtypes kept. A
    zero gradient gives a zero step, never NaN; so does a gradient with an infinite or NaN entry,
    which a second pass then meets unchanged.

    Foret et al. 2021 (arXiv 2010.01412), equation 2 with p = 2.
    """
    return scaled_to_norm(grads, rho)


def weights_only(params: PyTree) -> PyTree[bool]:
    """Return True for every leaf whose path ends in one of WEIGHTS, False for biases and others.

    Raises ValueError if no path does: without names a mask has to be given.
    """
    mask = jax.tree.map_with_path(lambda path, _: _last_name(path) in WEIGHTS, params)
    if jax.tree.leaves(params) and not any(jax.tree.leaves(mask)):
        raise ValueError(
            f"no parameter's path ends in {', '.join(WEIGHTS)}; give a mask, or None for all"
        )
    return mask


def _last_name(path):
    """The last name in a path; what follows it are indices, as in a list of arrays."""
    names = [jax.tree_util.keystr((key,), simple=True) for key in path]
    return next((name for name in reversed(names) if not name.isdigit()), "")


def adaptive_ascent_step(
    grads: Vector, params: Vector, rho: ScalarLike, *, eta: ScalarLike = 0.01, mask: Mask = None
) -> Vector:
    """Return the maximizer of <grads, step> over the ellipsoid ||step / T||_2 <= rho.

    step = rho * T^2 grads / ||T grads||_2,    T = |params| + eta where `mask` is True, else 1

    `mask` is a pytree of bools of the structure of `params` or its upper part, or a function of
    the parameters that returns one (`weights_only`); None: all of them. Zero, infinite and NaN
    gradients as in `ascent_step`.

    Kwon et al. 2021 (arXiv 2102.11600), with the bias terms of T as in the authors' code: they
    leave T = 1 for everything but weights, which is `mask=weights_only`.
    """
    mask = mask(params) if callable(mask) else mask
    params = widen(params)
    sizes = jax.tree.map(lambda p: jnp.abs(p) + eta, params)
    if mask is not None:
        sizes = jax.tree.map(
            lambda adapt, part: part if adapt else jax.tree.map(jnp.ones_like, part), mask, sizes
        )
    unit = scaled_to_norm(optax.tree.mul(sizes, widen(grads)), rho)
    return optax.tree.cast_like(optax.tree.mul(sizes, unit), grads)
