"""The scale problem against closed forms and brute force, and the measure built on it."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

from jaxsharp import networks
from jaxsharp.measures import chain_exponents, minimize_over_scales, minimum_sharpness
from jaxsharp.measures.minimum import sharpness
from jaxsharp.measures.minimum.scales import duality_gap
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset


def test_without_biases_the_minimum_is_the_geometric_mean():
    traces = np.exp(np.random.default_rng(0).normal(size=20))
    result = minimize_over_scales(traces, chain_exponents(20, biases=False))
    assert result.attained
    np.testing.assert_allclose(result.value, 20 * np.prod(traces) ** (1 / 20), rtol=1e-14)


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0, 10.0])
def test_solution_is_certified_for_any_spread_of_the_traces(spread):
    """Solved to a duality gap (pitfall 24)."""
    rng = np.random.default_rng(1)
    traces, exponents = np.exp(spread * rng.normal(size=40)), chain_exponents(20)
    result = minimize_over_scales(traces, exponents)
    assert result.attained
    assert result.gradient_norm < 1e-12
    assert result.error <= 1e-12 * result.value
    assert result.iterations < 40
    at = traces * np.exp(-2 * exponents @ result.log_scales)
    np.testing.assert_allclose(at.sum(), result.value, rtol=1e-12)
    for _ in range(20):  # no other point is lower
        v = result.log_scales + rng.normal(size=19) * 10 ** rng.uniform(-3, 0)
        assert (traces * np.exp(-2 * exponents @ v)).sum() > result.value


def test_the_value_does_not_depend_on_where_the_scales_start():
    rng = np.random.default_rng(2)
    traces, exponents = np.exp(rng.normal(size=12)), chain_exponents(6)
    moved = traces * np.exp(-2 * exponents @ rng.normal(size=5))
    want = minimize_over_scales(traces, exponents).value
    np.testing.assert_allclose(minimize_over_scales(moved, exponents).value, want, rtol=1e-13)
    doubled = minimize_over_scales(
        traces, np.hstack([exponents, exponents @ rng.normal(size=(5, 3))])
    )
    np.testing.assert_allclose(doubled.value, want, rtol=1e-13)


def test_the_duality_gap_bounds_the_distance_from_the_minimum():
    rng = np.random.default_rng(3)
    traces, exponents = np.exp(rng.normal(size=12)), chain_exponents(6)
    best = minimize_over_scales(traces, exponents)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        v = best.log_scales + size * rng.normal(size=5)
        value = (traces * np.exp(-2 * exponents @ v)).sum()
        gap = duality_gap(np.log(traces), exponents, v)
        assert value - best.value <= gap * (1 + 1e-12)
        assert gap < 100 * (value - best.value) or size == 1.0


NOT_ATTAINED = {
    # A dead weight 2: u_1 -> inf at u_1 + u_2 fixed removes layer 1; left are b2 + w3 + b3.
    "dead layer": ([1, 1, 0, 1, 1, 1], chain_exponents(3), 2.0 + 1.0),
    "dead last weight": ([1, 1, 1, 1, 0, 3], chain_exponents(3), 3.0),
    "one weight left": ([1, 0, 0], chain_exponents(3, biases=False), 0.0),
}


@pytest.mark.parametrize("name", NOT_ATTAINED)
def test_an_infimum_that_is_not_attained_is_returned_and_marked(name):
    traces, exponents, infimum = NOT_ATTAINED[name]
    result = minimize_over_scales(np.array(traces, float), exponents)
    assert not result.attained
    np.testing.assert_allclose(result.value, infimum, rtol=1e-12)


def test_a_dead_layer_whose_bias_lives_is_attained():
    result = minimize_over_scales(np.array([0.0, 1, 1, 1, 1, 1]), chain_exponents(3))
    assert result.attained

    def objective(u):
        return np.sum([0, 1, 1, 1, 1, 1] * np.exp(-2 * chain_exponents(3) @ u))

    brute = scipy.optimize.minimize(objective, np.zeros(2), method="Nelder-Mead", tol=1e-12)
    np.testing.assert_allclose(result.value, brute.fun, rtol=1e-10)


def test_trivial_problems():
    assert minimize_over_scales(np.array([2.0, 1.0]), chain_exponents(1)).value == pytest.approx(3)
    nothing = minimize_over_scales(np.zeros(6), chain_exponents(3))
    assert (nothing.value, nothing.attained) == (0.0, True)


@pytest.mark.parametrize(
    ("traces", "exponents", "message"),
    [
        ([1.0, -1.0, 1.0], np.ones((3, 1)), r"traces\[1\] is -1.0"),
        ([1.0, np.nan, 1.0], np.ones((3, 1)), r"traces\[1\] is nan"),
        ([1.0, 1.0], np.ones((3, 1)), r"\(2,\) and exponents \(3, 1\)"),
        ([1.0], np.array([[np.inf]]), "exponents hold"),
    ],
)
def test_bad_input_is_named(traces, exponents, message):
    with pytest.raises(ValueError, match=message):
        minimize_over_scales(np.array(traces), exponents)
    with pytest.raises(ValueError, match="num_layers is 0"):
        chain_exponents(0)


def rescaled(params, log_scales):
    """Scale layer l of an MLP by exp(log_scales[l]), the last by the inverse of all others."""
    scales = np.exp([*log_scales, -np.sum(log_scales)])
    products = np.cumprod(scales)
    return {
        f"dense{i + 1}": {
            "kernel": params[f"dense{i + 1}"]["kernel"] * scales[i],
            "bias": params[f"dense{i + 1}"]["bias"] * products[i],
        }
        for i in range(len(scales))
    }


@pytest.mark.slow
def test_minimum_sharpness_is_the_least_trace_of_the_dense_hessian(x64):
    batch = tiny_dataset(num=15, shape=(2, 3, 2)).train
    network = mlp(widths=(4, 4), features=12)
    params, stats = generic_point(network)
    _flat, unflatten = ravel_pytree(params)
    loss = network.frozen_loss(stats)
    hessian = jax.jit(jax.hessian(lambda flat: loss(unflatten(flat), batch)))

    def trace(log_scales):
        return float(jnp.trace(hessian(ravel_pytree(rescaled(params, log_scales))[0])))

    options = {"xatol": 1e-10, "fatol": 1e-13, "maxfev": 2000}
    brute = scipy.optimize.minimize(trace, np.zeros(2), method="Nelder-Mead", options=options)
    result = minimum_sharpness(network, params, stats, batch)
    np.testing.assert_allclose(result.value, brute.fun, rtol=1e-8)
    assert brute.fun < 0.99 * trace([0.0, 0.0])
    assert result.attained
    assert result.error < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("log_scales", [(0.7, -1.3), (3.0, 2.0)])
def test_minimum_sharpness_is_unchanged_by_rescaling_and_the_trace_is_not(x64, log_scales):
    """What a measure claims to ignore, and what it does not (pitfall 20)."""
    network, batch = mlp(), tiny_dataset().train
    params, stats = generic_point(network)
    moved = rescaled(params, log_scales)
    before = minimum_sharpness(network, params, stats, batch)
    after = minimum_sharpness(network, moved, stats, batch)
    np.testing.assert_allclose(after.value, before.value, rtol=1e-10)
    assert np.abs(after.log_scales - before.log_scales).max() > 0.1


@pytest.mark.slow
def test_minimum_sharpness_does_not_depend_on_labels_or_chunks(x64):
    network, batch = cnn(), tiny_dataset(num=13).train
    params, stats = generic_point(network)
    want = minimum_sharpness(network, params, stats, batch).value
    for chunk_size in (1, 5, 13):
        chunked = minimum_sharpness(network, params, stats, batch, chunk_size=chunk_size)
        np.testing.assert_allclose(chunked.value, want, rtol=1e-12)
    relabeled = batch._replace(labels=(batch.labels + 1) % 3)
    assert minimum_sharpness(network, params, stats, relabeled).value == want


NEAR = {  # exponents as a function of how far they are from degenerate, and the infimum at 0
    "line": (lambda eps: [[1.0], [-eps]], 1.0),
    "plane": (lambda eps: [[1.0, 0.0], [-1.0, eps], [0.0, -1.0]], 2.0),
    "scaled": (lambda eps: [[300.0, 0.0], [-300.0, 300.0 * eps], [0.0, -300.0]], 2.0),
    "rank": (lambda eps: [[1.0, 0.0], [-1.0, 0.0], [1.0, eps], [-1.0, -eps]], 4.0),
}


@pytest.mark.parametrize("name", NEAR)
@pytest.mark.parametrize("eps", [0.1, 1e-3, 1e-5])
def test_exponents_clear_of_degeneracy_are_attained(name, eps):
    exponents, limit = NEAR[name]
    found = minimize_over_scales(np.ones(len(exponents(eps))), exponents(eps))
    assert found.attained and found.gradient_norm < 1e-12
    assert limit * (1 - 1e-12) <= found.value < limit * (1 + 20 * eps)
    assert found.error < 1e-12 * found.value


@pytest.mark.parametrize("name", NEAR)
@pytest.mark.parametrize("eps", [1e-7, 1e-8, 1e-9, -1e-8])
def test_nearly_degenerate_exponents_are_refused(name, eps):
    exponents, _ = NEAR[name]
    if name == "line" and eps < 0:
        exponents = NEAR["plane"][0]
    with pytest.raises(ValueError, match="exponents are nearly degenerate"):
        minimize_over_scales(np.ones(len(exponents(eps))), exponents(eps))


@pytest.mark.parametrize("name", NEAR)
@pytest.mark.parametrize("eps", [0.0, 1e-13, -1e-13])
def test_exponents_degenerate_to_rounding_are_so(name, eps):
    exponents, limit = NEAR[name]
    found = minimize_over_scales(np.ones(len(exponents(eps))), exponents(eps))
    assert found.attained == (name == "rank")
    np.testing.assert_allclose(found.value, limit, rtol=1e-9)


@pytest.mark.slow
def test_the_program_is_read_once_for_all_models_of_a_network(monkeypatch):
    """The same rescalings, and the same warning of constants, for each of them."""
    network, count = mlp(), []
    plain = sharpness.read_linear
    monkeypatch.setattr(sharpness, "read_linear", lambda *a: count.append(1) or plain(*a))
    held = jnp.ones(5)

    def apply(params, stats, x, train):
        return jax.nn.relu(x.reshape(len(x), -1) @ params["a"] + held) @ params["b"], stats

    def init(key):
        a, b = jax.random.split(key)
        return {"a": jax.random.normal(a, (72, 5)), "b": jax.random.normal(b, (5, 3))}, {}

    closed = networks.Network(init, apply)
    images = np.zeros((3, 6, 6, 2), np.float32)
    for made, warned in ((network, 0), (closed, 1)):
        count.clear()
        for seed in range(2):
            params, stats = made.init(jax.random.key(seed))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = sharpness.structure_of(made, params, stats, images).exponents
            assert len(caught) == warned and len(found) == len(jax.tree.leaves(params))
        assert len(count) == 1
    of_pixels = (*network.init(jax.random.key(0)), images.astype(np.uint8))  # another program
    sharpness.structure_of(network, *of_pixels)
    assert len(count) == 2
