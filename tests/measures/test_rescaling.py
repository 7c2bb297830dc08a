"""The parameters at the minimum, and the published solver beside ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.measures import (
    chain_exponents,
    ibayashi_minimum,
    minimize_over_scales,
    minimum_sharpness,
    rescaled,
)
from jaxsharp.measures.minimum.rescaling import scaled
from tests.references import dense_hessian
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset

NETWORKS = {"mlp": (mlp(features=12), (2, 3, 2)), "cnn": (cnn(), (6, 6, 2))}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_at_the_minimum_logits_are_the_same_and_the_trace_is_the_least(x64, name):
    network, shape = NETWORKS[name]
    batch = tiny_dataset(num=13, shape=shape).train
    params, stats = generic_point(network)
    least, moved_stats, found = rescaled(network, params, stats, batch)
    logits = [network.evaluate(*at, batch.images) for at in ((params, stats), (least, moved_stats))]
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-10)
    traces = [
        np.trace(dense_hessian(network.frozen_loss(s), p, batch))
        for p, s in ((params, stats), (least, moved_stats))
    ]
    np.testing.assert_allclose(traces[1], found.value, rtol=1e-9)
    assert traces[0] > 1.05 * traces[1]
    again = minimum_sharpness(network, least, moved_stats, batch)
    np.testing.assert_allclose(again.value, found.value, rtol=1e-10)
    assert np.abs(again.log_scales).max() < 1e-9 < np.abs(found.log_scales).max()


@pytest.mark.slow
def test_single_precision_stays_single():
    network, batch = cnn(), tiny_dataset(num=13).train
    at = generic_point(network, dtype=jnp.float32)
    least = rescaled(network, *at, batch)
    kinds = [jax.tree.map(lambda a: (a.shape, a.dtype), tree) for tree in (at, least[:2])]
    assert kinds[0] == kinds[1]
    logits = [network.evaluate(*each, batch.images) for each in (at, least[:2])]
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-4, atol=1e-4)


def test_an_infimum_that_no_rescaling_attains_has_no_parameters(x64):
    network, batch = mlp(features=12), tiny_dataset(num=13, shape=(2, 3, 2)).train
    params, stats = generic_point(network)
    # Nothing is passed back through the last kernel, which may then grow for ever.
    dead = {**params["dense3"], "kernel": jnp.zeros_like(params["dense3"]["kernel"])}
    params = {**params, "dense3": dead}
    with pytest.raises(ValueError, match="no rescaling attains the infimum") as refused:
        rescaled(network, params, stats, batch)
    assert "\n" not in str(refused.value)


def test_a_factor_beyond_the_dtype_is_refused():
    weights = {"w": jnp.ones(2, jnp.float32)}
    np.testing.assert_allclose(scaled(weights, np.array([3.0]))["w"], np.exp(3.0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"a factor of exp\(90\) is beyond float32"):
        scaled(weights, np.array([90.0]))


def test_the_published_solver_stops_far_from_the_minimum():
    """20 layers with log-normal traces: twice the minimum at the published rate of 0.001."""
    traces = np.exp(2 * np.random.default_rng(1).normal(size=40))
    exponents = chain_exponents(20)
    least = minimize_over_scales(traces, exponents)
    published = ibayashi_minimum(traces, exponents)
    np.testing.assert_allclose([least.value, published.value], [31.1080, 72.7057], rtol=1e-5)
    assert not published.attained and published.iterations == 10_000
    assert published.value - least.value <= published.error
    faster = ibayashi_minimum(traces, exponents, learning_rate=0.1)
    np.testing.assert_allclose(faster.value, 31.1889, rtol=1e-5)
    diverged = ibayashi_minimum(traces, exponents, learning_rate=1.0)
    assert np.isnan(diverged.value) and not diverged.attained


def test_the_published_solver_takes_the_published_steps():
    """Two steps by hand: traces divided by their sum, step lr / (1 + decay e)."""
    traces, exponents = np.array([3.0, 1.0]), np.array([[1.0], [-1.0]])
    v, share = 0.0, traces / 4
    for e in range(2):
        terms = share * np.exp(-2 * exponents[:, 0] * v)
        v -= 0.1 / (1 + 0.5 * e) * np.sum(-2 * exponents[:, 0] * terms)
    found = ibayashi_minimum(traces, exponents, learning_rate=0.1, decay=0.5, num_steps=2)
    np.testing.assert_allclose(found.log_scales, [v], rtol=1e-14)
    np.testing.assert_allclose(found.value, np.sum(traces * np.exp(-2 * exponents[:, 0] * v)))


def test_on_few_even_traces_the_published_solver_finds_the_minimum():
    traces, exponents = np.array([2.0, 1.0, 1.5]), chain_exponents(3, biases=False)
    found = ibayashi_minimum(traces, exponents, learning_rate=0.5)
    np.testing.assert_allclose(found.value, minimize_over_scales(traces, exponents).value)
    assert found.attained


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be a finite number above 0"),
        ({"num_steps": 0}, "num_steps is 0; it must be at least 1"),
    ],
)
def test_settings_of_the_published_solver_that_do_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ibayashi_minimum(np.ones(2), np.array([[1.0], [-1.0]]), **options)
