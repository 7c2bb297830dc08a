"""Data types inside an optimizer."""

import jax
import optax

from jaxsharp.core.trees import check_real, widen


def keep_dtypes(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Return `tx` computed in at least float32, with dtypes that no hyper-parameter can change.

    Updates have the dtypes of the gradients; the state has its own from the first step to the
    last. Without this a traced float32 rate would widen bfloat16 updates, and a decay of 0.999,
    which is 1 in bfloat16, would never decay.

    `init` raises ValueError for parameters that are not real floating point.
    """
    tx = optax.with_extra_args_support(tx)

    def init(params):
        check_real(params)
        return tx.init(widen(params))

    def update(grads, state, params=None, **extra_args):
        # Decays to the power of a count: what optax itself does not spell out for strict promotion.
        with jax.numpy_dtype_promotion("standard"):
            updates, new_state = tx.update(widen(grads), state, widen(params), **extra_args)
        return optax.tree.cast_like(updates, grads), optax.tree.cast_like(new_state, state)

    return optax.GradientTransformationExtraArgs(init, update)
