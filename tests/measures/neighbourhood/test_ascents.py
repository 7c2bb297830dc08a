"""Ascents in balls: closed forms on quadratics, brute force, plain loops; Auto-PGD's rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.measures.neighbourhood.ascents import (
    BALLS,
    apgd,
    checkpoints,
    one_step,
    pgd,
    restarted,
)
from tests.references import symmetric_matrix

pytestmark = pytest.mark.usefixtures("double_precision")
SIZE = 6
RHO = 0.7


@pytest.fixture(scope="module")
def quadratic(double_precision):
    """<g, z> + z'Hz/2 of a two-part pytree, and g and H."""
    matrix = symmetric_matrix([3.0, 2.0, 1.0, 0.5, -0.5, -1.0])
    linear = np.random.default_rng(1).normal(size=SIZE)

    def value(z):
        flat = jnp.concatenate([z["a"], z["b"].ravel()])
        return linear @ flat + flat @ matrix @ flat / 2

    return jax.value_and_grad(value), linear, matrix


LIKE = {"a": np.zeros(2), "b": np.zeros((2, 2))}


def found(ascent, value_and_grad, norm, steps, starts=1, seed=0, rho=RHO):
    return jax.jit(
        lambda key: restarted(
            *(ascent, value_and_grad, jax.tree.map(jnp.asarray, LIKE), BALLS[norm], rho, key),
            steps=steps,
            starts=starts,
        )
    )(jax.random.key(seed))


def ball_maximum(linear, matrix, rho):
    """The maximum over a ball by its secular equation: (mu - H) z = g, ||z|| = rho."""
    values, vectors = np.linalg.eigh(matrix)
    parts = vectors.T @ linear
    low, high = values[-1], values[-1] + np.linalg.norm(linear) / rho
    for _ in range(200):
        mu = (low + high) / 2
        low, high = (mu, high) if np.linalg.norm(parts / (mu - values)) > rho else (low, mu)
    z = vectors @ (parts / (high - values))
    return linear @ z + z @ matrix @ z / 2


def cube_maximum(linear, matrix, rho):
    """By brute force: every face, and its stationary point."""
    best = -np.inf
    for signs in np.ndindex(*(3,) * len(linear)):
        z = (np.array(signs) - 1.0) * rho
        free = z == 0
        if free.any():
            at = linear[free] + matrix[np.ix_(free, ~free)] @ z[~free]
            z[free] = np.linalg.lstsq(-matrix[np.ix_(free, free)], at, rcond=None)[0]
        if np.abs(z).max() <= rho * (1 + 1e-12):
            best = max(best, linear @ z + z @ matrix @ z / 2)
    return best


MAXIMA = {"l2": ball_maximum, "linf": cube_maximum}


@pytest.mark.slow
@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize(("ascent", "near"), [(pgd, 5e-3), (apgd, 1e-3)])
def test_the_maximum_of_a_quadratic_is_found(quadratic, ascent, near, norm):
    """From several starts, as corners of a cube can be maxima of their own; PGD has fixed steps."""
    value_and_grad, linear, matrix = quadratic
    want = MAXIMA[norm](linear, matrix, RHO)
    peak = found(ascent, value_and_grad, norm, steps=100, starts=16)
    assert peak.start == 0 and want * (1 - near) < peak.value <= want * (1 + 1e-9)
    assert 0 <= peak.gap < 0.05 * want


@pytest.mark.slow
def test_the_gap_bounds_what_a_concave_function_could_still_rise_by(quadratic):
    _, linear, _ = quadratic
    matrix = -symmetric_matrix([3.0, 2.0, 1.0, 0.5, 0.4, 0.1])

    def value(z):
        flat = jnp.concatenate([z["a"], z["b"].ravel()])
        return linear @ flat + flat @ matrix @ flat / 2

    for norm in BALLS:
        peak = found(pgd, jax.value_and_grad(value), norm, steps=2)
        want = MAXIMA[norm](linear, matrix, RHO)
        assert 1e-3 < want - peak.value <= peak.gap


@pytest.mark.parametrize("norm", BALLS)
def test_one_step_is_the_maximum_of_the_linear_function(quadratic, norm):
    """And the whole of the value, curvature included, is taken there."""
    value_and_grad, linear, matrix = quadratic
    peak = found(one_step, value_and_grad, norm, steps=1)
    z = RHO * (linear / np.linalg.norm(linear) if norm == "l2" else np.sign(linear))
    np.testing.assert_allclose(peak.value, linear @ z + z @ matrix @ z / 2, rtol=1e-12)


