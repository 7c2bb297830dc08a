"""Means over chunks weigh examples, not chunks, and pass through every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsharp.core import mean_over_chunks
from tests.references import mean_over_examples

pytestmark = pytest.mark.usefixtures("double_precision")


def make_batch(n):
    rng = np.random.default_rng(n)
    return {"x": jnp.asarray(rng.standard_normal((n, 3))), "y": jnp.arange(n)}


def moments(chunk):
    return {"first": jnp.mean(chunk["x"], axis=0), "second": jnp.mean(chunk["y"] ** 2.0)}


def assert_close(a, b, rtol=1e-13):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 9), data=st.data())
def test_equals_the_mean_over_single_examples(n, data):
    size = data.draw(st.integers(1, n + 1))
    batch = make_batch(n)
    assert_close(mean_over_chunks(moments, batch, size), mean_over_examples(moments, batch))


def test_short_rest_weighs_by_its_examples():
    """1, 1, 1, 8 in chunks of three: a mean of chunk means would be 4.5."""
    mean = mean_over_chunks(jnp.mean, jnp.array([1.0, 1.0, 1.0, 8.0]), 3)
    assert mean == 11 / 4


@pytest.mark.parametrize("size", [None, 7, 8, 100])
def test_one_chunk_is_one_call_with_the_batch_itself(size):
    batch = make_batch(7)
    calls = []
    mean_over_chunks(lambda chunk: calls.append(chunk) or moments(chunk), batch, size)
    assert len(calls) == 1
    assert calls[0] is batch


def test_chunks_are_never_larger_than_asked():
    sizes = set()
    mean_over_chunks(lambda chunk: sizes.add(len(chunk["x"])) or moments(chunk), make_batch(11), 4)
    assert sizes == {4, 3}


def loss(params, batch, size):
    return mean_over_chunks(lambda chunk: jnp.mean(jnp.tanh(chunk["x"] @ params) ** 2), batch, size)


@pytest.mark.slow
def test_jit_grad_jvp_and_vmap_agree_with_one_pass():
    batch, params = make_batch(7), jnp.array([0.3, -1.0, 0.5])
    for derive in (
        lambda size: loss(params, batch, size),
        lambda size: jax.jit(loss, static_argnums=2)(params, batch, size),
        lambda size: jax.grad(loss)(params, batch, size),
        lambda size: jax.jvp(lambda p: loss(p, batch, size), (params,), (params,))[1],
        lambda size: jax.vmap(lambda p: loss(p, batch, size))(jnp.stack([params, 2 * params])),
        lambda size: jax.vmap(lambda b: loss(params, b, size))(
            jax.tree.map(lambda x: jnp.stack([x, x + 1]), batch)
        ),
    ):
        assert_close(derive(3), derive(None))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_keeps_dtype_and_shape(dtype):
    batch = jnp.ones((5, 2), dtype)
    mean = mean_over_chunks(lambda chunk: jnp.mean(chunk, axis=0), batch, 2)
    assert mean.dtype == dtype
    assert mean.shape == (2,)


@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_arrays_of_numpy_are_taken_outside_of_jit_too(size):
    batch = make_batch(6)
    found = mean_over_chunks(moments, jax.tree.map(np.asarray, batch), size)
    assert_close(found, moments(batch))


def test_program_does_not_grow_with_the_number_of_chunks():
    def length(n):
        jaxpr = jax.make_jaxpr(lambda b: mean_over_chunks(moments, b, 2))(make_batch(n))
        return len(jaxpr.eqns)

    assert length(41) == length(5)


@pytest.mark.parametrize(
    ("batch", "size", "message"),
    [
        (np.ones(4), 0, "chunk_size is 0"),
        (np.ones(4), -2, "chunk_size is -2"),
        (np.ones((0, 3)), 2, "empty"),
        (np.ones((0, 3)), None, "empty"),
        ({}, None, "empty"),
        ((np.ones(4), np.ones(5)), 2, r"lengths \[4, 5\]"),
        ((np.ones(4), np.ones(())), 2, "scalar"),
    ],
)
def test_bad_arguments_are_named_before_tracing(batch, size, message):
    def never(chunk):
        raise AssertionError("traced")

    with pytest.raises(ValueError, match=message):
        mean_over_chunks(never, batch, size)


def test_results_that_are_no_means_are_refused():
    with pytest.raises(ValueError, match="int64"):
        mean_over_chunks(jnp.sum, jnp.arange(5), 2)
    with pytest.raises(ValueError, match=r"shape \(2,\) for a full chunk and \(1,\)"):
        mean_over_chunks(lambda chunk: chunk * 1.0, jnp.arange(5), 2)
