"""Stochastic gradient descent, plain and with Polyak's momentum."""

import optax
from jaxtyping import ScalarLike

from jaxsharp.optimizers.arguments import check_non_negative, check_rate
from jaxsharp.optimizers.decay import with_decay
from jaxsharp.optimizers.precision import keep_dtypes
from jaxsharp.optimizers.sharpness_aware.ascent import Mask


def sgd(
    learning_rate: ScalarLike | optax.Schedule = 0.1,
    *,
    weight_decay: ScalarLike = 0.0,
    decoupled_weight_decay: ScalarLike = 0.0,
    decay_mask: Mask = None,
) -> optax.GradientTransformation:
    """Stochastic gradient descent.

    step = -learning_rate * g

    No memory but the count of a schedule. Weight decay: `with_decay`.
    """
    check_rate(learning_rate=learning_rate)
    tx = optax.sgd(learning_rate)
    return keep_dtypes(
        with_decay(tx, learning_rate, weight_decay, decoupled_weight_decay, decay_mask)
    )


def heavy_ball(
    learning_rate: ScalarLike | optax.Schedule = 0.01,
    *,
    momentum: ScalarLike = 0.8,
    weight_decay: ScalarLike = 0.0,
    decoupled_weight_decay: ScalarLike = 0.0,
    decay_mask: Mask = None,
) -> optax.GradientTransformation:
    """Polyak's heavy ball: SGD with momentum, no dampening, no Nesterov.

    buf = momentum * buf + g,  step = -learning_rate * buf

    Polyak 1964, in PyTorch's form: the rate of the present step multiplies the whole buffer, so
    that a schedule also rescales the past gradients in it. Memory: one vector. Weight decay:
    `with_decay`.
    """
    check_rate(learning_rate=learning_rate)
    check_non_negative(momentum=momentum)
    tx = optax.sgd(learning_rate, momentum=momentum)
    return keep_dtypes(
        with_decay(tx, learning_rate, weight_decay, decoupled_weight_decay, decay_mask)
    )
