"""AdaShift: the window, the first step, tensors without a second moment, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_optimizers
import pytest
from quadratic import flatten, gradient_sequence, initial_params, open_loop, run

from jaxsharp.optimizers import adashift


@pytest.mark.parametrize("window", [1, 2, 10])
@pytest.mark.parametrize("b1", [0.0, 0.7])
def test_follows_numpy_for_every_window(window, b1):
    """The default window among them, from the first step (pitfall 32)."""
    settings = {"b1": b1, "b2": 0.95, "window": window, "eps": 1e-3}
    expected = numpy_optimizers.adashift(
        numpy_optimizers.quadratic_grad,
        numpy_optimizers.initial_params(),
        120,
        lr=lambda t: 0.01 * 0.99**t,
        **settings,
    )
    with jax.enable_x64(True):
        tx = adashift(learning_rate=lambda t: 0.01 * 0.99**t, **settings)
        vectors = flatten(run(tx, initial_params(), 120))
        for vector, params in zip(vectors, expected, strict=True):
            reference = numpy_optimizers.flatten(params)
            assert np.linalg.norm(vector - reference) <= 1e-10 * np.linalg.norm(reference)


@pytest.mark.parametrize("window", [1, 10])
def test_first_change_is_at_step_window_plus_one_with_a_full_window(window):
    with jax.enable_x64(True):
        grads = gradient_sequence(window + 1)
        updates = open_loop(adashift(learning_rate=0.5, window=window, eps=0.0), grads)
        weights = 0.9 ** np.arange(window)
        for name, g in grads.items():
            np.testing.assert_array_equal(updates[name][:window], 0.0)
            newest_first = np.asarray(g)[:0:-1]  # g_{n+1} ... g_2
            m = np.tensordot(weights / weights.sum(), newest_first, axes=1)
            # After one gradient the bias-corrected v is the square of that gradient alone.
            expected = -0.5 * m / np.max(np.abs(g[0]))
            np.testing.assert_allclose(updates[name][window], expected, rtol=1e-12)


def test_constant_gradient_gives_steps_of_the_learning_rate():
    updates = open_loop(adashift(learning_rate=0.5), {"w": jnp.full((300, 2), -0.3)})
    np.testing.assert_array_equal(updates["w"][:10], 0.0)
    # 1 - b2^t keeps three digits less than float32 has at small t.
    np.testing.assert_allclose(updates["w"][10:], 0.5, rtol=1e-4)


def test_tensors_have_second_moments_of_their_own():
    with jax.enable_x64(True):
        grads = gradient_sequence(30)
        alone = open_loop(adashift(), {"bias": grads["bias"]})
        np.testing.assert_allclose(open_loop(adashift(), grads)["bias"], alone["bias"], rtol=1e-12)


def test_no_step_while_the_second_moment_is_zero():
    # The first gradient that is not zero leaves the window of 2 at the sixth step.
    grads = jnp.array([0.0, 0.0, 0.0, 2.0, 1.0, 1.0])[:, None]
    updates = open_loop(adashift(learning_rate=0.1, b1=0.0, window=2, eps=0.0), {"w": grads})
    v = 0.001 * 2.0**2 / (1 - 0.999**4)
    expected = [0.0, 0.0, 0.0, 0.0, 0.0, -0.1 / np.sqrt(v)]
    np.testing.assert_allclose(updates["w"][:, 0], expected, rtol=1e-4)  # rounding of 1 - b2^4


@pytest.mark.parametrize("window", [0, -1])
def test_window_below_one_is_an_error(window):
    with pytest.raises(ValueError, match=f"window must be an int >= 1, got {window}"):
        adashift(window=window)


def test_window_that_is_no_int_is_an_error():
    with pytest.raises(TypeError, match="window"):
        adashift(window=2.0)
