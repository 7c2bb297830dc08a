"""Inner maximizers: perturbations of bounded size that raise the loss.

Measures look for the worst loss in a neighbourhood with them, optimizers avoid it.
"""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree, ScalarLike

from jaxsharp.core.trees import (
    Vector,
    check_real,
    mask_of,
    path_names,
    scaled_to_norm,
    select,
    widen,
)

# Names of weights and of what is added to them in Flax, Equinox, Haiku and PyTorch. Those of the
# first lines also count as a word of a longer name, as in hidden_kernel, W_q or bias_hh.
WEIGHTS = {"kernel", "weight", "weights", "embedding", "embeddings", "w"}
WEIGHTS_ALONE = {"scale", "gamma"}  # of a normalization
BIASES = {"bias", "biases"}
BIASES_ALONE = {"b", "offset", "shift", "beta"}  # of one axis; as matrices they would be weights

Mask = PyTree | Callable[[PyTree], PyTree] | None


def ascent_step(grads: Vector, rho: ScalarLike) -> Vector:
    """Return the maximizer of <grads, step> over the ball ||step||_2 <= rho.

    step = rho * grads / ||grads||_2, with the norm over the whole pytree and leaf dtypes kept. A
    zero gradient gives a zero step, never NaN; so does a gradient with an infinite or NaN entry,
    which a second pass then meets unchanged. Raises ValueError for gradients that are not real.

    Foret et al. 2021 (arXiv 2010.01412), equation 2 with p = 2.
    """
    check_real(grads, "grads")
    return scaled_to_norm(grads, rho)


def weights_only(params: PyTree) -> PyTree[bool]:
    """Return True for every leaf that is a weight, False for every bias.

    The last name in a leaf's path decides, by its words without digits, whatever the case: kernel,
    weight, w and embedding are weights, and scale or gamma alone, a normalization's; bias is one,
    and b, offset, shift or beta alone of at most one axis. Under any other name what has two axes
    or more is a weight.

    Raises ValueError that names the parameters of which neither is known, and if none is a weight:
    then a mask has to be given.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    roles = [is_weight(last_name(path), len(jnp.shape(leaf))) for path, leaf in leaves]
    unknown = [
        f"{jax.tree_util.keystr(path)} of shape {jnp.shape(leaf)}"
        for (path, leaf), role in zip(leaves, roles, strict=True)
        if role is None
    ]
    if unknown:
        raise ValueError(
            f"neither a weight nor a bias by name and shape: {', '.join(unknown)}; give a mask of "
            "True and False, or None for all"
        )
    if roles and not any(roles):
        raise ValueError("no parameter is a weight by name and shape; give a mask, or None for all")
    return structure.unflatten(roles)


def is_weight(name: str, num_axes: int) -> bool | None:
    """True, False, or None where name and shape do not tell."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    words = {word.lower() for word in words}
    weight = bool(words & WEIGHTS) or (len(words) == 1 and words <= WEIGHTS_ALONE)
    if words & BIASES:
        return None if weight else False
    if weight:
        return None if "b" in words else True
    if "b" in words or (len(words) == 1 and words <= BIASES_ALONE):
        return False if num_axes < 2 else None
    return True if num_axes >= 2 else None


def last_name(path: tuple) -> str:
    """The last name in a path; what follows it are indices, as in a list, or a box of Flax's."""
    names = path_names(path)
    boxes = ("value", "raw_value") if len(names) > 1 else ()
    return next((n for n in reversed(names) if not n.isdigit() and n not in boxes), "")


def adaptive_ascent_step(
    grads: Vector, params: Vector, rho: ScalarLike, *, eta: ScalarLike = 0.01, adaptive: Mask = None
) -> Vector:
    """Return the maximizer of <grads, step> over the ellipsoid ||step / T||_2 <= rho.

    step = rho * T^2 grads / ||T grads||_2,    T = |params| + eta where `adaptive` is True, else 1

    `adaptive` is a pytree of bools of the structure of `params` or its upper part, or a function
    of the parameters that returns one (`weights_only`); None: all of them. `grads` may have None
    in places where no step is wanted. Zero, infinite and NaN gradients as in `ascent_step`.

    Kwon et al. 2021 (arXiv 2102.11600), with the bias terms of T as in the authors' code: they
    leave T = 1 for everything but weights, which is `adaptive=weights_only`.
    """
    check_real(grads, "grads")
    adapted = select(params, mask_of(params, adaptive))

    def size(g, p, a):
        if g is None:
            return None
        return jnp.ones_like(p) if a is None else jnp.abs(p) + eta

    is_none = lambda x: x is None  # noqa: E731
    sizes = jax.tree.map(size, grads, widen(params), adapted, is_leaf=is_none)
    unit = scaled_to_norm(optax.tree.mul(sizes, widen(grads)), rho)
    return optax.tree.cast_like(optax.tree.mul(sizes, unit), grads)
