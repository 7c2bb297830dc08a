"""Stochastic gradient descent, plain and with Polyak's momentum."""

import optax
from jaxtyping import ScalarLike

from jaxsharp.optimizers.arguments import check_non_negative, check_rate
from jaxsharp.optimizers.precision import keep_dtypes


def sgd(*, learning_rate: ScalarLike | optax.Schedule = 0.1) -> optax.GradientTransformation:
    """Stochastic gradient descent.

    step = -learning_rate * g
    """
    check_rate(learning_rate=learning_rate)
    return keep_dtypes(optax.sgd(learning_rate))


def heavy_ball(
    *, learning_rate: ScalarLike | optax.Schedule = 0.01, momentum: ScalarLike = 0.8
) -> optax.GradientTransformation:
    """Polyak's heavy ball: SGD with momentum, no dampening, no Nesterov.

    buf = momentum * buf + g,  step = -learning_rate * buf

    Polyak 1964, in PyTorch's form: the rate of the present step multiplies the whole buffer, so
    that a schedule also rescales the past gradients in it.
    """
    check_rate(learning_rate=learning_rate)
    check_non_negative(momentum=momentum)
    return keep_dtypes(optax.sgd(learning_rate, momentum=momentum))
