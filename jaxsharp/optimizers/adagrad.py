"""Adagrad with PyTorch's constants."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import ScalarLike

from jaxsharp.core.trees import Vector
from jaxsharp.optimizers.arguments import check_non_negative, check_rate
from jaxsharp.optimizers.decay import with_decay
from jaxsharp.optimizers.precision import keep_dtypes
from jaxsharp.optimizers.sharpness_aware.ascent import Mask


class AdagradState(NamedTuple):
    """The sum of all squared gradients."""

    sum_of_squares: Vector


def adagrad(
    learning_rate: ScalarLike | optax.Schedule = 0.01,
    *,
    eps: ScalarLike = 1e-10,
    weight_decay: ScalarLike = 0.0,
    decoupled_weight_decay: ScalarLike = 0.0,
    decay_mask: Mask = None,
) -> optax.GradientTransformation:
    """Adagrad: steps scaled by the root of the sum of all squared gradients.

    s = s + g^2,  step = -learning_rate * g / (sqrt(s) + eps), and no step where s = 0

    Memory: one vector. Weight decay: `with_decay`.

    Duchi, Hazan and Singer 2011. As in PyTorch s starts at 0 and eps is outside the root;
    `optax.adagrad` starts at 0.1, has eps inside the root and another default.
    """
    check_rate(learning_rate=learning_rate)
    check_non_negative(eps=eps)
    tx = optax.chain(_scale_by_adagrad(eps), optax.scale_by_learning_rate(learning_rate))
    return keep_dtypes(
        with_decay(tx, learning_rate, weight_decay, decoupled_weight_decay, decay_mask)
    )


def _scale_by_adagrad(eps):
    def init(params):
        return AdagradState(optax.tree.zeros_like(params))

    def update(grads, state, params=None):
        del params
        sum_of_squares = jax.tree.map(lambda s, g: s + g**2, state.sum_of_squares, grads)

        def direction(g, s):
            root = jnp.sqrt(jnp.where(s > 0, s, 1.0))
            return jnp.where(s > 0, g / (root + eps), 0.0)

        return jax.tree.map(direction, grads, sum_of_squares), AdagradState(sum_of_squares)

    return optax.GradientTransformation(init, update)
