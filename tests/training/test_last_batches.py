"""Examples that do not fill a batch: a step of their own, against a plain loop, or none."""

import jax
import numpy as np
import optax
import pytest

from jaxsharp.networks import cross_entropy
from jaxsharp.optimizers import ascent_step
from jaxsharp.training import Averaging, Regime
from jaxsharp.training.epochs import epoch_program
from jaxsharp.training.regimes import check_last_batch
from tests.tinynets import cnn, mlp, tiny_dataset
from tests.training.test_epochs import data_of, member, recipe_of, start

KEPT = Regime("linear", last_batch="keep")


def after_epochs(recipe, hyper, epochs=2):
    """The state of one member of 23 examples after some epochs, and its order."""
    states, hyper, order = start(recipe, [hyper], [3])
    first, program, data = member(states, 0), epoch_program(recipe), data_of(tiny_dataset())
    for _ in range(epochs):
        states, metrics = program(states, hyper, order, data)
    return first, member(states, 0), member(metrics, 0), order[0]


@pytest.mark.slow
def test_the_last_batch_is_a_step_by_its_own_mean():
    """Five steps an epoch to the schedule and to the average too, of 5, 5, 5, 5 and 3 examples."""
    network, dataset = mlp(), tiny_dataset()
    recipe = recipe_of(network, sam="sam", epochs=2)
    recipe = recipe._replace(regime=KEPT, averaging=Averaging("ema", 0.7, 1))
    first, found, metrics, order = after_epochs(recipe, {"learning_rate": 0.05, "rho": 0.2})

    gradient = jax.jit(jax.grad(lambda p, x, y: cross_entropy(network.evaluate(p, {}, x), y)))
    params, _ = first.iterate
    average, count = params, 0
    for epoch in range(2):
        permutation = np.asarray(jax.random.permutation(jax.random.fold_in(order, epoch), 23))
        for at in range(0, 23, 5):
            indices = permutation[at : at + 5]
            batch = dataset.train.images[indices], dataset.train.labels[indices]
            moved = optax.tree.add(params, ascent_step(gradient(params, *batch), 0.2))
            rate, grads = 0.05 * (1 - count / 10), gradient(moved, *batch)
            params = jax.tree.map(lambda p, g: p - rate * g, params, grads)  # noqa: B023
            old = jax.tree.map(lambda a, p: 0.7 * a + 0.3 * p, average, params)
            average = old if count > 5 else params
            count += 1
    assert count == 10
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(close, found.iterate[0], params)
    jax.tree.map(close, found.params, average)
    logits = network.evaluate(average, {}, dataset.train.images)
    np.testing.assert_allclose(
        metrics.train_loss, cross_entropy(logits, dataset.train.labels), 1e-3
    )


@pytest.mark.slow
def test_where_batches_are_filled_there_is_nothing_to_keep():
    """Of 23 examples one batch of all."""
    ends = []
    for regime in (Regime("cosine"), Regime("cosine", last_batch="keep")):
        recipe = recipe_of(mlp(), batch_size=23)._replace(regime=regime)
        ends.append(after_epochs(recipe, {"learning_rate": 0.1})[1:3])
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_the_sizes_of_the_steps_of_an_epoch():
    assert KEPT.batch_sizes(23, 5) == [5, 5, 5, 5, 3]
    assert KEPT.batch_sizes(20, 5) == Regime().batch_sizes(24, 5) == [5] * 4


def test_one_example_has_no_statistics():
    with pytest.raises(
        ValueError, match=r"^last_batch is keep, and of 23 examples in batches of 11"
    ):
        check_last_batch(KEPT, cnn(), 23, 11)
    check_last_batch(KEPT, mlp(), 23, 11)
    check_last_batch(Regime(), cnn(), 23, 11)
    check_last_batch(KEPT, cnn(), 23, 10)
    check_last_batch(KEPT, cnn(), 23, 1)
