"""Gradients of groups of the examples of a step, as m-SAM takes them, that add up to the step's."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxsharp.core.chunks import numbered
from jaxsharp.core.keys import stream
from jaxsharp.networks.losses import Loss
from jaxsharp.training.regimes import Mixed


@lru_cache(maxsize=32)  # so that one loss is one static argument of compiled programs
def summed(loss: Loss) -> Loss:
    """A loss by weights, times the mean weight of the examples that it is given; others as are."""
    return loss if loss.weights is None else loss._replace(mean=loss.in_parts(loss.mean, 1))


def of_groups(
    value_and_grad: Callable,
    loss: Loss,
    stats: PyTree,
    batch: PyTree,
    key: Array | None,
    *,
    draws: bool,
) -> dict[str, Any]:
    """What a variant that cuts the batch of a step is given: grad_fn(params, group), and a batch.

    ``value_and_grad(params, stats, batch, key)`` is that of the `summed` loss. The mean of grad_fn
    over groups of equal size is the gradient of the step: of a loss by weights a group counts by
    its share of the weights of the batch. With ``draws`` each group has random numbers of its own,
    the same at all parameters, by the place of its first example in the batch.
    """
    targets = batch[1].first if isinstance(batch[1], Mixed) else batch[1]
    total = loss.total(targets)  # of both targets of mixed examples, as one permutes the other

    def grad_fn(params, group):
        examples, places = group
        own = jax.random.fold_in(stream(key, "group"), places[0]) if draws else key
        grads = value_and_grad(params, stats, examples, own)[1]
        if total is None:
            return grads
        share = jnp.where(total == 0, 0, 1 / jnp.where(total == 0, 1, total))
        return jax.tree.map(lambda g: (g * share).astype(g.dtype), grads)

    return {"grad_fn": grad_fn, "batch": numbered(batch)}
