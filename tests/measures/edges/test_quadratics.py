"""Curvatures along updates on quadratics, where they are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.measures import edges

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.slow
def test_directional_and_critical_sharpness_of_a_quadratic():
    """Both are 2/lr where the step turns the loss over to the same height, for any direction."""
    rng = np.random.default_rng(2)
    root = rng.normal(size=(6, 6))
    matrix, at = root @ root.T, rng.normal(size=6)
    quadratic = lambda x, batch: x @ batch @ x / 2  # noqa: E731
    direction = matrix @ at + 0.3 * rng.normal(size=6)
    exact = direction @ matrix @ direction / (direction @ matrix @ at)
    for rate in (1e-4, 1.0, 30.0):
        update = -rate * direction
        options = {"learning_rate": rate}
        along = edges.directional_sharpness(quadratic, at, matrix, update, **options)
        np.testing.assert_allclose(along, exact, rtol=1e-10)
        found = edges.critical_sharpness(quadratic, at, matrix, update, **options)
        # Interpolation does better than the bracket, whose width is at most 1 % of it.
        np.testing.assert_allclose(found.value, exact, rtol=1e-4)
        assert found.found and found.width <= 0.0101 * found.value
        assert found.num_losses < 30
    update = matrix @ at
    assert np.isnan(edges.directional_sharpness(quadratic, at, matrix, update, learning_rate=1.0))
    uphill = edges.critical_sharpness(quadratic, at, matrix, update, learning_rate=1.0)
    assert np.isnan(uphill.value) and not uphill.found


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 10.0, 300.0])
def test_the_width_of_a_critical_sharpness_covers_rounding(offset):
    """In float32 at the side of an offset beside which the loss falls by little, in float64 not."""
    rng = np.random.default_rng(3)
    root = rng.normal(size=(6, 6))
    matrix, rate = root @ root.T, 0.01
    for at in rng.normal(size=(5, 6)) / 10:
        update = -rate * matrix @ at

        def width_and_error(dtype, at=at, update=update):
            loss = lambda x, batch: dtype(offset) + x @ batch @ x / 2  # noqa: E731
            given = (dtype(at), dtype(matrix), dtype(update))
            found = edges.critical_sharpness(loss, *given, learning_rate=rate, rtol=1e-4)
            exact = (update @ matrix @ update) / (update @ update)
            assert found.found
            return found.width / found.value, abs(found.value - exact) / exact

        width, off = width_and_error(lambda x: jnp.asarray(x, jnp.float32))
        assert off <= width
        fine, _ = width_and_error(lambda x: jnp.asarray(x, jnp.float64))
        assert fine <= 1.01e-4 and (width > 1.1 * fine) == (offset > 0)
