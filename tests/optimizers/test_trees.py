"""Vector operations over a pytree: exact norms at every magnitude, directions on the sphere."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsharp.core.trees import random_direction, scaled_to_norm, widen


def tree(dtype=float, scale=1.0):
    leaves = {"a": [[1.0, -2.0], [0.5, 3.0]], "b": [0.25], "c": 4.0}
    return {name: jnp.asarray(np.asarray(leaf) * scale, dtype) for name, leaf in leaves.items()}


def norm64(vector):
    return np.sqrt(sum(np.sum(np.asarray(x, np.float64) ** 2) for x in jax.tree.leaves(vector)))


def test_widen_touches_low_precision_alone():
    with jax.enable_x64(True):
        dtypes = (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64)
        wide = widen([jnp.array(0.1, dtype) for dtype in dtypes])
        assert [x.dtype for x in wide] == [jnp.float32, jnp.float32, jnp.float32, jnp.float64]
        assert [float(x) for x in wide] == [float(jnp.array(0.1, dtype)) for dtype in dtypes]


# 1e-37 and 8e37: the ends of what float32 holds with all its digits.
@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e-20, 1.0, 1e20, 1e30, 8e37])
@pytest.mark.parametrize("compiled", [False, True])
def test_direction_and_norm_at_every_magnitude_of_float32(scale, compiled):
    vector = tree(scale=scale)
    scale_to = jax.jit(scaled_to_norm) if compiled else scaled_to_norm
    expected = jax.tree.map(lambda x: 2.5 * np.asarray(x, np.float64) / norm64(vector), vector)
    jax.tree.map(
        lambda f, e: np.testing.assert_allclose(f, e, rtol=1e-6), scale_to(vector, 2.5), expected
    )


@pytest.mark.parametrize("entry", [0.0, jnp.inf, -jnp.inf, jnp.nan])
def test_no_direction_gives_zeros_without_harm_to_other_members(entry):
    vector = jax.tree.map(lambda x: 0 * x, tree())
    vector["c"] = jnp.asarray(entry)
    members = jax.tree.map(lambda x, y: jnp.stack([x, y]), vector, tree())
    found = jax.jit(jax.vmap(scaled_to_norm, (0, None)))(members, 1.0)
    alone = scaled_to_norm(tree(), 1.0)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], 0.0), found)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[1], y, rtol=1e-6), found, alone)


@pytest.mark.slow
def test_derivative_is_the_projection_off_the_direction():
    with jax.enable_x64(True):
        g = jnp.array([3.0, -4.0, 12.0])
        unit = g / 13
        expected = 0.7 * (jnp.eye(3) - jnp.outer(unit, unit)) / 13
        for jacobian in (jax.jacfwd, jax.jacrev):
            found = jacobian(lambda g: scaled_to_norm(g, 0.7))(g)
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)
            by_norm = jacobian(lambda norm: scaled_to_norm(g, norm))(0.7)
            np.testing.assert_allclose(by_norm, unit, rtol=1e-13)


@pytest.mark.parametrize("jacobian", [jax.jacfwd, jax.jacrev])
def test_derivative_at_zero_is_zero(jacobian):
    """The derivative of a norm at zero is NaN if nothing guards it (pitfall 8)."""
    found = jax.jit(jacobian(lambda g: scaled_to_norm(g, 0.7)))(jnp.zeros(3))
    np.testing.assert_array_equal(found, np.zeros((3, 3)))


@pytest.mark.slow
def test_dtypes_are_kept_and_low_precision_is_rounded_once():
    with jax.enable_x64(True):
        mixed = {"a": jnp.full(700, 0.3, jnp.bfloat16), "b": jnp.full(300, 0.3, jnp.float64)}
        found = scaled_to_norm(mixed, jnp.float32(2.0))
        assert (found["a"].dtype, found["b"].dtype) == (jnp.bfloat16, jnp.float64)
        # A sum of squares in bfloat16 would stall after 256 equal terms.
        length = norm64(mixed)
        exact = jnp.asarray(2 * np.asarray(mixed["a"], np.float64) / length, jnp.bfloat16)
        np.testing.assert_array_equal(found["a"], exact)
        np.testing.assert_allclose(found["b"], 2 * 0.3 / length, rtol=1e-14)


def test_low_precision_is_computed_in_float32():
    vector = {"a": jnp.linspace(-1.0, 0.9, 301, dtype=jnp.bfloat16)}
    exact = 3 * np.asarray(vector["a"], np.float64) / norm64(vector)
    found = np.asarray(scaled_to_norm(vector, 3.0)["a"], np.float64)
    # Rounded once: half a unit in the last place, and float32's own errors.
    np.testing.assert_allclose(found, exact, rtol=0.501 * float(jnp.finfo(jnp.bfloat16).eps))


def test_trees_without_entries():
    key = jax.random.key(0)
    for vector in ({}, None, {"a": jnp.zeros((0, 3)), "b": None}):
        for found in (scaled_to_norm(vector, 1.0), random_direction(key, vector)):
            assert jax.tree.structure(found) == jax.tree.structure(vector)
            jax.tree.map(np.testing.assert_array_equal, found, vector)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_random_direction_has_norm_one_over_the_whole_tree(dtype):
    with jax.enable_x64(True):
        direction = random_direction(jax.random.key(1), tree(dtype))
        assert {leaf.dtype for leaf in direction.values()} == {jnp.dtype(dtype)}
        assert jax.tree.map(jnp.shape, direction) == jax.tree.map(jnp.shape, tree())
        assert abs(norm64(direction) - 1) <= 2 * jnp.finfo(dtype).eps


@pytest.mark.slow
def test_random_direction_has_the_moments_of_the_uniform_sphere():
    keys = jax.random.split(jax.random.key(2), 20_000)
    draws = jax.vmap(random_direction, (0, None))(keys, tree())
    u = np.concatenate([np.reshape(leaf, (len(keys), -1)) for leaf in draws.values()], axis=1)
    size = u.shape[1]
    moments = {
        "mean": (u, 0.0),
        "square": (u**2, 1 / size),
        "fourth": (u**4, 3 / (size * (size + 2))),
        "neighbours": (u * np.roll(u, 1, axis=1), 0.0),
    }
    for samples, truth in moments.values():
        stderr = samples.std(axis=0) / np.sqrt(len(keys))
        assert np.all(stderr < 0.004)
        assert np.all(np.abs(samples.mean(axis=0) - truth) < 5 * stderr)


def test_leaves_of_one_shape_draw_apart_and_keys_decide():
    like = {"a": jnp.zeros(3), "b": jnp.zeros(3)}
    one = random_direction(jax.random.key(0), like)
    again = random_direction(jax.random.key(0), like)
    other = random_direction(jax.random.key(1), like)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert np.all(one["a"] != one["b"])
    assert np.all(one["a"] != other["a"])
    assert optax.tree.norm(optax.tree.sub(one, other)) > 0.1
