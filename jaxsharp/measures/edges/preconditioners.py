"""D of optimizers whose steps are lr D^(-1) m, m their first moment, read off their states.

The states may be inside others: of a chain, of weight decay, of a sharpness-aware wrapper. The
constants are those that the optimizer was made with. D is that of the last step; a parameter that
took no step, and had no gradient yet, has the largest finite number.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree, ScalarLike

from jaxsharp.core.trees import Vector
from jaxsharp.optimizers.adabound import AdaBoundState, step_size
from jaxsharp.optimizers.adagrad import AdagradState
from jaxsharp.optimizers.adashift import AdaShiftState


def adam_preconditioner(state: PyTree, *, b2: ScalarLike = 0.999, eps: ScalarLike = 1e-8) -> Vector:
    """D of `optimizers.adam` and `optax.adam`: sqrt(v / (1 - b2^t)) + eps.

    With the plain constants; ValueError for a state that is not one of Adam's, or holds several.
    """
    found = only(state, optax.ScaleByAdamState)
    correction = 1 - b2 ** widened(found.count)
    return jax.tree.map(lambda v: jnp.sqrt(v / correction) + eps, found.nu)


def adagrad_preconditioner(state: PyTree, *, eps: ScalarLike = 1e-10) -> Vector:
    """D of `optimizers.adagrad`: sqrt(s) + eps. ValueError for a state that is not one of these."""
    found = only(state, AdagradState)
    return jax.tree.map(lambda s: unless_still(s, jnp.sqrt(s) + eps), found.sum_of_squares)


def adashift_preconditioner(
    state: PyTree,
    *,
    b2: ScalarLike = 0.999,
    eps: ScalarLike = 1e-10,
) -> Vector:
    """D of `optimizers.adashift`: sqrt(v / (1 - b2^(t - window))) + eps, one number a tensor.

    ValueError for a state that is not one of these.
    """
    found = only(state, AdaShiftState)

    def entries(ring, v):
        correction = 1 - b2 ** widened(jnp.maximum(found.count - len(ring), 1))
        return jnp.broadcast_to(unless_still(v, jnp.sqrt(v / correction) + eps), ring.shape[1:])

    return jax.tree.map(entries, found.gradients, found.v)


def adabound_preconditioner(
    state: PyTree,
    learning_rate: ScalarLike,
    *,
    final_lr: ScalarLike = 0.1,
    gamma: ScalarLike = 1e-3,
    b1: ScalarLike = 0.9,
    b2: ScalarLike = 0.999,
    eps: ScalarLike = 1e-8,
    base_learning_rate: ScalarLike | None = None,
) -> Vector:
    """D of `optimizers.adabound` and `amsbound`: learning_rate over the step size of the last step.

    So that adam_edge(learning_rate, b1=b1) is the edge. ``base_learning_rate`` as there. ValueError
    for a state that is not one of these.
    """
    found = only(state, AdaBoundState)
    base = learning_rate if base_learning_rate is None else base_learning_rate
    size = step_size(widened(found.count), learning_rate, final_lr, gamma, b1, b2, eps, base)
    second = found.v if found.largest_v is None else found.largest_v
    return jax.tree.map(lambda v: learning_rate / size(v), second)


def only(state: PyTree, kind: type) -> PyTree:
    """The one state of a kind inside of an optimizer's; ValueError for none or several."""
    is_kind = partial(lambda kind, node: isinstance(node, kind), kind)
    found = [node for node in jax.tree.leaves(state, is_leaf=is_kind) if is_kind(node)]
    if len(found) != 1:
        raise ValueError(
            f"state holds {len(found)} {kind.__name__}; it must hold one, as of the optimizer that "
            "the function is named after"
        )
    return found[0]


def widened(count: Array | np.ndarray) -> Array:
    """A number of steps to whose power decays are taken."""
    return jnp.asarray(count, jnp.result_type(float))


def unless_still(second: Array | np.ndarray, entry: Array) -> Array:
    """An entry of D; the largest number where nothing moved yet."""
    return jnp.where(second > 0, entry, jnp.finfo(entry.dtype).max)
