"""SAM and ASAM: the gradient at the worst point nearby, found by one or by several ascent steps."""

from collections.abc import Callable

import optax
from jaxtyping import ScalarLike

from jaxsharp.optimizers.arguments import check_count, check_positive, check_rate
from jaxsharp.optimizers.sharpness_aware.ascent import (
    Mask,
    adaptive_ascent_step,
    ascent_step,
    weights_only,
)
from jaxsharp.optimizers.sharpness_aware.rule import (
    Rho,
    Rule,
    at_step,
    chosen,
    no_memory,
    sharp_gradient,
    sharpness_aware,
    shifted,
)


def sam(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    mask: Mask = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SAM: the gradient at params + ascent_step(grads, rho).

    step = rho * g / ||g||_2 over the parameters that `mask` chooses; no step where g is zero.

    `mask`, a pytree of bools of the structure of the parameters or its upper part, or a function
    of the parameters that returns one, says along which to ascend (None: all); what moves is for
    `base` to say. Raises ValueError, in `init`, for a mask that does not fit or chooses nothing,
    for chosen parameters that are not real, and inside of `optax.masked`.

    Two gradients a step. Foret et al. 2021 (arXiv 2010.01412), Algorithm 1, without the
    second-order term as there. How it is called: `rule.sharpness_aware`.
    """
    return sharpness_aware(base, sam_rule(rho, mask=mask), axis_name)


def asam(
    base: optax.GradientTransformation,
    rho: Rho = 0.5,
    *,
    eta: ScalarLike = 0.01,
    adaptive: Mask = weights_only,
    mask: Mask = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """ASAM: SAM in a neighbourhood that scales with the parameters.

    step = rho * T^2 g / ||T g||_2,  T = |params| + eta where `adaptive` is True, else 1

    `adaptive` as in `ascent.adaptive_ascent_step`; the default, weights alone, is the authors'
    choice. `mask` as in `sam`.

    Two gradients a step. Kwon et al. 2021 (arXiv 2102.11600), Algorithm 1 with p = 2.
    """
    return sharpness_aware(base, asam_rule(rho, eta=eta, adaptive=adaptive, mask=mask), axis_name)


def multi_step_sam(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    num_steps: int = 2,
    mask: Mask = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multi-step SAM: the gradient after several ascent steps of length rho / num_steps.

    step_k+1 = step_k + ascent_step(gradient at params + step_k, rho / num_steps)

    num_steps + 1 gradients a step; num_steps = 1 is SAM. The end is within rho of the parameters.
    `mask` as in `sam`.
    Foret et al. 2021 (arXiv 2010.01412), appendix on the inner maximization; Kim et al. 2023
    (arXiv 2302.10181).
    """
    return sharpness_aware(base, multi_step_rule(rho, num_steps=num_steps, mask=mask), axis_name)


def sam_gradient(
    value_and_grad: Callable, rho: ScalarLike, axis_name: str | None = None, mask: Mask = None
) -> Callable:
    """Return `value_and_grad` with its gradient taken at params + ascent_step(grads, rho).

    value_and_grad(params, *args) -> ((loss, aux), grads), and so does the result: loss and aux
    (BatchNorm statistics among them) are those of the clean pass at params. Any other first part
    than (loss, aux) comes back in the same way. With rho = 0 all is that of `value_and_grad`.
    `mask` as in `sam`.

    Two gradients per call. Every call is one ascent step over all examples in its arguments.
    """
    if callable(rho):
        raise TypeError("rho must be a number here; a schedule needs the count that `sam` keeps")
    _, gradient = sharp_gradient(value_and_grad, sam_rule(rho, mask=mask), axis_name)

    def sharpness_aware_gradient(params, *args, **kwargs):
        value, grads, _ = gradient(params, (), 0, *args, **kwargs)
        return value, grads

    return sharpness_aware_gradient


def sam_rule(rho: Rho, *, mask: Mask = None) -> Rule:
    """Return the rule of `sam`."""
    check_rate(rho=rho)
    return _one_step(lambda grads, params, step: ascent_step(grads, at_step(rho, step)), mask)


def asam_rule(
    rho: Rho, *, eta: ScalarLike = 0.01, adaptive: Mask = weights_only, mask: Mask = None
) -> Rule:
    """Return the rule of `asam`."""
    check_rate(rho=rho)
    check_positive(eta=eta)

    def ascent(grads, params, step):
        size = at_step(rho, step)
        return adaptive_ascent_step(grads, params, size, eta=eta, adaptive=adaptive)

    return _one_step(ascent, mask)


def multi_step_rule(rho: Rho, *, num_steps: int = 2, mask: Mask = None) -> Rule:
    """Return the rule of `multi_step_sam`."""
    check_rate(rho=rho)
    check_count(num_steps=num_steps)

    def gradient(grad_fn, grads, params, memory, step):
        size = at_step(rho, step) / num_steps
        total = ascent_step(chosen(grads, params, mask), size)
        for _ in range(num_steps - 1):
            there = chosen(grad_fn(shifted(params, total)), params, mask)
            total = optax.tree.add(total, ascent_step(there, size))
        return grad_fn(shifted(params, total)), memory

    return Rule(no_memory(mask), gradient)


def _one_step(ascent, mask):
    def gradient(grad_fn, grads, params, memory, step):
        step = ascent(chosen(grads, params, mask), params, step)
        return grad_fn(shifted(params, step)), memory

    return Rule(no_memory(mask), gradient)
