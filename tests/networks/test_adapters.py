"""Networks of three libraries, and plain functions: one function, the same numbers by all."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxsharp import networks

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(12, 5)).astype(np.float32)
KEY = jax.random.key(3)


class NnxNet(nnx.Module):
    """Dense, BatchNorm, ReLU, dropout, dense."""

    def __init__(self, rngs):
        self.first = nnx.Linear(5, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(jax.nn.relu(self.norm(self.first(x)))))


class LinenNet(nn.Module):
    """The same."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4, name="first")(x)
        x = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name="norm")(x)
        x = nn.Dropout(0.5, deterministic=not train, name="drop")(jax.nn.relu(x))
        return nn.Dense(3, name="last")(x)


class EquinoxNet(eqx.Module):
    """The same, of one example."""

    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    last: eqx.nn.Linear

    def __init__(self, key):
        self.first = eqx.nn.Linear(5, 4, key=key)
        self.norm = eqx.nn.BatchNorm(4, "batch", momentum=0.9, mode="ema")
        self.drop = eqx.nn.Dropout(0.5)
        self.last = eqx.nn.Linear(4, 3, key=key)

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.first(x), state)
        return self.last(self.drop(jax.nn.relu(x), key=key)), state


NETWORKS = {
    "nnx": networks.from_nnx(lambda rngs: NnxNet(rngs=rngs)),
    "linen": networks.from_linen(LinenNet(), INPUTS),
    "equinox": networks.from_equinox(eqx.nn.make_with_state(EquinoxNet)),
}
ARRAYS = {
    name: RNG.normal(size=shape).astype(np.float32)
    for name, shape in {
        "first": (5, 4),
        "first_bias": (4,),
        "scale": (4,),
        "shift": (4,),
        "last": (4, 3),
        "last_bias": (3,),
        "mean": (4,),
    }.items()
} | {"var": RNG.uniform(0.5, 2, 4).astype(np.float32)}


def filled(library):
    """The parameters and statistics of a library's network with `ARRAYS` in their places."""
    params, stats = NETWORKS[library].init(jax.random.key(0))
    names = {
        ("first", "kernel"): "first",
        ("first", "bias"): "first_bias",
        ("norm", "scale"): "scale",
        ("norm", "bias"): "shift",
        ("last", "kernel"): "last",
        ("last", "bias"): "last_bias",
    }
    if library == "equinox":
        places = {"kernel": "weight", "scale": "weight"}
        flat = {
            (layer, places.get(name, name)): ARRAYS[key].T for (layer, name), key in names.items()
        }
        assert set(flat) == set(flatten_dict(params))
        params = unflatten_dict(flat)
        first_time, mean, var = (stats["state"][place] for place in "012")
        assert mean.shape == var.shape == (4,)
        return params, {
            "state": {"0": jnp.zeros_like(first_time), "1": ARRAYS["mean"], "2": ARRAYS["var"]}
        }
    for (layer, name), key in names.items():
        assert params[layer][name].shape == ARRAYS[key].shape
        params[layer][name] = ARRAYS[key]
    held = {name: ARRAYS[name] for name in ("mean", "var")}
    return params, {"norm": held} if library == "nnx" else {"batch_stats": {"norm": held}}


def by_hand(x, mean, var):
    """Outputs in float64, BatchNorm by a mean and a variance, nothing dropped."""
    a = {name: array.astype(np.float64) for name, array in ARRAYS.items()}
    x = x.astype(np.float64) @ a["first"] + a["first_bias"]
    x = (x - mean) / np.sqrt(var + 1e-5) * a["scale"] + a["shift"]
    return np.maximum(x, 0) @ a["last"] + a["last_bias"]


@pytest.mark.slow
@pytest.mark.parametrize("library", NETWORKS)
def test_evaluation_is_the_network_by_its_running_statistics(library):
    network, (params, stats) = NETWORKS[library], filled(library)
    outputs = network.evaluate(params, stats, INPUTS)
    np.testing.assert_allclose(outputs, by_hand(INPUTS, ARRAYS["mean"], ARRAYS["var"]), rtol=2e-4)
    labels = RNG.integers(0, 3, 12)
    loss = network.frozen_loss(stats)(params, (INPUTS, labels))
    np.testing.assert_allclose(loss, networks.cross_entropy(outputs, labels), rtol=1e-6)


