"""What is kept, so that one function is one argument of compiled programs, is let go again."""

import gc
import weakref

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.measures.registry import own_measure
from jaxsharp.networks import losses
from jaxsharp.networks.batches import whole_batch
from jaxsharp.training.regimes import Regime, objective

MOST = 128


def weights(targets):
    return jnp.ones(len(targets))


@pytest.mark.parametrize(
    "made",
    [
        losses.own_loss,
        lambda fn: losses.by_weights(fn, weights),
        lambda fn: whole_batch(fn, 4),
        own_measure,
        lambda fn: objective(losses.own_loss(fn), Regime()),
    ],
)
def test_functions_of_a_user_and_what_they_close_over_are_let_go(made):
    kept = []
    for _ in range(3 * MOST):
        data = np.zeros(10)

        def loss(outputs, targets, *more, data=data):
            return jnp.square(outputs - targets).sum() + data.sum()

        assert made(loss) is made(loss)
        kept.append(weakref.ref(loss))
        del loss
    gc.collect()
    assert sum(each() is not None for each in kept) <= MOST
