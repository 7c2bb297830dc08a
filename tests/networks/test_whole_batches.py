"""Losses over a whole batch, on fixed batches: against NumPy, plain loops and dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp import core, curvature, networks
from jaxsharp.networks.checks import check_fit, check_own
from jaxsharp.training.epochs import evaluation
from tests.contrastive import (
    KINDS,
    LOSS,
    NETWORK,
    SIZE,
    VIEWS,
    apply,
    dense,
    init,
    nt_xent,
    over_batches,
    reference,
    retrieved,
)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float64), init(jax.random.key(1))[0])
        yield params, (jnp.asarray(VIEWS, jnp.float64), jnp.asarray(KINDS))


@pytest.mark.slow
def test_the_loss_is_that_of_its_definition_batch_by_batch(double):
    params, batch = double
    want = over_batches(lambda views: reference(params, views), VIEWS)
    for memory in (core.budget(), core.Budget(1, 1, 1, False)):
        loss, accuracy = evaluation(NETWORK)(params, {}, batch, memory)
        np.testing.assert_allclose(loss, want, rtol=1e-12)
        assert np.isnan(accuracy)
    one = reference(params, VIEWS[:SIZE])
    outputs = NETWORK.evaluate(params, {}, batch[0][:SIZE])
    np.testing.assert_allclose(LOSS.mean(outputs, batch[1][:SIZE]), one, rtol=1e-12)
    assert abs(reference(params, VIEWS[:36]) - want) > 0.1  # what cutting otherwise would give


@pytest.mark.slow
def test_an_accuracy_of_batches_is_evaluated_too(double):
    params, batch = double
    loss = networks.whole_batch(nt_xent, SIZE, retrieved)
    outputs = apply(params, {}, batch[0], False)[0]
    _, accuracy = evaluation(NETWORK._replace(loss=loss))(params, {}, batch, core.budget())
    assert accuracy == over_batches(lambda part: retrieved(part, None), outputs)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "chunk_size"), [(SIZE, "whole"), (len(VIEWS), 1)])
def test_curvature_streams_a_batch_at_a_time(double, count, chunk_size):
    params, batch = double
    cut = jax.tree.map(lambda leaf: leaf[:count], batch)
    network, stacked = networks.in_batches(NETWORK, cut)
    assert stacked[0].shape == (count // SIZE, SIZE, 2, 3)
    loss = network.frozen_loss({})
    grad, hessian = dense(params, *cut)
    value, slope = jax.value_and_grad(loss)(params, stacked)
    np.testing.assert_allclose(
        value, over_batches(lambda v: reference(params, v), VIEWS[:count]), rtol=1e-12
    )
    np.testing.assert_allclose(ravel_pytree(slope)[0], grad, rtol=1e-9, atol=1e-12)
    matvec = curvature.hessian(loss, params, stacked, chunk_size=chunk_size)
    flat, unravel = ravel_pytree(params)
    column = lambda v: ravel_pytree(matvec(unravel(v)))[0]  # noqa: E731
    found = jax.jit(jax.vmap(column))(jnp.eye(len(flat)))
    np.testing.assert_allclose(found, hessian, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_statistics_are_recomputed_of_the_examples_in_batches():
    x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)

    def moments(params, stats, centers, inputs):
        shifted = inputs - centers["bn"]["mean"]
        return {"bn": {"mean": shifted.mean(0), "var": jnp.square(shifted).mean(0)}}

    network = networks.Network(init, apply, moments, LOSS)
    stats = {"bn": {"mean": jnp.zeros(2), "var": jnp.ones(2)}}
    batched, (stacked,) = networks.in_batches(network, (jnp.asarray(x),))
    found = networks.recompute_statistics(batched, {}, stats, stacked, chunk_size=1)["bn"]
    np.testing.assert_allclose(found["mean"], x[:18].mean(0), atol=1e-6)
    np.testing.assert_allclose(found["var"], x[:18].var(0), rtol=1e-5)


def test_other_losses_and_networks_of_batches_stay_as_they_are():
    plain = networks.Network(init, apply)
    batch = VIEWS, KINDS
    assert networks.in_batches(plain, batch) == (plain, batch)
    once = networks.in_batches(NETWORK, batch)
    twice = networks.in_batches(*once)
    assert twice[0] is once[0] and twice[1] is once[1]
    assert networks.whole_batch(nt_xent, SIZE) is LOSS


def test_a_network_that_equals_one_seen_before_stays_as_it_is():
    """A study has the user's network with its loss put in once more: equal, and another object."""
    first, batch = networks.Network(init, apply), (VIEWS, KINDS)
    again = first._replace(loss=networks.LOSSES["cross_entropy"])
    assert again == first and again is not first
    for network in (first, again):
        assert networks.in_batches(network, batch)[1] is batch
    once, _ = networks.in_batches(NETWORK, batch)
    equal = once._replace(loss=once.loss._replace())
    assert networks.in_batches(equal, batch)[1] is batch


