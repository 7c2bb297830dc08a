"""AdaBound and AMSBound: Adam whose step sizes are clipped to bounds that close in on SGD's."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, ScalarLike

from jaxsharp.core.trees import Vector
from jaxsharp.optimizers.arguments import check_decay, check_positive, check_rate
from jaxsharp.optimizers.decay import with_decay
from jaxsharp.optimizers.precision import keep_dtypes
from jaxsharp.optimizers.sharpness_aware.ascent import Mask


class AdaBoundState(NamedTuple):
    """Steps taken, moving averages of g and g^2, and the largest v so far (AMSBound only)."""

    count: Int[Array, ""]
    m: Vector
    v: Vector
    largest_v: Vector | None


def adabound(
    learning_rate: ScalarLike | optax.Schedule = 0.001,
    *,
    final_lr: ScalarLike = 0.1,
    gamma: ScalarLike = 1e-3,
    b1: ScalarLike = 0.9,
    b2: ScalarLike = 0.999,
    eps: ScalarLike = 1e-8,
    base_learning_rate: ScalarLike | None = None,
    weight_decay: ScalarLike = 0.0,
    decoupled_weight_decay: ScalarLike = 0.0,
    decay_mask: Mask = None,
) -> optax.GradientTransformation:
    """AdaBound: Adam with step sizes clipped to bounds that tighten around final_lr.

    m = b1 * m + (1 - b1) * g,  v = b2 * v + (1 - b2) * g^2
    size = learning_rate * sqrt(1 - b2^t) / (1 - b1^t) / (sqrt(v) + eps)
    final = final_lr * learning_rate / base_learning_rate
    step = -clip(size, final * (1 - 1 / (gamma * t + 1)), final * (1 + 1 / (gamma * t))) * m

    `base_learning_rate` is the configured rate, by which a schedule's present rate is divided; it
    defaults to `learning_rate` and must be given where that is a schedule; under
    `optax.inject_hyperparams` too, where the schedule's rate arrives as a number and would be its
    own base, so that the bounds stood still. A learning rate of 0 gives no step.

    Memory: two vectors. Weight decay: `with_decay`; decoupled, it is outside the clip and
    with the plain learning rate.

    Luo et al. 2019 (arXiv 1902.09843), Algorithm 2. As in the authors' PyTorch code, and unlike
    the algorithm: moments are bias-corrected, eps is in the denominator, the step is not divided
    by sqrt(t), and the bounds follow the learning rate.
    """
    tx = _bounded(learning_rate, final_lr, gamma, b1, b2, eps, base_learning_rate, ams=False)
    return keep_dtypes(
        with_decay(tx, learning_rate, weight_decay, decoupled_weight_decay, decay_mask)
    )


def amsbound(
    learning_rate: ScalarLike | optax.Schedule = 0.001,
    *,
    final_lr: ScalarLike = 0.1,
    gamma: ScalarLike = 1e-3,
    b1: ScalarLike = 0.9,
    b2: ScalarLike = 0.999,
    eps: ScalarLike = 1e-8,
    base_learning_rate: ScalarLike | None = None,
    weight_decay: ScalarLike = 0.0,
    decoupled_weight_decay: ScalarLike = 0.0,
    decay_mask: Mask = None,
) -> optax.GradientTransformation:
    """AMSBound: AdaBound with the largest v so far in place of v.

    largest_v = max(largest_v, v), and otherwise as `adabound`. Memory: three vectors.

    Luo et al. 2019 (arXiv 1902.09843), Algorithm 3, with the deviations of `adabound`.
    """
    tx = _bounded(learning_rate, final_lr, gamma, b1, b2, eps, base_learning_rate, ams=True)
    return keep_dtypes(
        with_decay(tx, learning_rate, weight_decay, decoupled_weight_decay, decay_mask)
    )


def _bounded(learning_rate, final_lr, gamma, b1, b2, eps, base_learning_rate, *, ams):
    check_rate(learning_rate=learning_rate)
    check_positive(final_lr=final_lr, gamma=gamma, eps=eps)
    check_decay(b1=b1, b2=b2)
    if base_learning_rate is not None:
        check_positive(base_learning_rate=base_learning_rate)
    elif callable(learning_rate):
        raise ValueError(
            "base_learning_rate must be the configured rate, a number > 0, when learning_rate is "
            "a schedule; got None"
        )
    else:
        base_learning_rate = learning_rate

    def init(params):
        zeros = optax.tree.zeros_like(params)
        return AdaBoundState(jnp.zeros((), jnp.int32), zeros, zeros, zeros if ams else None)

    def update(grads, state, params=None):
        del params
        lr = learning_rate(state.count) if callable(learning_rate) else learning_rate
        t = optax.safe_increment(state.count)
        m = optax.tree.update_moment(grads, state.m, b1, 1)
        v = optax.tree.update_moment(grads, state.v, b2, 2)
        largest_v = jax.tree.map(jnp.maximum, state.largest_v, v) if ams else None
        size = step_size(t, lr, final_lr, gamma, b1, b2, eps, base_learning_rate)
        updates = jax.tree.map(lambda m, v: -size(v) * m, m, largest_v if ams else v)
        return updates, AdaBoundState(t, m, v, largest_v)

    return optax.GradientTransformation(init, update)


def step_size(t, lr, final_lr, gamma, b1, b2, eps, base_learning_rate):
    """Return the sizes of step t, of each entry of v, as a function of v."""
    lower, upper = _bounds(t, final_lr * _ratio(lr, base_learning_rate), gamma)
    size = lr * jnp.sqrt(1 - b2**t) / (1 - b1**t)
    return lambda v: jnp.clip(size / (jnp.sqrt(v) + eps), lower, upper)


def _bounds(t, final, gamma):
    # 1 - 1 / (x + 1) = x / (x + 1), without the cancellation at small x.
    x = gamma * t
    return final * x / (x + 1), final * (1 + 1 / x)


def _ratio(lr, base):
    # Both are 0 for a learning rate of 0 that is its own base: no step, and no 0 / 0.
    return jnp.where(base == 0, 0.0, lr / jnp.where(base == 0, 1.0, base))
