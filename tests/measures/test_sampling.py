"""Minimum sharpness from samples: its standard error against the spread, and when it is exact."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsharp import measures, networks
from jaxsharp.core import budget
from jaxsharp.curvature import exact_traces, likelihoods
from jaxsharp.curvature.exact import sampled_traces
from jaxsharp.measures.minimum import sampling
from jaxsharp.measures.minimum.sampling import from_sample, sample
from jaxsharp.networks import layers, models

NUM, CLASSES, KEYS = 2048, 5, 220


def build(rngs):
    steps = [layers.dense(8, 12, rngs), jax.nn.relu, layers.dense(12, 8, rngs), jax.nn.relu]
    return models.Chain(*steps, layers.dense(8, CLASSES, rngs))


@pytest.fixture(scope="module")
def trained():
    """A network, its parameters after 200 steps of Adam, its data, and the exact measure."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM, 8)).astype(np.float32)
    seen = x @ rng.normal(size=(8, CLASSES))
    y = (seen + 0.8 * rng.normal(size=seen.shape) + np.sin(2 * seen)).argmax(1)
    network = networks.from_nnx(build)
    params, _ = network.init(jax.random.key(0))
    loss, adam = network.frozen_loss({}), optax.adam(1e-2)

    def step(state, _):
        params, moments = state
        updates, moments = adam.update(jax.grad(loss)(params, (x, y)), moments)
        return (optax.apply_updates(params, updates), moments), None

    train = jax.jit(lambda p: jax.lax.scan(step, (p, adam.init(p)), None, length=200)[0][0])
    params = train(params)
    assert loss(params, (x, y)) < 0.7
    return network, params, (x, y), measures.minimum_sharpness(network, params, {}, (x, y))


# Scale of the outputs, rtol, and the examples that most keys take: a sure network has most of its
# sum in a few. With squared errors all examples have one size.
CASES = {
    "cross_entropy": (1.0, 0.02, 768),
    "cross_entropy, sure": (12.0, 0.02, 256),
    "squared_error": (1.0, 0.03, 512),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_standard_error_is_the_spread_over_keys(trained, case, monkeypatch):
    network, params, (x, y), _ = trained
    scale, rtol, most = CASES[case]
    params = {**params, "dense3": jax.tree.map(lambda a: scale * a, params["dense3"])}
    if case == "squared_error":
        network, y = network._replace(loss=networks.LOSSES[case]), np.eye(CLASSES)[y]
    exact = measures.minimum_sharpness(network, params, {}, (x, y))

    @jax.jit
    def over_keys(keys):
        one = lambda key: sample(network, rtol, budget(), params, {}, x, key)  # noqa: E731
        return jax.lax.map(one, keys)

    known = sampling.structure_of(network, params, {}, x)  # once, not for each key
    monkeypatch.setattr(sampling, "structure_of", lambda *_: known)
    found = jax.device_get(over_keys(jax.random.split(jax.random.key(1), KEYS)))
    each = [
        from_sample(network, params, {}, x, jax.tree.map(lambda a, i=i: a[i], found))
        for i in range(KEYS)
    ]
    values, errors, examples = (
        np.array([getattr(one, name) for one in each]) for name in ("value", "error", "examples")
    )
    assert not any(one.exact for one in each) and np.median(examples) == most
    assert np.all(errors <= 1.001 * rtol * values)
    assert 0.85 < np.sqrt(np.mean(errors**2)) / values.std() < 1.15
    covered = np.mean(np.abs(values - exact.value) < 1.96 * errors)
    assert 0.90 <= covered <= 0.98
    assert abs(values.mean() / exact.value - 1) < 0.02


@pytest.mark.slow
def test_what_all_examples_do_not_reach_is_taken_exactly(trained):
    network, params, batch, exact = trained
    arguments = network, params, {}, batch, jax.random.key(0)
    found = measures.sampled_minimum_sharpness(*arguments, rtol=1e-3)
    assert found.exact and found.examples == NUM
    np.testing.assert_allclose(found.value, exact.value, rtol=1e-5)
    assert found.error < 1e-9 * found.value


@pytest.mark.slow
def test_a_record_says_what_was_taken(trained):
    network, params, batch, exact = trained
    costs = []
    for rtol in (0.2, 1e-3, None):
        options = measures.Options(measure_rtol=rtol)
        record = measures.measure(
            *(network, params, {}, batch, ["minimum_sharpness"]),
            **{"key": jax.random.key(2), "options": options},
        )["minimum_sharpness"]
        assert record.finished and abs(record.value - exact.value) < 5 * record.error
        assert (record.exact, record.examples) == ((False, 256) if rtol == 0.2 else (True, NUM))
        assert record.error < 1e-3 * record.value or rtol == 0.2
        costs.append(record.cost)
    whole = NUM * (1 + CLASSES)
    first = NUM + 2 * 128  # all sizes, and the second signs
    assert costs == [first + 2 * 256, first + 2 * 256 + whole, whole]
    setting = measures.MEASURES["minimum_sharpness"].settings(measures.Options(measure_rtol=0.2))
    assert setting == "measure_rtol=0.2"


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [0.0, 1.0, -0.1, float("nan")])
def test_an_error_that_means_nothing_is_refused(trained, rtol):
    network, params, batch, _ = trained
    with pytest.raises(ValueError, match=r"rtol is .*; it must be above 0 and below 1"):
        measures.sampled_minimum_sharpness(network, params, {}, batch, jax.random.key(0), rtol=rtol)
    with pytest.raises(ValueError, match=r"measure_rtol is .*; it must be above 0 and below 1"):
        measures.Options(measure_rtol=rtol).check()


