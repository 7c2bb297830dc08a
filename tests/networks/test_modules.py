"""Any NNX module as a network: statistics made anew for every BatchNorm, or refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsharp.measures import random_perturbation
from jaxsharp.networks import Network, cross_entropy, from_nnx, recompute_statistics


def one_line(function, *arguments, **options):
    """The message of a ValueError, which has one line."""
    with pytest.raises(ValueError) as refused:
        function(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


class Own(nnx.BatchNorm):
    """A BatchNorm under another name."""


class Odd(nnx.BatchNorm):
    """A BatchNorm that is called in its own way."""

    def __call__(self, x):
        return 2 * super().__call__(x)


class Averaging(nnx.Module):
    """A layer with a running statistic of its own."""

    def __init__(self, rngs):
        self.scale = nnx.Param(jnp.ones(()))
        self.level = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x):
        return self.scale[...] * (x - self.level[...])


class Net(nnx.Module):
    """Two hidden layers, a residual, and the layers that ``norm(features, rngs)`` makes."""

    def __init__(self, norm, rngs):
        self.first, self.second = nnx.Linear(5, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)
        self.last = nnx.Linear(6, 3, rngs=rngs)
        self.norm1, self.norm2 = norm(6, rngs), norm(6, rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.norm1(self.first(x)))
        x = x + jax.nn.relu(self.norm2(self.second(x)))
        return self.last(x)


def images(num=23, scale=1.0, offset=0.0):
    return offset + scale * jax.random.normal(jax.random.key(1), (num, 5))


def point(network):
    """Parameters, and statistics that are those of no data."""
    params, stats = network.init(jax.random.key(0))
    return params, jax.tree.map(lambda leaf: leaf + 3.0, stats)


def batch_norm(**options):
    return lambda features, rngs: nnx.BatchNorm(features, rngs=rngs, **options)


def by_hand(params, x):
    """Means and variances of the two layers' inputs, each normalized by those of the whole set."""
    found, p = {}, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    z = np.asarray(x, np.float64) @ p["first"]["kernel"] + p["first"]["bias"]
    for name in ("norm1", "norm2"):
        mean, var = z.mean(0), z.var(0)
        found[name] = {"mean": mean, "var": var}
        scale, shift = p[name].get("scale", 1.0), p[name].get("bias", 0.0)
        y = np.maximum(scale * (z - mean) / np.sqrt(var + 1e-3) + shift, 0)
        z = y @ p["second"]["kernel"] + p["second"]["bias"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "norm",
    [
        batch_norm(epsilon=1e-3),
        batch_norm(epsilon=1e-3, momentum=0.3, use_scale=False, use_fast_variance=False),
        lambda features, rngs: Own(features, epsilon=1e-3, momentum=0.9, rngs=rngs),
    ],
)
@pytest.mark.parametrize("chunk_size", [None, 23, 7])
def test_statistics_of_every_batch_norm_are_those_of_the_whole_set(x64, norm, chunk_size):
    network = from_nnx(lambda rngs: Net(norm, rngs))
    params, stats = point(network)
    params, stats = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) + 0.1, (params, stats))
    found = recompute_statistics(network, params, stats, images(), chunk_size=chunk_size)
    for name, layer in by_hand(params, images()).items():
        np.testing.assert_allclose(found[name]["mean"], layer["mean"], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found[name]["var"], layer["var"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("axis", [1, -2])
def test_features_may_stand_on_any_axis(x64, axis):
    class Channels(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(5, axis=axis, rngs=rngs)
            self.last = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            return self.last(self.norm(x)).mean(1)

    network = from_nnx(Channels)
    params, stats = point(network)
    x = jax.random.normal(jax.random.key(2), (11, 5, 4))
    found = recompute_statistics(network, params, stats, x, chunk_size=4)
    np.testing.assert_allclose(found["norm"]["mean"], x.mean((0, 2)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["norm"]["var"], x.var((0, 2)), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("off", [1e3, 1e4])
@pytest.mark.parametrize("where", ["running mean", "data"])
def test_nothing_cancels_in_float32(off, where):
    """A running mean or data far from zero beside the deviation."""
    network = from_nnx(lambda rngs: Net(batch_norm(epsilon=1e-3), rngs))
    params, stats = network.init(jax.random.key(0))
    x = images(200)
    if where == "running mean":
        stats["norm1"]["mean"] += off
    else:
        params["first"]["bias"] += off
    found = recompute_statistics(network, params, stats, x, chunk_size=40)
    want = by_hand(params, x)["norm1"]["var"]
    np.testing.assert_allclose(found["norm1"]["var"], want, rtol=3e-3)


@pytest.mark.slow
def test_perturbed_losses_are_those_of_training_on_the_whole_set(x64):
    network = from_nnx(lambda rngs: Net(batch_norm(momentum=0.9), rngs))
    params, stats = point(network)
    batch = images(), jnp.arange(23) % 3
    found = random_perturbation(
        *(network, params, stats, batch, jax.random.key(3)),
        **{"recompute": True, "num_perturbations": 4, "radius": 1.0, "chunk_size": 5},
    )
    logits, _ = network.apply(params, stats, batch[0], True)
    exact = recompute_statistics(network, params, stats, batch[0], chunk_size=5)
    again, _ = network.apply(params, exact, batch[0], False)
    np.testing.assert_allclose(
        cross_entropy(again, batch[1]), cross_entropy(logits, batch[1]), rtol=1e-6
    )
    assert np.all(np.abs(found.increases) < 5)


@pytest.mark.slow
def test_a_layer_that_is_not_in_use_keeps_its_statistics():
    class Idle(Net):
        def __call__(self, x):
            return self.last(self.norm1(self.first(x)))

    network = from_nnx(lambda rngs: Idle(batch_norm(), rngs))
    params, stats = point(network)
    found = recompute_statistics(network, params, stats, images(), chunk_size=5)
    for name in ("mean", "var"):
        np.testing.assert_array_equal(found["norm2"][name], stats["norm2"][name])
        assert not np.allclose(found["norm1"][name], stats["norm1"][name])


class Twice(Net):
    """The same layer at two places."""

    def __call__(self, x):
        return self.last(self.norm1(self.second(self.norm1(self.first(x)))))


class Masked(Net):
    """A layer that leaves examples out."""

    def __call__(self, x):
        x = self.first(x)
        return self.last(self.norm1(x, mask=jnp.arange(len(x))[:, None] > 2))


class Held(Net):
    """Arrays that are neither parameters nor BatchNorm's."""

    def __init__(self, made, rngs):
        super().__init__(batch_norm(), rngs)
        self.table = made(jnp.arange(3.0))

    def __call__(self, x):
        (added,) = jax.tree.leaves(self.table)
        return super().__call__(x) + added


class Spectral(Net):
    """The norm of a kernel beside BatchNorm."""

    def __init__(self, rngs):
        super().__init__(batch_norm(), rngs)
        self.last = nnx.SpectralNorm(self.last, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.norm1(self.first(x)))
        return self.last(jax.nn.relu(self.norm2(self.second(x))), update_stats=False)


HELD = {
    "a variable": nnx.Variable,
    "data": nnx.data,
    "data in a dict": lambda array: nnx.data({"k": array}),
    "data by a tuple": lambda array: nnx.data({("k", 0): array}),
}


@pytest.mark.parametrize("made", HELD.values(), ids=HELD)
def test_arrays_that_are_no_parameters_are_those_of_the_module(made):
    network = from_nnx(lambda rngs: Held(made, rngs))
    params, stats = network.init(jax.random.key(0))
    plain = from_nnx(lambda rngs: Net(batch_norm(), rngs))
    want = plain.evaluate(params, {each: stats[each] for each in ("norm1", "norm2")}, images())
    found = network.evaluate(params, stats, images())
    np.testing.assert_allclose(found, want + jnp.arange(3.0), rtol=1e-6)


def test_an_array_that_flax_does_not_keep_is_refused_by_name():
    line = one_line(from_nnx, lambda rngs: Held(lambda array: array, rngs))
    assert line.startswith("table is an array, which Flax keeps of a module that is compiled only ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda rngs: Held(nnx.Variable, rngs), "the whole (Held)"),
        (lambda rngs: Held(HELD["data in a dict"], rngs), "the whole (Held)"),
        (lambda rngs: Spectral(rngs), "last (SpectralNorm)"),
        (lambda rngs: Net(lambda features, rngs: Odd(features, rngs=rngs), rngs), "norm1 (Odd)"),
        (lambda rngs: Net(lambda features, rngs: Averaging(rngs), rngs), "norm2 (Averaging)"),
        (lambda rngs: Net(batch_norm(axis_name="data"), rngs), "norm1 (BatchNorm)"),
        (lambda rngs: Twice(batch_norm(), rngs), "is applied twice"),
        (lambda rngs: Masked(batch_norm(), rngs), "has a mask"),
    ],
)
def test_statistics_that_cannot_be_recomputed_are_refused_by_name(build, named):
    network = from_nnx(build)
    params, stats = point(network)
    batch = images(), jnp.arange(23) % 3
    line = one_line(
        random_perturbation,
        *(network, params, stats, batch, jax.random.key(0)),
        recompute=True,
        num_perturbations=4,
    )
    assert named in line and "cannot be recomputed" in line


@pytest.mark.slow
def test_layers_without_statistics_need_none():
    for norm in (nnx.LayerNorm, nnx.RMSNorm):
        network = from_nnx(lambda rngs, norm=norm: Net(lambda f, rngs: norm(f, rngs=rngs), rngs))
        params, stats = network.init(jax.random.key(0))
        assert recompute_statistics(network, params, stats, images(), chunk_size=4) == stats


def test_a_network_of_two_functions_has_no_moments():
    def apply(params, stats, x, train):
        return x @ params["w"] - stats["mean"], stats

    network = Network(lambda key: None, apply)
    arguments = {"w": jnp.ones((5, 3))}, {"mean": jnp.zeros(3)}, images()
    line = one_line(recompute_statistics, network, *arguments, chunk_size=None)
    assert "no moments" in line and "networks.from_nnx" in line
    assert recompute_statistics(network, arguments[0], {}, images(), chunk_size=None) == {}
