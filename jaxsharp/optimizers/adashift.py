"""AdaShift: Adam whose second moment is taken from gradients that have left a window."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, ScalarLike

from jaxsharp.core.trees import Vector
from jaxsharp.optimizers.arguments import check_count, check_decay, check_non_negative, check_rate
from jaxsharp.optimizers.decay import with_decay
from jaxsharp.optimizers.precision import keep_dtypes
from jaxsharp.optimizers.sharpness_aware.ascent import Mask


class AdaShiftState(NamedTuple):
    """Steps taken, the last `window` gradients of every tensor, and one v per tensor."""

    count: Int[Array, ""]
    gradients: Vector
    v: Vector


def adashift(
    learning_rate: ScalarLike | optax.Schedule = 0.01,
    *,
    b1: ScalarLike = 0.9,
    b2: ScalarLike = 0.999,
    window: int = 10,
    eps: ScalarLike = 1e-10,
    weight_decay: ScalarLike = 0.0,
    decoupled_weight_decay: ScalarLike = 0.0,
    decay_mask: Mask = None,
) -> optax.GradientTransformation:
    """AdaShift: Adam with a second moment that is independent of the present gradient.

    m_t = sum_{i < window} b1^i g_{t-i} / sum_{i < window} b1^i
    v_t = b2 * v_{t-1} + (1 - b2) * max(g_{t-window}^2), one number per tensor
    step = -learning_rate * m_t / (sqrt(v_t / (1 - b2^(t-window))) + eps)

    The parameters first change at step window + 1, when the window is full and one gradient has
    left it; a tensor with v = 0 takes no step. `window` is a length: under
    `optax.inject_hyperparams` it needs static_args="window".

    Memory: `window` vectors and a number per tensor. Weight decay: `with_decay`; decoupled,
    it does not wait for the window.

    Zhou et al. 2019 (arXiv 1810.00143), with the maximum as spatial function. The paper's
    algorithm has no eps; here it is outside the root. Unlike two public codes, the first moment
    neither starts empty at step window + 1 nor counts the newest gradient twice.
    """
    check_rate(learning_rate=learning_rate)
    check_decay(b1=b1, b2=b2)
    check_non_negative(eps=eps)
    check_count(window=window)
    direction = _scale_by_adashift(b1, b2, window, eps)
    tx = optax.chain(direction, optax.scale_by_learning_rate(learning_rate))
    return keep_dtypes(
        with_decay(tx, learning_rate, weight_decay, decoupled_weight_decay, decay_mask)
    )


def _scale_by_adashift(b1, b2, window, eps):
    def init(params):
        return AdaShiftState(
            count=jnp.zeros((), jnp.int32),
            gradients=jax.tree.map(lambda p: jnp.zeros((window, *p.shape), p.dtype), params),
            v=jax.tree.map(lambda p: jnp.zeros((), p.dtype), params),
        )

    def update(grads, state, params=None):
        del params
        t = optax.safe_increment(state.count)
        # A ring: the slot that takes g_t holds g_{t-window}, or zeros while the window fills.
        slot = state.count % window
        leaving = jax.tree.map(lambda ring: ring[slot], state.gradients)
        gradients = jax.tree.map(
            lambda ring, g: ring.at[slot].set(g.astype(ring.dtype)), state.gradients, grads
        )
        v = jax.tree.map(
            lambda v, g: b2 * v + (1 - b2) * jnp.max(g**2, initial=0.0), state.v, leaving
        )
        weights = b1 ** ((slot - jnp.arange(window)) % window)
        weights = weights / jnp.sum(weights)
        correction = 1 - b2 ** jnp.maximum(t - window, 1)

        def direction(ring, v):
            # One pass over the ring; a product with a matrix of its slots takes twice the time.
            m = sum(weight * g for weight, g in zip(weights, ring, strict=True))
            root = jnp.sqrt(jnp.where(v > 0, v, 1.0) / correction)
            # v = 0 also covers the first `window` steps.
            return jnp.where(v > 0, m / (root + eps), 0.0)

        return jax.tree.map(direction, gradients, v), AdaShiftState(t, gradients, v)

    return optax.GradientTransformation(init, update)