@pytest.mark.parametrize("library", NETWORKS)
def test_training_drops_by_its_key_and_moves_the_statistics(library):
    network, (params, stats) = NETWORKS[library], filled(library)
    assert network.is_random
    forward = jax.jit(network.forward)
    first, moved = forward(params, stats, INPUTS, KEY)
    np.testing.assert_array_equal(first, forward(params, stats, INPUTS, KEY)[0])
    assert not np.allclose(first, forward(params, stats, INPUTS, jax.random.key(4))[0])
    hidden = INPUTS.astype(np.float64) @ ARRAYS["first"] + ARRAYS["first_bias"]
    want = 0.9 * ARRAYS["mean"] + 0.1 * hidden.mean(0)
    found = [np.asarray(leaf) for leaf in jax.tree.leaves(moved) if np.shape(leaf) == (4,)]
    assert any(np.allclose(leaf, want, rtol=1e-4) for leaf in found)


@pytest.mark.parametrize("library", ["nnx", "linen"])
def test_statistics_are_made_anew_over_the_data(library):
    network, (params, stats) = NETWORKS[library], filled(library)
    again = networks.recompute_statistics(network, params, stats, INPUTS, chunk_size=5)
    hidden = INPUTS.astype(np.float64) @ ARRAYS["first"] + ARRAYS["first_bias"]
    layer = again["norm"] if library == "nnx" else again["batch_stats"]["norm"]
    np.testing.assert_allclose(layer["mean"], hidden.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer["var"], hidden.var(0), rtol=1e-5)


def test_statistics_of_equinox_are_refused():
    params, stats = filled("equinox")
    with pytest.raises(ValueError, match="statistics cannot be recomputed"):
        networks.recompute_statistics(NETWORKS["equinox"], params, stats, INPUTS)


class Restless(nnx.Module):
    """Noise in both modes."""

    def __init__(self, rngs):
        self.last, self.rngs = nnx.Linear(5, 3, rngs=rngs), rngs.fork()

    def __call__(self, x):
        return self.last(x) + jax.random.normal(self.rngs.noise(), (len(x), 3))


class RestlessLinen(nn.Module):
    """The same."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x) + jax.random.normal(self.make_rng("noise"), (len(x), 3))


def test_a_network_that_is_random_in_evaluation_is_refused():
    network = networks.from_nnx(lambda rngs: Restless(rngs=rngs))
    params, stats = network.init(KEY)
    with pytest.raises(ValueError, match="draws random numbers in evaluation"):
        network.evaluate(params, stats, INPUTS)
    with pytest.raises(ValueError, match="RestlessLinen draws random numbers in evaluation"):
        networks.from_linen(RestlessLinen(), INPUTS)


class Tokens(nnx.Module):
    """An embedding, whose inputs are indices."""

    def __init__(self, rngs):
        self.table, self.last = nnx.Embed(7, 4, rngs=rngs), nnx.Linear(4, 7, rngs=rngs)

    def __call__(self, x):
        return self.last(self.table(x))


@pytest.mark.slow
def test_indices_stay_integers_and_pixels_become_real():
    network = networks.from_nnx(lambda rngs: Tokens(rngs=rngs))
    params, stats = network.init(KEY)
    tokens = RNG.integers(0, 7, (4, 6)).astype(np.int32)
    want = params["table"]["embedding"][tokens] @ params["last"]["kernel"] + params["last"]["bias"]
    np.testing.assert_allclose(network.evaluate(params, stats, tokens), want, rtol=1e-5, atol=1e-6)
    for library, other in NETWORKS.items():
        params, stats = filled(library)
        pixels = RNG.integers(0, 256, (12, 5), dtype=np.uint8)
        np.testing.assert_array_equal(
            other.evaluate(params, stats, pixels),
            other.evaluate(params, stats, pixels.astype(np.float32)),
        )
