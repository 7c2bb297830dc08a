"""Adam."""

import optax
from jaxtyping import ScalarLike

from jaxsharp.optimizers.arguments import check_decay, check_positive, check_rate
from jaxsharp.optimizers.decay import with_decay
from jaxsharp.optimizers.precision import keep_dtypes
from jaxsharp.optimizers.sharpness_aware.ascent import Mask


def adam(
    learning_rate: ScalarLike | optax.Schedule = 0.001,
    *,
    b1: ScalarLike = 0.9,
    b2: ScalarLike = 0.999,
    eps: ScalarLike = 1e-8,
    weight_decay: ScalarLike = 0.0,
    decoupled_weight_decay: ScalarLike = 0.0,
    decay_mask: Mask = None,
) -> optax.GradientTransformation:
    """Adam: steps scaled by bias-corrected moving averages of g and g^2.

    m = b1 * m + (1 - b1) * g,  v = b2 * v + (1 - b2) * g^2
    step = -learning_rate * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)

    Memory: two vectors. Weight decay: `with_decay`; AdamW is the decoupled one.

    Kingma and Ba 2015 (arXiv 1412.6980), Algorithm 1; eps outside the root as in PyTorch.
    """
    check_rate(learning_rate=learning_rate)
    check_decay(b1=b1, b2=b2)
    check_positive(eps=eps)
    tx = optax.adam(learning_rate, b1=b1, b2=b2, eps=eps)
    return keep_dtypes(
        with_decay(tx, learning_rate, weight_decay, decoupled_weight_decay, decay_mask)
    )
