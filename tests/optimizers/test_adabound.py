"""AdaBound: bounds, the base of its schedule, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_optimizers
import optax
import pytest
from quadratic import flatten, gradient_sequence, initial_params, open_loop, run

from jaxsharp.optimizers import adabound, amsbound


@pytest.mark.parametrize("ams", [False, True])
def test_follows_numpy_with_a_schedule_and_both_bounds_active(ams):
    settings = {"final_lr": 0.02, "gamma": 0.1, "b1": 0.8, "b2": 0.95, "eps": 1e-3}
    expected = numpy_optimizers.adabound(
        numpy_optimizers.quadratic_grad,
        numpy_optimizers.initial_params(),
        150,
        lr=lambda t: 0.01 * min(t / 10, 1.0) * 0.99**t,
        base_lr=0.01,
        ams=ams,
        **settings,
    )
    with jax.enable_x64(True):
        tx = (amsbound if ams else adabound)(
            learning_rate=lambda t: 0.01 * jnp.minimum(t / 10.0, 1.0) * 0.99**t,
            base_learning_rate=0.01,
            **settings,
        )
        vectors = flatten(run(tx, initial_params(), 150))
        for vector, params in zip(vectors, expected, strict=True):
            reference = numpy_optimizers.flatten(params)
            assert np.linalg.norm(vector - reference) <= 1e-10 * np.linalg.norm(reference)


@pytest.mark.parametrize(("size", "bound"), [(1e-6, "upper"), (1e4, "lower")])
def test_first_steps_sit_on_the_bounds_in_float32(size, bound):
    # With b1 = 0 the step is the clipped size times the gradient.
    updates = open_loop(adabound(b1=0.0), {"w": jnp.full((3, 1), size)})["w"][:, 0]
    x = 1e-3 * np.arange(1, 4)
    factor = x / (x + 1) if bound == "lower" else 1 + 1 / x
    # Float32 rounding of a handful of operations; 1 - 1 / (x + 1) would be off by 3e-5.
    np.testing.assert_allclose(updates, -0.1 * factor * size, rtol=1e-6)


def test_ams_keeps_the_largest_second_moment():
    grads = {"w": jnp.array([[10.0]] + [[0.1]] * 60)}
    settings = {"b1": 0.0, "b2": 0.5, "gamma": 1e-9}
    plain = open_loop(adabound(**settings), grads)["w"][:, 0]
    ams = open_loop(amsbound(**settings), grads)["w"][:, 0]
    largest = np.sqrt(0.5 * 10.0**2)
    np.testing.assert_allclose(ams[-1], -0.001 * 0.1 / largest, rtol=1e-5)
    np.testing.assert_allclose(plain[-1], -0.001, rtol=1e-5)


def test_warm_up_from_zero_divides_by_the_configured_rate_and_never_by_zero():
    """The bounds follow rate / configured rate (pitfall 31)."""
    grads = gradient_sequence(6)
    tx = adabound(learning_rate=lambda t: 0.001 * t / 5, base_learning_rate=0.001)
    updates = open_loop(tx, grads)
    constant = open_loop(adabound(), grads)
    for name in grads:
        np.testing.assert_array_equal(updates[name][0], 0.0)
        np.testing.assert_allclose(updates[name][5], constant[name][5], rtol=1e-6)


def test_injected_schedule_moves_the_bounds_if_the_configured_rate_is_given():
    def schedule(t):
        return 0.001 * (t + 1) / 5

    with jax.enable_x64(True):
        grads = gradient_sequence(6)
        settings = {"gamma": 0.1, "base_learning_rate": 0.001}
        found = open_loop(optax.inject_hyperparams(adabound)(schedule, **settings), grads)
        expected = open_loop(adabound(schedule, **settings), grads)
        for name, updates in found.items():
            np.testing.assert_allclose(updates, expected[name], rtol=1e-12)


def test_schedule_without_its_configured_rate_is_an_error():
    with pytest.raises(ValueError, match=r"base_learning_rate must be .* got None"):
        adabound(learning_rate=lambda t: 0.001 * t)


@pytest.mark.parametrize("factory", [adabound, amsbound])
@pytest.mark.parametrize("argument", ["final_lr", "gamma", "eps", "base_learning_rate"])
@pytest.mark.parametrize("value", [0.0, -0.1])
def test_positive_arguments(factory, argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be a finite number > 0, got {value}"):
        factory(**{argument: value})


@pytest.mark.parametrize("rate", [0.0, jnp.float32(0.0)])
def test_a_rate_of_zero_takes_no_step(rate):
    """It is its own configured rate, so that the bounds would divide 0 by 0."""
    grads = gradient_sequence(2)
    for updates in open_loop(adabound(learning_rate=rate), grads).values():
        np.testing.assert_array_equal(updates, 0.0)
