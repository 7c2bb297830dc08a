"""LookSAM: SAM whose second gradient is taken every few steps and remembered in between."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import ScalarLike

from jaxsharp.core.trees import added, norm, scaled_to_norm
from jaxsharp.optimizers.arguments import check_count, check_non_negative, check_rate
from jaxsharp.optimizers.sharpness_aware.ascent import Mask, ascent_step
from jaxsharp.optimizers.sharpness_aware.gsam import without_direction
from jaxsharp.optimizers.sharpness_aware.rule import (
    Rho,
    Rule,
    at_step,
    chosen,
    sharpness_aware,
    shifted,
    zero_memory,
)

# Of the SAM gradient, a part across the clean one below this many eps is rounding.
ROUNDING = 10.0


def look_sam(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    every: int = 5,
    alpha: ScalarLike = 0.7,
    mask: Mask = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """LookSAM: SAM every few steps, and between them the direction across that it found.

    step t divisible by `every`:  s = SAM gradient,  v = s - <s, g> g / ||g||^2,  step = s
    other steps:                  step = g + alpha * ||g|| v / ||v||

    `mask` as in `sam`. 1 + 1 / every gradients a step; under vmap two, as both branches run.

    Liu et al. 2022 (arXiv 2203.02714), Algorithm 1. Deviation: a v that is rounding counts as zero.
    """
    return sharpness_aware(base, look_sam_rule(rho, every=every, alpha=alpha, mask=mask), axis_name)


def look_sam_rule(rho: Rho, *, every: int = 5, alpha: ScalarLike = 0.7, mask: Mask = None) -> Rule:
    """Return the rule of `look_sam`; its memory is v / ||v||."""
    check_rate(rho=rho)
    check_count(every=every)
    check_non_negative(alpha=alpha)

    def gradient(grad_fn, grads, params, across, step):
        clean = chosen(grads, params, mask)

        def look():
            sharp = grad_fn(shifted(params, ascent_step(clean, at_step(rho, step))))
            part = chosen(sharp, params, mask)
            rest = without_direction(part, clean)
            length = norm(rest)
            least = ROUNDING * jnp.finfo(length.dtype).eps * norm(part)
            unit = scaled_to_norm(rest, jnp.where(length > least, 1.0, 0.0))
            return sharp, optax.tree.cast_like(unit, across)

        def remember():
            step = optax.tree.cast_like(optax.tree.scale(alpha * norm(clean), across), clean)
            return added(step, grads), across

        return jax.lax.cond(step % every == 0, look, remember)

    return Rule(zero_memory(mask), gradient)
