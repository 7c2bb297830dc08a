"""GSAM: SAM that also shrinks the surrogate gap, by a part of the clean gradient."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import ScalarLike

from jaxsharp.core.trees import scaled_to_norm
from jaxsharp.optimizers.arguments import check_non_negative, check_rate
from jaxsharp.optimizers.sharpness_aware.ascent import Mask, ascent_step
from jaxsharp.optimizers.sharpness_aware.rule import (
    Rho,
    Rule,
    at_step,
    chosen,
    no_memory,
    sharpness_aware,
    shifted,
)


def gsam(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    alpha: ScalarLike = 0.4,
    mask: Mask = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """GSAM: the SAM gradient less a part of the clean one that is orthogonal to it.

    u = s / ||s||_2 with s the SAM gradient,  step = s - alpha * (g - <g, u> u)

    which descends on the loss at the perturbed point and on its distance from the clean loss.
    alpha = 0 is SAM. For the authors' schedule give `rho` as one, linear in the learning rate.

    `mask` as in `sam`. Two gradients a step. Zhuang et al. 2022 (arXiv 2203.08065), Algorithm 1.
    """
    return sharpness_aware(base, gsam_rule(rho, alpha=alpha, mask=mask), axis_name)


def gsam_rule(rho: Rho, *, alpha: ScalarLike = 0.4, mask: Mask = None) -> Rule:
    """Return the rule of `gsam`."""
    check_rate(rho=rho)
    check_non_negative(alpha=alpha)

    def gradient(grad_fn, grads, params, memory, step):
        clean = chosen(grads, params, mask)
        sharp = grad_fn(shifted(params, ascent_step(clean, at_step(rho, step))))
        rest = without_direction(clean, chosen(sharp, params, mask))

        def descent(r, s):
            return s if r is None else s - alpha * r

        return jax.tree.map(descent, rest, sharp, is_leaf=lambda x: x is None), memory

    return Rule(no_memory(mask), gradient)


def without_direction(vector, direction):
    """The part of a vector orthogonal to a direction; the whole vector if that is zero."""
    unit = scaled_to_norm(direction, 1.0)
    along = jnp.conj(optax.tree.vdot(vector, unit))  # <unit, vector>
    return jax.tree.map(lambda v, u: v - along * u, vector, unit)
