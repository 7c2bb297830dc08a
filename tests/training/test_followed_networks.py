"""What is followed of networks whose steps have a form, or derivatives, of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.training import trackers
from jaxsharp.training.descents import Descent
from jaxsharp.training.epochs import init_state
from tests.tinynets import cnn, tiny_dataset
from tests.training.test_epochs import recipe_of


def numbers(stepped, measured):
    """Batch and directional sharpness of a convolutional network, whose steps have one lowering."""
    recipe, hyper = recipe_of(cnn(stepped)), {"learning_rate": jnp.float32(0.1)}
    descent = Descent("sgd", "none", False, {})
    batch = tuple(map(jnp.asarray, tiny_dataset(num=10).train))

    @jax.jit
    def follow(batch, key):
        state = init_state(recipe, hyper, *recipe.network.init(key))
        rate, steps = hyper["learning_rate"], jnp.int32(0)
        here = trackers.Situation(recipe, cnn(measured), descent, state, hyper, batch, rate, steps)
        along = trackers.along_update(here, "directional_sharpness", key)
        return *trackers.sharpness_of_batches(here, key)[:2], *along

    return follow(batch, jax.random.key(0))


@pytest.mark.slow
def test_the_networks_of_the_package_are_followed():
    """On the CPU their steps are in tiles, whose rule has no forward mode (pitfall 6)."""
    in_steps, measured = numbers("tiles", "patches"), numbers("patches", "tiles")
    np.testing.assert_allclose(in_steps, measured, rtol=2e-3)