def plain_apgd(value_and_grad, project, steepest, rho, steps, marks):
    """Croce and Hein's algorithm 1 in NumPy, with a list of all values."""
    size = SIZE
    points, values, rates = [np.zeros(size)], [], [2 * rho]
    value, _ = value_and_grad(points[0])
    values.append(value)
    best, best_value, best_at = points[0], value, [value]
    previous, last_mark = points[0], 0
    for k in range(steps):
        z, eta = points[-1], rates[-1]
        y = project(z + eta * steepest(value_and_grad(z)[1]))
        z_next = y if k == 0 else project(z + 0.75 * (y - z) + 0.25 * (z - previous))
        halve = False
        if k in marks:
            rises = sum(values[i + 1] > values[i] for i in range(last_mark, k))
            same = rates[k] == rates[last_mark] and best_at[k] == best_at[last_mark]
            halve = rises < 0.75 * (k - last_mark) or same
            last_mark = k
        value = value_and_grad(z_next)[0]
        values.append(value)
        if value > best_value:
            best, best_value = z_next, value
        best_at.append(best_value)
        previous = z
        points.append(best if halve else z_next)
        rates.append(eta / 2 if halve else eta)
    return best_value, rates


@pytest.mark.parametrize("steps", [20, 80])
@pytest.mark.parametrize("norm", BALLS)
def test_auto_pgd_is_the_papers_algorithm(quadratic, norm, steps):
    """A function with waves, on which steps are halved and best points gone back to."""
    _, linear, matrix = quadratic

    def value(flat):
        return linear @ flat + flat @ matrix @ flat / 2 + jnp.sum(jnp.cos(3 * flat))

    def of_tree(z):
        return value(jnp.concatenate([z["a"], z["b"].ravel()]))

    flat_value_and_grad = jax.jit(jax.value_and_grad(value))

    def on_host(flat):
        value, grad = flat_value_and_grad(flat)
        return float(value), np.asarray(grad)

    if norm == "l2":
        project = lambda z: z * min(1, RHO / max(np.linalg.norm(z), 1e-300))  # noqa: E731
        steepest = lambda g: g / np.linalg.norm(g)  # noqa: E731
    else:
        project, steepest = (lambda z: np.clip(z, -RHO, RHO)), np.sign
    want, rates = plain_apgd(on_host, project, steepest, RHO, steps, checkpoints(steps))
    assert len(set(rates)) >= 3  # it halves twice at least
    peak = found(apgd, jax.value_and_grad(of_tree), norm, steps)
    np.testing.assert_allclose(peak.value, want, rtol=1e-9)


def test_checkpoints_are_those_of_the_paper():
    """p = 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99, as the appendix of the paper has them."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(20) == [5, 9, 12, 14, 16, 18, 19]
    assert checkpoints(1) == [] and checkpoints(3) == [1, 2]


@pytest.mark.slow
def test_a_zero_gradient_is_left_by_random_starts_and_by_nothing_else(quadratic):
    """The gradient of a norm at zero is no NaN (pitfall 8); the best start wins (pitfall 23)."""
    value_and_grad = jax.value_and_grad(lambda z: jnp.sum(z["a"] ** 2) + jnp.sum(z["b"] ** 2))
    for norm, want in (("l2", RHO**2), ("linf", SIZE * RHO**2)):
        for ascent in (pgd, apgd):
            assert found(ascent, value_and_grad, norm, steps=5).value == 0
            peak = found(ascent, value_and_grad, norm, steps=20, starts=2)
            np.testing.assert_allclose(peak.value, want, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("ascent", [pgd, apgd])
def test_the_clean_point_is_among_those_compared(ascent):
    """Of a function that falls on all sides the maximum is where the search starts (pitfall 23)."""
    value_and_grad = jax.value_and_grad(lambda z: -jnp.sum(jnp.abs(z["a"] + 1e-3)))
    peak = found(ascent, value_and_grad, "l2", steps=3, starts=3, rho=5.0)
    assert peak.value >= peak.start == -2e-3


@pytest.mark.slow
@pytest.mark.parametrize("norm", BALLS)
def test_random_starts_fill_the_ball(norm):
    like = jax.tree.map(jnp.asarray, LIKE)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(lambda key: BALLS[norm].draw(key, like, RHO))(keys)
    flat = np.concatenate([drawn["a"], drawn["b"].reshape(-1, 4)], axis=1)
    order = 2 if norm == "l2" else np.inf
    radii = np.linalg.norm(flat, ord=order, axis=1) / RHO
    # The share of a ball within a radius is its SIZE-th power: uniform numbers.
    shares = np.sort(radii**SIZE)
    assert np.abs(shares - (np.arange(4000) + 0.5) / 4000).max() < 1.63 / np.sqrt(4000)
    assert np.abs(flat.mean(0)).max() < 0.05
