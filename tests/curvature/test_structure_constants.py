"""Constants that a network closes over: named if they hold a rescaling back, silent elsewhere."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.curvature import analyze
from jaxsharp.measures import minimize_over_scales, minimum_sharpness
from jaxsharp.networks import Network

RNG = np.random.default_rng(0)
SHAPES = {"w1": (4, 5), "b1": (5,), "w2": (5, 5), "b2": (5,), "w3": (5, 3)}
PARAMS = {name: jnp.asarray(RNG.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
STATS = {name: jnp.asarray(RNG.uniform(0.5, 2, 5), jnp.float32) for name in ("mean", "var")}
STATS["mask"] = jnp.asarray([1.0, 0, 1, 1, 0])
STATS |= {name: jnp.asarray(RNG.uniform(0.5, 2, 4), jnp.float32) for name in ("shift", "width")}
IMAGE = jnp.ones(4)


def of(normalize, prepare=lambda x, s: x):
    """A network of three layers that normalizes the first one's outputs."""

    def fn(params, stats, x):
        h = normalize(prepare(x, stats) @ params["w1"] + params["b1"], stats, params)
        h = jax.nn.relu(jax.nn.relu(h) @ params["w2"] + params["b2"])
        return h @ params["w3"]

    return fn


def inverse(stats):
    return 1 / jnp.sqrt(stats["var"] + 1e-5)


HARM = {
    "running mean": of(lambda h, s, p: (h - s["mean"]) * inverse(s)),
    "folded running mean": of(lambda h, s, p: h * inverse(s) - s["mean"] * inverse(s)),
    "threshold": of(lambda h, s, p: jnp.minimum(h, s["mean"])),
}
HARMLESS = {
    "running variance": of(lambda h, s, p: h * inverse(s)),
    "bare running variance": of(lambda h, s, p: h / jnp.sqrt(s["var"])),
    "mask": of(lambda h, s, p: h * s["mask"]),
    "input normalization": of(lambda h, s, p: h, lambda x, s: (x - s["shift"]) / s["width"]),
    "input normalization and a threshold": of(
        lambda h, s, p: jnp.minimum(h, 6.0), lambda x, s: (x - s["shift"]) / s["width"]
    ),
}


@pytest.mark.parametrize("name", HARM)
def test_a_constant_that_holds_a_rescaling_back_is_named(name):
    fn = HARM[name]
    as_stats = analyze(fn, PARAMS, STATS, IMAGE).exponents
    with pytest.warns(UserWarning, match=r"float32\[5\] \(test_.*py:\d+\); .*as stats") as caught:
        closed_over = analyze(lambda p, s, x: fn(p, STATS, x), PARAMS, {}, IMAGE).exponents
    assert len(caught) == 1
    assert str(caught[0].message).count("float32") == 1  # the one, and no other
    assert closed_over.shape[1] == as_stats.shape[1] - 1


@pytest.mark.parametrize("name", HARMLESS)
def test_a_constant_that_does_no_harm_is_not_mentioned(name):
    """Warnings are errors here. As statistics such constants give the same rescalings."""
    fn = HARMLESS[name]
    closed_over = analyze(lambda p, s, x: fn(p, STATS, x), PARAMS, {}, IMAGE).exponents
    as_stats = analyze(fn, PARAMS, STATS, IMAGE).exponents
    assert closed_over.shape == as_stats.shape
    assert np.linalg.matrix_rank(np.hstack([closed_over, as_stats])) == as_stats.shape[1]


class Normalized(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key)
        self.first = eqx.nn.Linear(4, 5, key=keys[0])
        self.norm = eqx.nn.BatchNorm(5, "batch", mode="batch")
        self.last = eqx.nn.Linear(5, 3, key=keys[1])

    def __call__(self, x, state):
        h, state = self.norm(self.first(x), state)
        return self.last(jax.nn.relu(h))


@pytest.mark.slow
def test_minimum_sharpness_of_an_equinox_network_says_what_it_does_not_see():
    model, state = eqx.nn.make_with_state(Normalized)(jax.random.key(0))
    params, static = eqx.partition(eqx.nn.inference_mode(model), eqx.is_inexact_array)
    state = jax.tree.map(lambda a: a + (1000 if a.ndim == 0 else 0.3), state)

    def network(fixed):
        def apply(params, stats, images, train):
            one = lambda x: eqx.combine(params, static)(x, fixed or stats)  # noqa: E731
            return jax.vmap(one)(images), stats

        return Network(None, apply, None)

    batch = jnp.asarray(RNG.normal(size=(7, 4)), jnp.float32), jnp.zeros(7, int)
    seen = minimum_sharpness(network(None), params, state, batch).value
    with pytest.warns(UserWarning, match=r"float32\[5\].*pass them as stats"):
        missed = minimum_sharpness(network(state), params, {}, batch).value
    assert missed > seen * 1.001


def test_statistics_are_no_constants_and_numbers_have_no_name():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analyze(HARM["running mean"], PARAMS, STATS, IMAGE)
        analyze(of(lambda h, s, p: jnp.minimum(h, 6.0)), PARAMS, {}, IMAGE)


def test_parameters_that_no_rescaling_moves_have_exponents_of_zero():
    """Else the terms of dead layers decide: 0.0 where the last bias has its trace."""
    last = lambda p, s, x: HARM["running mean"](p, s, x) + p["b3"]  # noqa: E731
    exponents = analyze(last, PARAMS | {"b3": jnp.ones(3)}, STATS, IMAGE).exponents
    assert exponents.shape == (6, 2)
    np.testing.assert_array_equal(exponents[2], 0)
    least = minimize_over_scales([0, 0, 0.7, 0, 0, 0], exponents)
    assert least.value == pytest.approx(0.7)
