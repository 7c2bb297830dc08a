"""Minimum sharpness over single hidden units: dense Hessians, brute force, the case of layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsharp import networks
from jaxsharp.core import budget
from jaxsharp.measures import minimum_sharpness, minimum_sharpness_units, rescaled, rescaled_units
from jaxsharp.measures.minimum.units import diagonal, units_of
from tests.references import dense_hessian
from tests.tinynets import block, cnn, generic_point, mlp, tiny_dataset

pytestmark = pytest.mark.usefixtures("double_precision")


def residual():
    """A dense layer, a block of two with a shortcut and a gain for each unit, a dense layer."""

    def init(key):
        keys = jax.random.split(key, 4)
        shapes = {"first": (12, 4), "down": (4, 2), "up": (2, 4), "last": (4, 3)}
        params = {
            name: {"kernel": jax.random.normal(k, shape), "bias": jnp.ones(shape[1])}
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        return {**params, "gain": jnp.ones(4)}, {}

    def apply(params, stats, inputs, train):
        def dense(name, x):
            return x @ params[name]["kernel"] + params[name]["bias"]

        x = jax.nn.relu(dense("first", inputs.reshape(len(inputs), -1) / 255.0))
        x = x + params["gain"] * dense("up", jax.nn.relu(dense("down", x)))
        return dense("last", jnp.maximum(x, 0.2 * x)), stats

    return networks.Network(init, apply, None)


NETWORKS = {
    "mlp": (mlp(features=12), (2, 3, 2)),
    "cnn": (cnn(), (6, 6, 2)),
    "native": (cnn("conv"), (6, 6, 2)),
    "residual": (residual(), (2, 3, 2)),
}


def setting(name):
    network, shape = NETWORKS[name]
    return network, *generic_point(network), tiny_dataset(num=13, shape=shape).train


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_at_the_minimum_logits_are_the_same_and_the_trace_is_the_least(name):
    network, params, stats, batch = setting(name)
    least, moved_stats, found = rescaled_units(network, params, stats, batch)
    logits = [network.evaluate(*at, batch.images) for at in ((params, stats), (least, moved_stats))]
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-10)
    traces = [
        np.trace(dense_hessian(network.frozen_loss(s), p, batch))
        for p, s in ((params, stats), (least, moved_stats))
    ]
    np.testing.assert_allclose(traces[1], found.value, rtol=1e-9)
    again = minimum_sharpness_units(network, least, moved_stats, batch)
    np.testing.assert_allclose(again.value, found.value, rtol=1e-11)
    assert np.abs(again.log_scales).max() < 1e-5 < 0.1 < np.abs(found.log_scales).max()
    layers = rescaled(network, params, stats, batch).minimum
    assert found.value < 0.99 * layers.value < 0.99 * traces[0]
    assert found.attained and found.error < 1e-12 * found.value


@pytest.mark.slow
def test_the_minimum_is_the_least_trace_of_the_dense_hessian():
    """Of an MLP with 3 hidden units, rescaled by hand and searched without derivatives."""
    network, batch = mlp(widths=(2, 1), features=12), tiny_dataset(num=13, shape=(2, 3, 2)).train
    params, stats = generic_point(network)
    loss = network.frozen_loss(stats)
    hessian = jax.jit(lambda p: jnp.trace(dense_hessian(loss, p, batch)))

    def trace(x):
        scales = [np.ones(12), np.exp(x[:2]), np.exp(x[2:]), np.ones(3)]
        moved = {
            f"dense{i}": {
                "kernel": params[f"dense{i}"]["kernel"] * scales[i] / scales[i - 1][:, None],
                "bias": params[f"dense{i}"]["bias"] * scales[i],
            }
            for i in (1, 2, 3)
        }
        return float(hessian(moved))

    options = {"xatol": 1e-8, "fatol": 1e-12, "maxfev": 2000}
    brute = scipy.optimize.minimize(trace, np.zeros(3), method="Nelder-Mead", options=options)
    found = minimum_sharpness_units(network, params, stats, batch)
    np.testing.assert_allclose(found.value, brute.fun, rtol=1e-8)
    assert brute.fun < 0.99 * trace(np.zeros(3))


@pytest.mark.slow
def test_units_of_width_one_are_layers():
    network, batch = mlp(widths=(1, 1), features=12), tiny_dataset(num=13, shape=(2, 3, 2)).train
    at = generic_point(network)
    found, want = (of(network, *at, batch) for of in (minimum_sharpness_units, minimum_sharpness))
    np.testing.assert_allclose(found.value, want.value, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_rescaling_of_units_changes_the_trace_and_not_the_minimum(name):
    """By random scales of the units that were read, which leave the logits as they are."""
    network, params, stats, batch = setting(name)
    units = units_of(network, params, stats, batch.images)
    x = np.concatenate([[0.0], np.random.default_rng(1).normal(size=units.num)])
    scale = lambda a, head, tail: a * np.exp(x[head] - x[tail])  # noqa: E731
    moved = jax.tree.map(scale, params, units.heads, units.tails)
    moved_stats = jax.tree.map(lambda a, unit: a * np.exp(x[unit]), stats, units.statistics)
    found, again = (
        minimum_sharpness_units(network, *at, batch)
        for at in ((params, stats), (moved, moved_stats))
    )
    np.testing.assert_allclose(again.value, found.value, rtol=1e-10)
    static = (network, None, budget())
    traces = [
        sum(leaf.sum() for leaf in jax.tree.leaves(diagonal(*static, *at, batch.images)))
        for at in ((params, stats), (moved, moved_stats))
    ]
    assert abs(traces[1] / traces[0] - 1) > 0.05


@pytest.mark.slow
def test_the_loss_and_the_chunks_are_those_asked_for():
    network, params, stats, batch = setting("mlp")
    want = minimum_sharpness_units(network, params, stats, batch)
    chunked = minimum_sharpness_units(network, params, stats, batch, chunk_size=5)
    np.testing.assert_allclose(chunked.value, want.value, rtol=1e-12)
    targets = jax.nn.one_hot(batch.labels, 3)
    squared = minimum_sharpness_units(
        network, params, stats, (batch.images, targets), loss="squared_error"
    )
    assert squared.value > 1.5 * want.value


@pytest.mark.slow
def test_a_unit_without_weights_that_lead_on_leaves_an_infimum():
    network, params, stats, batch = setting("mlp")
    kernel = params["dense3"]["kernel"].at[0].set(0.0)
    cut = {**params, "dense3": {**params["dense3"], "kernel": kernel}}
    found = minimum_sharpness_units(network, cut, stats, batch)
    assert not found.attained and 0 < found.value
    # The weights of that unit may vanish, so that it may as well be left out.
    kernels = params["dense2"]["kernel"][:, 1:], params["dense3"]["kernel"][1:]
    smaller = mlp(widths=(5, 3), features=12)
    less = {
        "dense1": params["dense1"],
        "dense2": {"kernel": kernels[0], "bias": params["dense2"]["bias"][1:]},
        "dense3": {**params["dense3"], "kernel": kernels[1]},
    }
    want = minimum_sharpness_units(smaller, less, stats, batch)
    np.testing.assert_allclose(found.value, want.value, rtol=1e-10)
    with pytest.raises(ValueError, match="no rescaling attains the infimum") as refused:
        rescaled_units(network, cut, stats, batch)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_unit_that_is_never_active_is_left_as_it_is():
    network, params, stats, batch = setting("mlp")
    bias = params["dense1"]["bias"].at[0].set(-1e4)
    dead = {**params, "dense1": {**params["dense1"], "bias": bias}}
    assert (network.evaluate(dead, stats, batch.images) != 0).any()
    found = minimum_sharpness_units(network, dead, stats, batch)
    assert found.attained and np.sum(found.log_scales == 0) == 1


@pytest.mark.slow
def test_single_precision_stays_single_and_agrees():
    network, batch = block(), tiny_dataset(num=13).train
    double = generic_point(network)
    single = jax.tree.map(lambda a: a.astype(jnp.float32), double)
    want = minimum_sharpness_units(network, *double, batch)
    least, moved_stats, found = rescaled_units(network, *single, batch)
    np.testing.assert_allclose(found.value, want.value, rtol=1e-5)
    assert {a.dtype for a in jax.tree.leaves((least, moved_stats))} == {jnp.dtype("float32")}
