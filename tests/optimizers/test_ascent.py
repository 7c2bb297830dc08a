"""The ascent step: the best point of the ball for a linear loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsharp.core.trees import random_direction
from jaxsharp.optimizers import adaptive_ascent_step, ascent_step

GRADS = {"w": jnp.array([[3.0, -4.0]]), "b": jnp.array(12.0)}


@pytest.mark.slow
def test_closed_form_over_the_whole_tree():
    step = ascent_step(GRADS, 0.26)
    np.testing.assert_allclose(step["w"], [[0.06, -0.08]], rtol=1e-6)
    np.testing.assert_allclose(step["b"], 0.24, rtol=1e-6)


def test_no_other_direction_in_the_ball_rises_more():
    rise = optax.tree.vdot(GRADS, ascent_step(GRADS, 0.5))
    np.testing.assert_allclose(rise, 0.5 * 13, rtol=1e-6)
    for seed in range(50):
        direction = random_direction(jax.random.key(seed), GRADS)
        assert 0.5 * optax.tree.vdot(GRADS, direction) < rise


@pytest.mark.slow
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_zero_gradient_gives_a_zero_step_with_zero_derivative(transform):
    zero = jax.tree.map(jnp.zeros_like, GRADS)
    step, derivative = transform(lambda g: jax.jvp(lambda g: ascent_step(g, 0.5), (g,), (GRADS,)))(
        zero
    )
    jax.tree.map(np.testing.assert_array_equal, step, zero)
    jax.tree.map(np.testing.assert_array_equal, derivative, zero)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_size_of_the_gradient_does_not_matter(scale):
    extreme = ascent_step(jax.tree.map(lambda g: scale * g, GRADS), 0.5)
    jax.tree.map(
        lambda e, s: np.testing.assert_allclose(e, s, rtol=1e-6), extreme, ascent_step(GRADS, 0.5)
    )


@pytest.mark.slow
def test_vmap_over_rho_and_members_equals_serial():
    members = jax.tree.map(lambda g: jnp.stack([g, 0 * g, 1e30 * g]), GRADS)
    rhos = jnp.array([0.1, 0.2, 0.0])
    together = jax.vmap(ascent_step)(members, rhos)
    for i in range(3):
        alone = ascent_step(jax.tree.map(lambda m, i=i: m[i], members), rhos[i])
        jax.tree.map(
            lambda t, a, i=i: np.testing.assert_allclose(t[i], a, rtol=1e-6), together, alone
        )


@pytest.mark.slow
def test_weights_of_zero_move_by_eta():
    """T = eta everywhere, so that step = rho * eta * grads / ||grads||."""
    grads = {"w": jnp.array([3.0, 0.0]), "v": jnp.array([4.0])}
    zeros = jax.tree.map(jnp.zeros_like, grads)
    step = adaptive_ascent_step(grads, zeros, 0.5, eta=0.02)
    np.testing.assert_allclose(step["w"], [0.006, 0.0], rtol=1e-6)
    np.testing.assert_allclose(step["v"], [0.008], rtol=1e-6)
