"""Weight decay for every optimizer: added to the gradient, or taken from the parameters."""

import numbers

import optax
from jaxtyping import ScalarLike

from jaxsharp.optimizers.arguments import check_non_negative
from jaxsharp.optimizers.sharpness_aware.ascent import Mask


def with_decay(
    tx: optax.GradientTransformation,
    learning_rate: ScalarLike | optax.Schedule,
    weight_decay: ScalarLike,
    decoupled_weight_decay: ScalarLike,
    decay_mask: Mask,
) -> optax.GradientTransformation:
    """Return an optimizer on gradients with coupled decay, its steps with decoupled decay.

    g = g + weight_decay * params                                    before anything else
    step = step - learning_rate * decoupled_weight_decay * params    after everything else

    The first is PyTorch's `weight_decay`, the second that of its AdamW (Loshchilov and Hutter 2019,
    arXiv 1711.05101, with the schedule of the rate and no other). Both act where `decay_mask` is
    True: a pytree of bools of the structure of the parameters or its upper part, or a function of
    such a pytree that returns one (`ascent.weights_only`), which `optax.inject_hyperparams` needs
    in static_args; None: everywhere.

    A decay of 0 given as a Python number leaves `tx` as it is; any other needs params in `update`.
    """
    check_non_negative(weight_decay=weight_decay, decoupled_weight_decay=decoupled_weight_decay)
    parts = [tx]
    if not _is_constant_zero(weight_decay):
        parts = [optax.add_decayed_weights(weight_decay, decay_mask), *parts]
    if not _is_constant_zero(decoupled_weight_decay):
        shrinkage = _shrinkage(learning_rate, decoupled_weight_decay)
        parts = [*parts, optax.add_decayed_weights(shrinkage, decay_mask)]
    return tx if len(parts) == 1 else _needs_params(optax.chain(*parts))


def _shrinkage(learning_rate, decay):
    if callable(learning_rate):
        return lambda count: -learning_rate(count) * decay
    return -learning_rate * decay


def _needs_params(tx):
    def update(grads, state, params=None, **extra_args):
        if params is None:
            raise ValueError("params is None; weight decay needs update(grads, state, params)")
        return tx.update(grads, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _is_constant_zero(decay):
    # An array is a value of the program, which may change from call to call.
    return isinstance(decay, numbers.Real) and decay == 0
