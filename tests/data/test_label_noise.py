"""Redrawn labels: how many, which and from what, and that a key decides them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.data import redraw_labels
from tests.datafiles import error_of

N = 20_000  # one shape for all tests: one compilation
UNDRAWN = -1  # a label that no draw gives, so that every redrawn position shows


@pytest.mark.slow
def test_exactly_the_fraction_is_redrawn():
    labels, key = jnp.full(N, UNDRAWN), jax.random.key(0)
    compiled = jax.jit(redraw_labels, static_argnums=3)
    for fraction in (0.0, 0.1, 1 / 3, 0.5, 0.99996, 1.0):
        redrawn = redraw_labels(key, labels, fraction, 10)
        assert (redrawn != UNDRAWN).sum() == round(fraction * N)
        np.testing.assert_array_equal(compiled(key, labels, fraction, 10), redrawn)


def test_nothing_redrawn_is_the_identity():
    labels = np.arange(N, dtype=np.int32) % 10
    same = redraw_labels(jax.random.key(1), labels, 0.0, 10)
    np.testing.assert_array_equal(same, labels)
    assert same.dtype == labels.dtype


def test_draws_are_uniform_over_classes_and_positions():
    labels = jnp.full(N, UNDRAWN)
    redrawn = redraw_labels(jax.random.key(2), labels, 0.5, 10)
    by_class = np.bincount(redrawn[redrawn != UNDRAWN], minlength=10)
    by_block = (redrawn != UNDRAWN).reshape(10, -1).sum(axis=1)
    # 27.9 is exceeded with probability 0.001 (chi-square, 9 degrees of freedom).
    assert len(by_class) == 10
    assert ((by_class - 1000) ** 2 / 1000).sum() < 27.9
    assert ((by_block - 1000) ** 2 / 1000).sum() < 27.9
    # Redrawn over all classes, the old label included: a tenth keep it.
    kept = (redraw_labels(jax.random.key(2), jnp.zeros(N, int), 1.0, 10) == 0).sum()
    assert abs(kept - N / 10) < 5 * (N * 0.1 * 0.9) ** 0.5


def test_same_key_same_labels_and_more_are_nested_in_fraction():
    labels = jnp.full(N, UNDRAWN)
    few = redraw_labels(jax.random.key(3), labels, 0.2, 10)
    np.testing.assert_array_equal(few, redraw_labels(jax.random.key(3), labels, 0.2, 10))
    assert (few != redraw_labels(jax.random.key(4), labels, 0.2, 10)).any()
    more = redraw_labels(jax.random.key(3), labels, 0.6, 10)
    np.testing.assert_array_equal(more[few != UNDRAWN], few[few != UNDRAWN])


@pytest.mark.slow
def test_redrawing_vmapped_over_keys_and_fractions_equals_one_at_a_time():
    labels = jnp.arange(N) % 10
    keys, fractions = jax.random.split(jax.random.key(5), 3), jnp.array([0.0, 0.25, 1.0])
    together = jax.vmap(lambda key, f: redraw_labels(key, labels, f, 10))(keys, fractions)
    for key, fraction, redrawn in zip(keys, fractions, together, strict=True):
        np.testing.assert_array_equal(redrawn, redraw_labels(key, labels, fraction, 10))


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan"), np.float32(2.0)])
def test_impossible_fractions(fraction):
    message = error_of(redraw_labels, jax.random.key(0), jnp.zeros(3, int), fraction, 10)
    assert message == f"fraction is {fraction}; it must be from 0 to 1"
