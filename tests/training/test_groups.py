"""m-SAM cuts a batch: with a radius of zero its step is the plain one, whatever the loss weighs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp import data, networks
from jaxsharp.runs.config import RunConfig, Settings
from jaxsharp.studies.recipes import hyper_arrays, make_recipe
from jaxsharp.studies.workbench import workbench
from jaxsharp.training.epochs import epoch_program
from jaxsharp.training.groups import of_groups
from tests.training.test_epochs import data_of, member, start

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 3, (96, 4))
TARGETS = np.where(RNG.random((96, 4)) < RNG.random((96, 1)), -100, (TOKENS + 1) % 3)


def squares(outputs, targets):
    return (outputs[:, 0] - targets) ** 2


def first(outputs, targets):
    return outputs[:, 0]


def trained(network, dataset, sam, epochs=1, **settings):
    """Parameters after each epoch of SGD, of m-SAM with radius zero."""
    bench = workbench(dataset, network)
    given = {"batch_size": 32, "learning_rate": 0.5, "loss_below": None} | settings
    given |= {} if sam == "none" else {"rho": 0.0}
    config = RunConfig("own", "own", "sgd", sam, 0, Settings(epochs=epochs, **given))
    recipe = make_recipe(config, bench)
    states, hyper, order = start(recipe, [hyper_arrays(config)], [0])
    program, ends = epoch_program(recipe), []
    for _ in range(epochs):
        states, _ = program(states, hyper, order, data_of(dataset))
        ends.append(member(states.params, 0)["w"])
    return ends


@pytest.mark.slow
@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_groups_count_by_the_weights_of_their_examples(mixup):
    x, y = RNG.normal(size=(96, 5)), RNG.normal(size=96) ** 3
    init = lambda key: ({"w": jax.random.normal(key, (5, 1))}, {})  # noqa: E731
    apply = lambda params, stats, x, train: (x @ params["w"], stats)  # noqa: E731
    network = networks.Network(init, apply, loss=networks.by_weights(squares, jnp.abs))
    dataset, how = data.from_arrays((x, y), (x, y)), {"mixup": mixup, "learning_rate": 0.01}
    plain, cut = (trained(network, dataset, sam, **how)[0] for sam in ("none", "m_sam"))
    np.testing.assert_allclose(cut, plain, rtol=2e-5, atol=1e-5)


@pytest.mark.slow
def test_tokens_that_do_not_count_are_in_no_group():
    """One group has none that counts."""
    init = lambda key: ({"w": jax.random.normal(key, (3, 3))}, {})  # noqa: E731
    apply = lambda params, stats, x, train: (params["w"][x], stats)  # noqa: E731
    network = networks.Network(init, apply, loss=networks.LOSSES["token_cross_entropy"])
    targets = np.where(np.arange(96)[:, None] < 90, -100, TARGETS)
    for each in (TARGETS, targets):
        dataset = data.from_arrays((TOKENS, each), (TOKENS, each), num_classes=3)
        plain, cut = (trained(network, dataset, sam)[0] for sam in ("none", "m_sam"))
        np.testing.assert_allclose(cut, plain, rtol=2e-5, atol=1e-5)


def test_groups_draw_numbers_of_their_own():
    """The same at all parameters, as the ascent needs."""

    def value_and_grad(params, stats, batch, key):
        return (0.0, stats), params * jax.random.uniform(key, (len(batch[1]),))

    batch, loss = (jnp.zeros((6, 2)), jnp.zeros(6)), networks.LOSSES["squared_error"]
    made = of_groups(value_and_grad, loss, {}, batch, jax.random.key(0), draws=True)
    groups = [jax.tree.map(lambda x, i=i: x[i : i + 2], made["batch"]) for i in (0, 2, 4)]
    drawn = np.array([made["grad_fn"](jnp.float32(1), group) for group in groups])
    assert len(np.unique(drawn)) == 6
    again = np.array([made["grad_fn"](jnp.float32(2), group) for group in groups])
    np.testing.assert_array_equal(again, 2 * drawn)


@pytest.mark.slow
def test_what_examples_of_different_groups_draw_differs():
    """Of a gradient that is the mean of draws the variance says how many there are."""

    def apply(params, stats, x, train, key):
        noise = jax.random.normal(key, x.shape) if train else jnp.zeros_like(x)
        return params["w"] * noise, stats

    init = lambda key: ({"w": jnp.zeros(())}, {})  # noqa: E731
    network = networks.Network(init, apply, loss=networks.losses.loss_of(first))
    dataset = data.from_arrays((np.ones((1024, 1)), np.zeros(1024)), (np.ones((1, 1)), np.zeros(1)))
    ends = trained(network, dataset, "m_sam", 20, batch_size=1024, learning_rate=1.0)
    # A step moves by N(0, 1/1024); of groups of 16 that draw alike by N(0, 1/16).
    assert np.diff([0.0, *ends]).std() < 2 / np.sqrt(1024)
