"""Sharpness-aware minimization, as a gradient and as an optax wrapper."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree, ScalarLike

from jaxsharp.ascent import ascent_step
from jaxsharp.optimizers.arguments import check_non_negative, check_rate


class SamState(NamedTuple):
    """Steps taken and the state of the base optimizer."""

    count: Int[Array, ""]
    base: PyTree


def sam_gradient(value_and_grad: Callable, rho: ScalarLike) -> Callable:
    """Return `value_and_grad` with its gradient taken at params + ascent_step(grads, rho).

    value_and_grad(params, *args) -> ((loss, aux), grads), and so does the result: loss and aux
    (BatchNorm statistics among them) are those of the clean pass at params. Any other first part
    than (loss, aux) comes back in the same way. With rho = 0 all is that of `value_and_grad`.

    Two gradients per call. Every call is one ascent step over all examples in its arguments.

    Foret et al. 2021 (arXiv 2010.01412), Algorithm 1, without the second-order term as there.
    """
    check_non_negative(rho=rho)

    def sharpness_aware(params, *args, **kwargs):
        value, grads = value_and_grad(params, *args, **kwargs)
        _, sam_grads = value_and_grad(_perturbed(params, grads, rho), *args, **kwargs)
        return value, sam_grads

    return sharpness_aware


def sam(
    base: optax.GradientTransformation, rho: ScalarLike | optax.Schedule = 0.05
) -> optax.GradientTransformationExtraArgs:
    """SAM: the base optimizer on the gradient at params + ascent_step(grads, rho).

    update(grads, state, params, grad_fn=...) with grad_fn(params) -> grads on the same batch.
    Momentum, clipping and decoupled weight decay of `base` act on the SAM gradient and on the
    clean params; other extra arguments reach it unchanged. A schedule `rho` counts updates.
    Transformations chained before `sam` change the direction of the ascent alone.

    One gradient per update besides the one that is passed in. Foret et al. 2021, as
    `sam_gradient`, which also keeps the loss and auxiliary output of the clean pass.
    """
    if not isinstance(base, optax.GradientTransformation):
        raise TypeError(f"base must be an optax.GradientTransformation, got {base!r}")
    check_rate(rho=rho)
    base = optax.with_extra_args_support(base)

    def init(params):
        return SamState(jnp.zeros((), jnp.int32), base.init(params))

    def update(grads, state, params=None, *, grad_fn=None, **extra_args):
        if params is None or grad_fn is None:
            missing = "params" if params is None else "grad_fn"
            raise ValueError(
                f"{missing} is None; sam needs update(grads, state, params, grad_fn=grad_fn) with "
                "grad_fn(params) -> grads"
            )
        present_rho = rho(state.count) if callable(rho) else rho
        sam_grads = grad_fn(_perturbed(params, grads, present_rho))
        updates, base_state = base.update(sam_grads, state.base, params, **extra_args)
        return updates, SamState(optax.safe_increment(state.count), base_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _perturbed(params, grads, rho):
    # A traced rho or wider gradients must not change what the network is called with.
    return optax.tree.cast_like(optax.tree.add(params, ascent_step(grads, rho)), params)
