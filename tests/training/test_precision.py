"""Training in bfloat16 against a loop written by hand, for each kind of network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from jaxsharp import networks
from jaxsharp.networks.tiles import conv
from jaxsharp.optimizers import OPTIMIZERS
from jaxsharp.studies.recipes import optimizer_factory
from jaxsharp.training import Recipe, Regime, Stopping
from jaxsharp.training.epochs import epoch_program
from jaxsharp.training.precision import check_compute, forward_in, product_dtypes
from tests.tinynets import cnn, tiny_dataset
from tests.training.test_epochs import data_of, member, start

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 6, 6, 2), dtype=np.uint8)
LOW = jnp.bfloat16


def init(key):
    first, last = jax.random.split(key)
    draw = jax.random.normal
    params = {"w": draw(first, (72, 6)) / 8, "v": draw(last, (6, 3)) / 2, "b": jnp.zeros(3)}
    return params, {"mean": jnp.zeros(6)}


def apply(params, stats, x, train):
    """A dense layer, its output without a running mean, and another one."""
    h = jnp.tanh((x / 255).reshape(len(x), -1) @ params["w"])
    mean = 0.5 * stats["mean"] + 0.5 * h.astype(jnp.float32).mean(0)
    h = h - stats["mean"].astype(h.dtype)
    return h @ params["v"] + params["b"], {"mean": mean} if train else stats


PLAIN = networks.Network(init, apply)


def loss_by_hand(params, stats, x, labels):
    """The loss, every operation in bfloat16 but for the last one, and the new running mean."""
    w, v, b = (params[name].astype(LOW) for name in "wvb")
    h = jnp.tanh((x.astype(LOW) / 255).reshape(len(x), -1) @ w)
    logits = (h - stats["mean"].astype(LOW)) @ v + b
    losses = -jax.nn.log_softmax(logits.astype(jnp.float32))[jnp.arange(len(x)), labels]
    return losses.mean(), {"mean": 0.5 * stats["mean"] + 0.5 * h.astype(jnp.float32).mean(0)}


@jax.jit
def step_by_hand(params, stats, velocity, x, labels):
    """A step of SGD with momentum 0.9 and rate 0.1."""
    grads, stats = jax.grad(loss_by_hand, has_aux=True)(params, stats, x, labels)
    velocity = jax.tree.map(lambda m, g: 0.9 * m + g, velocity, grads)
    return jax.tree.map(lambda p, m: p - 0.1 * m, params, velocity), stats, velocity


def ends(compute):
    """States of three epochs of six steps, and the metrics of the last."""
    recipe = Recipe(
        *(PLAIN, optimizer_factory(OPTIMIZERS["heavy_ball"], "none"), 4, Stopping(3)),
        regime=Regime(last_batch="keep"),
        compute=compute,
    )
    states, hyper, order = start(recipe, [{"learning_rate": 0.1, "momentum": 0.9}], [3])
    found, program, data = [member(states, 0)], epoch_program(recipe), data_of(tiny_dataset())
    for _ in range(3):
        states, metrics = program(states, hyper, order, data)
        found.append(member(states, 0))
    return found, member(metrics, 0), order[0]


@pytest.mark.slow
def test_training_is_a_loop_with_products_in_bfloat16():
    """Apart from it by less than a fourth of what float32 is."""
    dataset = tiny_dataset()
    (first, *_, found), metrics, order = ends("bfloat16")
    (*_, exact), *_ = ends("float32")
    params, stats = first.params, first.stats
    velocity = jax.tree.map(jnp.zeros_like, params)
    for epoch in range(3):
        permutation = np.asarray(jax.random.permutation(jax.random.fold_in(order, epoch), 23))
        for at in range(0, 23, 4):
            batch = (part[permutation[at : at + 4]] for part in dataset.train)
            params, stats, velocity = step_by_hand(params, stats, velocity, *batch)
    for name in "wvb":
        apart = [np.linalg.norm(params[name] - e.params[name]) for e in (found, exact)]
        assert 4 * apart[0] < apart[1] < 0.2 * np.linalg.norm(params[name])
    np.testing.assert_allclose(found.stats["mean"], stats["mean"], rtol=0.02, atol=1e-3)
    kept = (found.params, found.stats, found.opt_state)
    assert {x.dtype.name for x in jax.tree.leaves(kept)} <= {"float32", "int32"}
    logits = PLAIN.evaluate(found.params, found.stats, dataset.train.images)  # in float32
    loss = networks.cross_entropy(logits, dataset.train.labels)
    np.testing.assert_allclose(metrics.train_loss, loss, rtol=1e-5)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(not train)(linen.Conv(3, (3, 3))(x / 255))
        return linen.Dense(2)(linen.relu(x).reshape(len(x), -1))


class Equinox(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self, key):
        self.first, self.last = eqx.nn.Linear(72, 5, key=key), eqx.nn.Linear(5, 2, key=key)
        self.norm = eqx.nn.BatchNorm(5, "batch", mode="batch")

    def __call__(self, x, state):
        x, state = self.norm(self.first(x.reshape(-1) / 255), state)
        return self.last(jax.nn.relu(x)), state


KINDS = {
    "nnx": cnn,
    "tiles": lambda: cnn("tiles"),
    "linen": lambda: networks.from_linen(Linen(), IMAGES),
    "equinox": lambda: networks.from_equinox(lambda key: eqx.nn.make_with_state(Equinox)(key)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_product_is_in_bfloat16_and_statistics_are_not(kind):
    network = KINDS[kind]()
    params, stats = network.init(jax.random.key(0))

    def squares(compute, params):
        outputs, new = forward_in(compute, network)(params, stats, IMAGES, None)
        assert outputs.dtype == jnp.float32
        return jnp.square(outputs).sum(), new

    gradient = jax.grad(lambda params: squares("bfloat16", params)[0])
    found = {dtype.name for dtype in product_dtypes(jax.make_jaxpr(gradient)(params).jaxpr)}
    assert found == {"bfloat16"}
    (low, high) = (squares(compute, params)[1] for compute in ("bfloat16", "float32"))
    for a, b, old in zip(*map(jax.tree.leaves, (low, high, stats)), strict=True):
        assert a.dtype == b.dtype == old.dtype
        np.testing.assert_allclose(a, b, rtol=0.02, atol=0.01)
        if a.dtype == jnp.float32:  # no number of bfloat16's
            assert np.any(a != a.astype(LOW).astype(a.dtype))


@pytest.mark.slow
def test_sums_over_tiles_are_in_float32(monkeypatch):
    """Of 4096 products of ones, which bfloat16 counts up to 256 alone."""
    monkeypatch.setattr(networks.tiles, "TILE_BYTES", 1)
    x, kernel = jnp.ones((4096, 1, 1, 1), LOW), jnp.ones((1, 1, 1, 1), LOW)
    grad = jax.grad(lambda kernel: conv(x, kernel).astype(jnp.float32).sum())(kernel)
    assert grad.dtype == LOW and float(grad.ravel()[0]) == 4096


def test_a_network_that_computes_in_float32_is_refused():
    def wide(params, stats, x, train):
        return apply(params, stats, x / np.float32([255]), train)

    network = networks.Network(init, wide)
    with pytest.raises(ValueError, match=r"^compute is bfloat16, and 2 products of the network"):
        check_compute("bfloat16", network, IMAGES)
    check_compute("float32", network, IMAGES)
    check_compute("bfloat16", PLAIN, IMAGES)
