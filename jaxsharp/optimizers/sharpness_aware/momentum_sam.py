"""MSAM: SAM along the momentum, without a second gradient."""

import jax
import optax
from jaxtyping import ScalarLike

from jaxsharp.optimizers.arguments import check_decay, check_rate
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


def momentum_sam(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    decay: ScalarLike = 0.9,
    mask: Mask = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """MSAM (momentum-SAM): the gradient at params - rho * v / ||v||_2, v the momentum.

    g = gradient there,  v = decay * v + g;  v starts at zero, so the first step is that of `base`

    One gradient a step: `grads` is not looked at, so inside jit its backward pass is dropped, and
    the forward pass too unless the clean loss is used. Becker et al. 2024 (arXiv 2401.12033),
    Algorithm 1; the shift is along the momentum's descent, as there. v is kept here whatever
    `base` is; for heavy ball with `decay` as its momentum it is the buffer of the paper. `mask` as
    in `sam`.
    """
    return sharpness_aware(base, momentum_sam_rule(rho, decay=decay, mask=mask), axis_name)


def momentum_sam_rule(rho: Rho, *, decay: ScalarLike = 0.9, mask: Mask = None) -> Rule:
    """Return the rule of `momentum_sam`; its memory is v."""
    check_rate(rho=rho)
    check_decay(decay=decay)

    def gradient(grad_fn, grads, params, momentum, step):
        ascent = optax.tree.scale(-1, ascent_step(momentum, at_step(rho, step)))
        sharp = grad_fn(shifted(params, ascent))
        part = chosen(sharp, params, mask)
        momentum = jax.tree.map(lambda v, g: decay * v + g, momentum, part)
        return sharp, momentum

    return Rule(zero_memory(mask), gradient)
