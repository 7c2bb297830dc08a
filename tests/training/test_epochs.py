"""One epoch against a plain loop, stopping rules, and members that do not disturb each other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsharp.core import budget
from jaxsharp.networks import cross_entropy
from jaxsharp.optimizers import OPTIMIZERS, SHARPNESS_AWARE, ascent_step
from jaxsharp.studies.recipes import optimizer_factory
from jaxsharp.training import Data, Recipe, Stopping, TrainState
from jaxsharp.training.epochs import (
    epoch_program,
    evaluation,
    init_state,
    is_active,
    judge,
    streams,
)
from tests.tinynets import cnn, mlp, tiny_dataset

BATCH_SIZE = 5


def data_of(dataset, members=1):
    arrays = (jnp.asarray(a) for a in (*dataset.train, *dataset.test))
    images, labels, test_images, test_labels = arrays
    return Data(images, jnp.stack([labels] * members), test_images, test_labels)


def recipe_of(network, optimizer="sgd", sam="none", epochs=3, *, batch_size=BATCH_SIZE, **stopping):
    factory = optimizer_factory(OPTIMIZERS[optimizer], sam)
    return Recipe(network, factory, batch_size, Stopping(epochs, **stopping))


def start(recipe, hypers, seeds):
    states = [
        init_state(recipe, hyper, *recipe.network.init(streams(seed).init))
        for hyper, seed in zip(hypers, seeds, strict=True)
    ]
    order = jnp.stack([streams(seed).order for seed in seeds])
    stack = lambda *leaves: jnp.stack(leaves)  # noqa: E731
    hyper = jax.tree.map(lambda *v: jnp.asarray(v, jnp.float32), *hypers)
    return jax.tree.map(stack, *states), hyper, order


def member(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def plain_epoch(network, optimizer, params, stats, batches, rho):
    """The same epoch as a Python loop over batches, with SAM written out."""

    def loss(params, stats, images, labels):
        logits, new_stats = network.apply(params, stats, images, True)
        return cross_entropy(logits, labels), new_stats

    opt_state = optimizer.init(params)
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    for images, labels in batches:
        grads, new_stats = gradient(params, stats, images, labels)
        if rho is not None:
            moved = optax.tree.add(params, ascent_step(grads, rho))
            grads, _ = gradient(moved, stats, images, labels)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params, stats = optax.apply_updates(params, updates), new_stats
    return params, stats


@pytest.mark.slow
@pytest.mark.parametrize("sam", ["none", "sam"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_epoch_is_a_loop_over_a_permutation(optimizer, sam):
    network, dataset = cnn(), tiny_dataset()
    recipe = recipe_of(network, optimizer, sam)
    hypers = [{"learning_rate": 0.05, **({} if sam == "none" else {"rho": 0.2})}]
    states, hyper, order = start(recipe, hypers, [3])
    after, metrics = epoch_program(recipe)(states, hyper, order, data_of(dataset))

    permutation = jax.random.permutation(jax.random.fold_in(order[0], 0), 23)[:20]
    batches = [
        (dataset.train.images[i], dataset.train.labels[i])
        for i in np.asarray(permutation).reshape(4, BATCH_SIZE)
    ]
    first = member(states, 0)
    params, stats = plain_epoch(
        network,
        OPTIMIZERS[optimizer](learning_rate=0.05),
        first.params,
        first.stats,
        batches,
        None if sam == "none" else 0.2,
    )
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)  # noqa: E731
    jax.tree.map(close, member(after, 0).params, params)
    jax.tree.map(close, member(after, 0).stats, stats)  # statistics of the clean pass
    assert after.epoch[0] == 1
    for split, values in (("train", metrics[:2]), ("test", metrics[2:])):
        images, labels = getattr(dataset, split)
        logits, _ = network.apply(params, stats, jnp.asarray(images), False)
        np.testing.assert_allclose(values[0][0], cross_entropy(logits, labels), rtol=1e-3)
        np.testing.assert_allclose(values[1][0], np.mean(np.argmax(logits, 1) == labels), atol=1e-6)


def ends_of(sam, hypers):
    """Members after one epoch of two steps with SGD and a variant."""
    recipe = recipe_of(cnn(), "sgd", sam, batch_size=16)
    states, hyper, order = start(recipe, hypers, [0] * len(hypers))
    data = data_of(tiny_dataset(num=40), len(hypers))
    after, _ = epoch_program(recipe)(states, hyper, order, data)
    return [member(after, i) for i in range(len(hypers))]


@pytest.fixture(scope="module")
def plain_ends():
    return ends_of("none", [{"learning_rate": 0.0}, {"learning_rate": 0.1}])


@pytest.mark.slow
@pytest.mark.parametrize("sam", SHARPNESS_AWARE)
def test_a_variant_changes_the_step_and_not_the_statistics(sam, plain_ends):
    """Without a learning rate the clean passes of all variants are those of the base."""
    (still, moved), rhos = plain_ends, (10.0, 1.0)
    hypers = [{"learning_rate": r, "rho": rho} for r, rho in zip((0.0, 0.1), rhos, strict=True)]
    far, sharp = ends_of(sam, hypers)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, far.stats, still.stats)
    step, change = (optax.tree.sub(moved.params, other.params) for other in (still, sharp))
    assert optax.tree.norm(change) > 1e-3 * optax.tree.norm(step)


@pytest.mark.slow
def test_every_epoch_has_its_own_order_and_every_seed_its_own_streams():
    """Order, initialization, noise and measures draw apart (pitfall 37)."""
    recipe = recipe_of(mlp(), epochs=9)
    runs = []
    for seed in (0, 0, 1):
        states, hyper, order = start(recipe, [{"learning_rate": 0.1}], [seed])
        program, data = epoch_program(recipe), data_of(tiny_dataset())
        losses = []
        for _ in range(3):
            states, metrics = program(states, hyper, order, data)
            losses.append(float(metrics.train_loss[0]))
        runs.append((losses, states))
    assert runs[0][0] == runs[1][0] != runs[2][0]
    keys = np.array([jax.random.key_data(k) for seed in range(3) for k in streams(seed)])
    assert len(np.unique(keys, axis=0)) == 12
    orders = [jax.random.permutation(jax.random.fold_in(order[0], e), 23) for e in (0, 1)]
    assert not np.array_equal(*orders)


@pytest.mark.slow
def test_evaluation_weighs_examples_and_not_chunks():
    network, dataset = cnn(), tiny_dataset(num=23)
    params, stats = network.init(jax.random.key(0))
    logits, _ = network.apply(params, stats, jnp.asarray(dataset.train.images), False)
    want = cross_entropy(logits, dataset.train.labels)
    images, labels = map(jnp.asarray, dataset.train)
    np.testing.assert_allclose(
        evaluation(network)(params, stats, (images, labels), budget())[0], want, rtol=1e-6
    )


def judged(losses, **stopping):
    """Converged, diverged and calm epochs after each of a sequence of losses."""
    zero, no = jnp.int32(0), jnp.array(False)
    state = TrainState((), (), (), zero, jnp.float32(np.inf), zero, no, no)
    for loss in losses:
        state = judge(Stopping(99, **stopping), state, (), (), (), jnp.float32(loss))
        yield bool(state.converged), bool(state.diverged), int(state.calm_epochs)


def test_stopping_by_the_loss():
    assert [c for c, *_ in judged([1.0, 0.01, 0.0099], loss_below=0.01)] == [False, False, True]
    assert [c for c, *_ in judged([1e-9], loss_below=None)] == [False]


def test_stopping_by_the_change_of_the_loss():
    losses = [1.0, 0.9995, 0.9999, 0.5, 0.5001, 0.5002, 0.4999]
    found = list(judged(losses, change_below=1e-3, patience=3))
    assert [calm for *_, calm in found] == [0, 1, 2, 0, 1, 2, 3]
    assert [converged for converged, *_ in found] == [False] * 6 + [True]


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_divergence_and_no_convergence(loss):
    (found,) = judged([loss], loss_below=0.01, change_below=1e-3, patience=1)
    assert found[:2] == (False, True)


@pytest.mark.slow
def test_epochs_end_at_the_limit():
    recipe = recipe_of(mlp(), epochs=2)
    states, hyper, order = start(recipe, [{"learning_rate": 0.1}], [0])
    program = epoch_program(recipe)
    for expected in (True, True, False):
        assert bool(is_active(states, recipe.stopping)[0]) is expected
        states, _ = program(states, hyper, order, data_of(tiny_dataset()))
    assert states.epoch[0] == 2


@pytest.mark.slow
def test_a_diverged_member_stops_and_leaves_its_neighbours_alone():
    """Under vmap a branch not taken is computed, too (pitfall 34)."""
    recipe, data = recipe_of(cnn(), epochs=4), tiny_dataset()
    program = epoch_program(recipe)
    rates, seeds = [0.05, 1e30, 0.1], [0, 1, 2]
    states, hyper, order = start(recipe, [{"learning_rate": r} for r in rates], seeds)
    for _ in range(3):
        states, metrics = program(states, hyper, order, data_of(data, 3))
    np.testing.assert_array_equal(states.diverged, [False, True, False])
    assert states.epoch[1] == 1 and states.epoch[0] == 3
    assert np.isnan(metrics.train_loss[1])
    for index in (0, 2):
        alone, hyper1, order1 = start(recipe, [{"learning_rate": rates[index]}], [seeds[index]])
        for _ in range(3):
            alone, _ = program(alone, hyper1, order1, data_of(data))
        jax.tree.map(np.testing.assert_array_equal, member(alone, 0), member(states, index))


def test_the_data_is_an_argument_of_the_program_and_no_constant():
    recipe, data = recipe_of(cnn()), data_of(tiny_dataset(num=50))
    states, hyper, order = start(recipe, [{"learning_rate": 0.1}], [0])
    closed = jax.make_jaxpr(epoch_program(recipe))(states, hyper, order, data)
    (call,) = closed.jaxpr.eqns
    assert max([np.size(c) for c in (*closed.consts, *call.params["jaxpr"].consts)] + [0]) < 50


@pytest.mark.slow
def test_no_hyper_parameter_value_compiles_anew():
    """A Python float would be a constant of the program (pitfall 35)."""
    recipe = recipe_of(mlp(), sam="sam")
    program = epoch_program(recipe)
    for rate, rho in ((0.1, 0.05), (0.2, 0.1)):
        states, hyper, order = start(recipe, [{"learning_rate": rate, "rho": rho}], [0])
        program(states, hyper, order, data_of(tiny_dataset()))
    assert program._cache_size() == 1
