"""Runs under a schedule, against loops in which the optimizer has the schedule itself."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsharp.core.memory import budget
from jaxsharp.data import from_arrays
from jaxsharp.networks import LOSSES, Network
from jaxsharp.optimizers import OPTIMIZERS, amsbound
from jaxsharp.runs import RunConfig, Settings
from jaxsharp.studies import recipes
from jaxsharp.studies.workbench import workbench
from jaxsharp.training.descents import diagonal_of
from jaxsharp.training.epochs import Data, streams, train_epoch

EPOCHS, BATCH_SIZE, PEAK, NUM = 4, 4, 0.01, 20
X = np.random.default_rng(0).normal(size=(NUM, 3)).astype(np.float32)
Y = np.sin(2 * X[:, :2])


def fixed_bounds(learning_rate=PEAK, *, base_learning_rate=2 * PEAK):
    return OPTIMIZERS["adabound"](learning_rate, base_learning_rate=base_learning_rate)


EVERY = {**OPTIMIZERS, "amsbound": amsbound, "fixed_bounds": fixed_bounds}


@pytest.fixture(scope="module")
def bench():
    def init(key):
        return {"w": 0.5 * jax.random.normal(key, (3, 2)), "b": jnp.zeros(2)}, {}

    def apply(params, stats, x, train):
        return jnp.tanh(x @ params["w"]) + params["b"], stats

    network = Network(init, apply, loss=LOSSES["squared_error"])
    return workbench(from_arrays((X, Y), (X, Y)), network)._replace(optimizers=EVERY)


def trained(bench, optimizer, sam="none", **settings):
    """Recipe, hyper-parameters, and state after all epochs, of the seed 0."""
    options = {"batch_size": BATCH_SIZE, "learning_rate": PEAK, "loss_below": None, **settings}
    given = Settings(epochs=EPOCHS, loss="squared_error", **options)
    config = RunConfig("own", "own", optimizer, sam, 0, given)
    recipe = recipes.make_recipe(config, bench)
    hyper, state = recipes.hyper_arrays(config, EVERY), recipes.beginning(recipe, config, bench)
    data = Data(*map(jnp.asarray, (X, Y, X, Y)))
    epoch = jax.jit(
        lambda state: train_epoch(recipe, state, hyper, streams(0).order, data, budget())
    )
    for _ in range(EPOCHS):
        state, _ = epoch(state)
    return config, hyper, state


def loop(bench, tx):
    """Parameters after steps of an optimizer on the same batches."""
    params, _ = bench.network.init(streams(0).init)
    loss, state, x, y = bench.network.frozen_loss({}), tx.init(params), jnp.array(X), jnp.array(Y)

    @jax.jit
    def step(params, state, indices):
        gradient = lambda point: jax.grad(loss)(point, (x[indices], y[indices]))  # noqa: E731
        more = {"grad_fn": gradient}
        updates, state = tx.update(gradient(params), state, params, **more)
        return optax.apply_updates(params, updates), state

    for epoch in range(EPOCHS):
        order = jax.random.permutation(jax.random.fold_in(streams(0).order, epoch), NUM)
        for indices in order.reshape(-1, BATCH_SIZE):
            params, state = step(params, state, indices)
    return params


@pytest.mark.slow
@pytest.mark.parametrize("sam", ["none", "sam"])
@pytest.mark.parametrize("optimizer", EVERY)
def test_every_optimizer_has_the_rate_of_a_schedule_and_its_peak(bench, optimizer, sam):
    """Twice, so that bounds of AdaBound that follow the rate differ from those that stand still."""
    _, _, state = trained(bench, optimizer, sam, schedule="cosine", warmup_epochs=1)
    steps = NUM // BATCH_SIZE

    def rate(count):
        done = (count - steps) / ((EPOCHS - 1) * steps)
        cosine = (1 + jnp.cos(jnp.pi * done)) / 2
        return PEAK * jnp.where(count < steps, (count + 1) / steps, cosine)

    factory = EVERY[optimizer]
    base = inspect.signature(factory).parameters.get("base_learning_rate")
    more = {"base_learning_rate": base.default or PEAK} if base else {}
    tx = optax.with_extra_args_support(
        recipes.optimizer_factory(factory, sam)(learning_rate=rate, **more)
    )
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)  # noqa: E731
    jax.tree.map(close, state.params, loop(bench, tx))


def test_a_peak_is_told_under_a_schedule_alone(bench):
    told = {}
    for optimizer in ("sgd", "adabound", "amsbound", "fixed_bounds"):
        for schedule in ("constant", "linear"):
            settings = Settings(schedule=schedule, learning_rate=PEAK)
            config = RunConfig("own", "own", optimizer, "none", 0, settings)
            told[optimizer, schedule] = recipes.hyper_parameters(config, EVERY)
    peak = {"learning_rate": PEAK, "base_learning_rate": PEAK}
    for (optimizer, schedule), hyper in told.items():
        knows = optimizer in ("adabound", "amsbound") and schedule == "linear"
        assert hyper == (peak if knows else {"learning_rate": PEAK})


@pytest.mark.slow
def test_the_preconditioner_of_adabound_is_that_of_the_last_step(bench):
    """The update of another step of rate r along the moment m is -r D^-1 m."""
    config, hyper, state = trained(bench, "adabound", schedule="linear", track="top_eigenvalue")
    rate, still = np.float32(PEAK / 20), jax.tree.map(jnp.zeros_like, state.params)
    tx = EVERY["adabound"](rate, base_learning_rate=PEAK)
    updates, after = tx.update(still, state.opt_state, state.params)
    found = diagonal_of(recipes.tracking_of(config, bench).descent, after, hyper, rate)
    close = lambda u, d, m: np.testing.assert_allclose(u, -rate * m / d, rtol=1e-5)  # noqa: E731
    jax.tree.map(close, updates, found, after.m)
