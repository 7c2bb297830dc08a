"""F-SAM: SAM that ascends along what is particular to the batch."""

import jax
import optax
from jaxtyping import ScalarLike

from jaxsharp.optimizers.arguments import check_decay, check_non_negative, check_rate
from jaxsharp.optimizers.sharpness_aware.ascent import Mask, ascent_step
from jaxsharp.optimizers.sharpness_aware.rule import (
    Rho,
    Rule,
    at_step,
    chosen,
    sharpness_aware,
    shifted,
    zero_memory,
)


def friendly_sam(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    sigma: ScalarLike = 1.0,
    decay: ScalarLike = 0.9,
    mask: Mask = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """F-SAM (friendly SAM): the ascent leaves out a moving average of the gradients.

    m = decay * m + (1 - decay) * g,  step = ascent_step(g - sigma * m, rho)

    sigma = 0 is SAM; `mask` as there. Two gradients a step.

    Li et al. 2024 (arXiv 2403.12350), Algorithm 1, whose lambda is `decay`. m starts at zero as
    there; in the authors' code it starts at the first gradient and m of the step before is
    subtracted.
    """
    return sharpness_aware(
        base, friendly_sam_rule(rho, sigma=sigma, decay=decay, mask=mask), axis_name
    )


def friendly_sam_rule(
    rho: Rho, *, sigma: ScalarLike = 1.0, decay: ScalarLike = 0.9, mask: Mask = None
) -> Rule:
    """Return the rule of `friendly_sam`; its memory is m."""
    check_rate(rho=rho)
    check_non_negative(sigma=sigma)
    check_decay(decay=decay)

    def gradient(grad_fn, grads, params, average, step):
        clean = chosen(grads, params, mask)
        average = optax.tree.update_moment(clean, average, decay, 1)
        noise = jax.tree.map(lambda g, m: g - sigma * m, clean, average)
        ascent = optax.tree.cast_like(ascent_step(noise, at_step(rho, step)), clean)
        return grad_fn(shifted(params, ascent)), average

    return Rule(zero_memory(mask), gradient)