@pytest.mark.slow
def test_without_batches_there_is_no_mean_over_examples():
    message = r"over whole batches of 6, and no mean over examples; take networks.in_batches"
    with pytest.raises(ValueError, match=message):
        NETWORK.frozen_loss({})
    params, _ = init(jax.random.key(0))

    def undivided(params, batch):
        return nt_xent(apply(params, {}, batch[0], False)[0], batch[1])

    with pytest.raises(ValueError, match="loss is no mean over examples"):
        curvature.hessian(undivided, params, (VIEWS, KINDS), chunk_size=SIZE)


@pytest.mark.parametrize("size", [1, 0, -3, 2.5, "6", None])
def test_a_batch_has_two_examples_or_more(size):
    with pytest.raises(ValueError, match="it must be a whole number from 2") as refused:
        networks.whole_batch(nt_xent, size)
    assert "\n" not in str(refused.value)


OUTPUTS = jax.ShapeDtypeStruct((16, 2, 2), np.float32)
UNFIT = {
    "over whole batches of 64 examples, and the data have 41": (nt_xent, 64, OUTPUTS),
    "returns shape (6,) for a batch; it must return one number": (
        *(lambda f, y: f.mean((1, 2)), SIZE, OUTPUTS),
    ),
    "returns shape (), () for a batch": (lambda f, y: (f.mean(), f.mean()), SIZE, OUTPUTS),
    "as floating point": (lambda f, y: jnp.argmax(f), SIZE, OUTPUTS),
    "outputs of shape (6,) and targets of shape (6,) do not fit the loss nt_xent": (
        *(nt_xent, SIZE, jax.ShapeDtypeStruct((16,), np.float32)),
    ),
}


@pytest.mark.parametrize("message", UNFIT)
def test_outputs_and_targets_that_do_not_fit_are_refused(message):
    fn, size, outputs = UNFIT[message]
    with pytest.raises(ValueError) as refused:
        check_fit(networks.whole_batch(fn, size), outputs, KINDS)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def squares(outputs, targets):
    return jnp.square(outputs).mean()


def alone(outputs, targets):
    """One number for each example, which are of all of them."""
    z = outputs.reshape(len(outputs), -1)
    return -jax.nn.log_softmax(z @ z.T).diagonal()


WRONG = {
    "declared over whole batches, and is a mean over examples": networks.whole_batch(squares, SIZE),
    "or declare it over whole batches: networks.whole_batch": nt_xent,
    "it must be a mean over examples: return one number for each, of that example alone": alone,
    "is a mean over": networks.whole_batch(lambda f, y: jnp.zeros(()), SIZE),
}


@pytest.mark.slow
@pytest.mark.parametrize("message", WRONG)
def test_a_loss_is_what_it_says_that_it_is(message):
    network = NETWORK._replace(loss=networks.losses.loss_of(WRONG[message]))
    with pytest.raises(ValueError) as refused:
        check_own(network, *init(jax.random.key(0)), VIEWS, KINDS)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.slow
def test_weights_do_not_make_a_loss_over_a_batch_one_of_examples():
    heavy = networks.by_weights(alone, lambda y: 1.0 + y)
    light = networks.by_weights(lambda f, y: jnp.square(f).sum((1, 2)), lambda y: 1.0 + y)
    at = init(jax.random.key(0))
    check_own(NETWORK._replace(loss=light), *at, VIEWS, KINDS)
    with pytest.raises(ValueError, match="it must be a mean over examples"):
        check_own(NETWORK._replace(loss=heavy), *at, VIEWS, KINDS)


def strict(outputs, targets):
    """A loss of batches of six alone."""
    return nt_xent(outputs, targets) + jnp.zeros(6) @ outputs[:, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("loss", [nt_xent, strict])
def test_a_loss_over_batches_is_taken_as_one(loss):
    check_own(
        NETWORK._replace(loss=networks.whole_batch(loss, SIZE)),
        *init(jax.random.key(0)),
        VIEWS,
        KINDS,
    )
