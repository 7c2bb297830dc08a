"""Measures that are taken to a relative standard error: it is reached, and it is the spread."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsharp import measures, networks
from jaxsharp.core import budget
from jaxsharp.measures.contract import Options, Trained
from jaxsharp.measures.neighbourhood.average import perturbed
from jaxsharp.measures.neighbourhood.directions import gaussian, sphere
from jaxsharp.measures.neighbourhood.sampling import sampled_rise

NUM, KEYS = 600, 220


def linear(params, stats, inputs, train):
    return inputs @ params["kernel"], stats


def hidden(params, stats, inputs, train):
    return jnp.tanh(inputs @ params["first"]) @ params["last"], stats


def made(apply, shapes, outputs, loss):
    """A network, its parameters after some steps of Adam, and its data."""
    rng = np.random.default_rng(0)

    def init(key):
        return {name: jnp.asarray(rng.normal(size=s) / 3, jnp.float32) for name, s in shapes}, {}

    network = networks.Network(init, apply, loss=networks.LOSSES[loss])
    x = rng.normal(size=(NUM, 6)).astype(np.float32)
    y = (x @ rng.normal(size=(6, outputs))).astype(np.float32)
    y = y.argmax(1) if loss == "cross_entropy" else y
    params, of = network.init(None)[0], network.frozen_loss({})
    adam = optax.adam(3e-2)

    def step(state, _):
        params, moments = state
        updates, moments = adam.update(jax.grad(of)(params, (x, y)), moments)
        return (optax.apply_updates(params, updates), moments), None

    train = jax.jit(lambda p: jax.lax.scan(step, (p, adam.init(p)), None, length=60)[0][0])
    return network, train(params), (x, y)


@pytest.fixture(scope="module")
def quadratic():
    return made(linear, [("kernel", (6, 2))], 2, "squared_error")


@pytest.fixture(scope="module")
def curved():
    return made(hidden, [("first", (6, 8)), ("last", (8, 3))], 3, "cross_entropy")


def over_keys(task, rtol, draw, radius, antithetic=True, level=False):
    """Sampled rises with many keys, and where they all ended."""
    network, params, batch = task
    static = (network, rtol, antithetic, False, level, budget())

    @jax.jit
    def taken(keys):
        one = lambda key: sampled_rise(*static, params, {}, batch, key, radius, draw=draw)  # noqa: E731
        return jax.lax.map(one, keys)

    found = jax.device_get(taken(jax.random.split(jax.random.key(1), KEYS)))
    assert found.converged.all() and np.all(found.stderr <= 1.001 * rtol * np.abs(found.mean))
    return found


def check_errors(found, truth):
    """The stated error is the spread over keys, and the 95 % interval covers the truth."""
    assert 0.85 < np.sqrt(np.mean(found.stderr**2)) / found.mean.std(ddof=1) < 1.15
    assert 0.90 <= np.mean(np.abs(found.mean - truth) < 1.96 * found.stderr) <= 0.98
    assert abs(found.mean.mean() - truth) < 4 * found.stderr.mean() / np.sqrt(KEYS)


@pytest.mark.slow
@pytest.mark.parametrize("antithetic", [True, False])
def test_a_quadratic_rises_by_half_the_trace(quadratic, antithetic):
    """E L(theta + sigma u) - L(theta) = sigma^2 tr(H) / 2, exactly."""
    network, params, batch = quadratic
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    hessian = jax.hessian(lambda at: network.frozen_loss({})(unravel(at), batch))(flat)
    # Single directions see the gradient, of which little is left.
    found = over_keys(quadratic, 0.05, gaussian, 0.5, antithetic)
    check_errors(found, 0.125 * np.trace(hessian))


@pytest.mark.slow
def test_few_examples_are_all_taken_at_every_direction(curved):
    """Then the mean is that of `perturbed` with the same directions."""
    network, params, (x, y) = curved
    batch, key, radius = (x[:100], y[:100]), jax.random.key(2), 0.7
    static = (network, 0.03, True, False, False, budget())
    found = sampled_rise(*static, params, {}, batch, key, radius, draw=sphere)
    static = (network, 2 * int(found.draws), True, False, None, None, budget())
    rises, _ = perturbed(*static, params, {}, batch, key, radius, draw=sphere)
    np.testing.assert_allclose(found.mean, np.mean(rises), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random_perturbation", "lpf", "hutchinson_trace"])
def test_a_record_says_what_was_taken(curved, name):
    network, params, batch = curved
    arguments = network, params, {}, batch, [name]
    rough, fine = (
        measures.measure(*arguments, key=jax.random.key(0), options=Options(measure_rtol=rtol))
        for rtol in (0.2, 0.05)
    )
    for table, rtol in ((rough, 0.2), (fine, 0.05)):
        found = table[name]
        assert found.finished and not found.exact and found.error <= 1.001 * rtol * found.value
        assert found.directions >= 30 and found.examples <= NUM
    assert fine[name].directions >= rough[name].directions
    spread = np.hypot(rough[name].error, fine[name].error)
    assert abs(rough[name].value - fine[name].value) < 5 * spread


@pytest.mark.slow
def test_an_error_that_is_not_reached_leaves_a_measure_unfinished(curved):
    network, params, batch = curved
    of = measures.MEASURES["gaussian_perturbation"]
    options, at = Options(measure_rtol=1e-5, sigma=0.05), Trained(params, {})
    found = of.arrays(network, at, batch, jax.random.key(0), options, budget())
    record = of.record(network, at, batch, options, found)
    assert not record.finished and 0 < record.error < 0.2 * record.value
    assert 190 <= record.cost <= 210 and record.examples == NUM