PAIRS = {
    "softmax": (likelihoods.softmax_factors, likelihoods.combined_softmax),
    "sigmoid": (likelihoods.sigmoid_factors, likelihoods.combined_sigmoid),
    "squared": (likelihoods.squared_factors, likelihoods.combined_squared),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_the_mean_over_all_signs_is_the_hessian_of_the_outputs(x64, name, size):
    factors, combined = PAIRS[name]
    logits = size * jnp.asarray(np.random.default_rng(0).normal(size=4))
    signs = [jnp.array(z) for z in itertools.product([-1.0, 1.0], repeat=4)]
    outer = np.mean([np.outer(s, s) for s in (combined(logits, z) for z in signs)], axis=0)
    hessian = factors(logits).T @ factors(logits)
    sizes = np.sqrt(np.outer(np.diag(hessian), np.diag(hessian)))
    np.testing.assert_allclose(outer / sizes, hessian / sizes, atol=1e-12)


@pytest.mark.slow
def test_traces_of_one_sign_vector_are_unbiased_for_each_example(trained):
    network, params, (x, _), _ = trained
    fn = lambda p, s, image: network.evaluate(p, s, image[None])[0]  # noqa: E731
    want = exact_traces(fn, params, {}, jnp.asarray(x[3:4]))
    many = jnp.broadcast_to(x[3], (4000, 8))
    found = jax.jit(lambda key: sampled_traces(fn, params, {}, many, key))(jax.random.key(0))
    for each, true in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert each.shape == (4000,)
        assert abs(each.mean() - true) < 5 * each.std() / np.sqrt(4000) + 1e-5 * true
        assert each.std() > 1e-3 * true  # a sure network has nearly one factor alone


@pytest.mark.slow
def test_the_exact_traces_are_not_taken_where_a_sample_does(trained):
    """XLA moves what a loop does the same at each turn out of it, where it is always done."""
    network, params, (x, _), _ = trained
    static = (network, 0.05, budget())
    program = sample.lower(*static, params, {}, jnp.asarray(x), jax.random.key(0)).compile()
    inside, always = program.as_text().split("\nENTRY ")
    shapes = [
        [set(re.findall(r"\d+", s)) for s in re.findall(r"f32\[([\d,]+)\]", text)]
        for text in (inside, always)
    ]
    signals = {str(NUM), str(CLASSES - 1), "12"}  # of all examples and factors, at the first layer
    assert [any(signals <= shape for shape in each) for each in shapes] == [True, False]
