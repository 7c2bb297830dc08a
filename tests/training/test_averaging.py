"""Averaged parameters against a plain loop, and their statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsharp import networks
from jaxsharp.networks import Network
from jaxsharp.networks.network import recompute_statistics
from jaxsharp.training import Averaging
from jaxsharp.training.averages import check_averaging
from jaxsharp.training.epochs import epoch_program
from tests.tinynets import cnn, tiny_dataset
from tests.training.test_epochs import data_of, member, recipe_of, start

EPOCHS = 4
IMAGES = tiny_dataset().train.images


def trajectory(recipe, epochs=EPOCHS):
    """The states after each epoch of one member."""
    states, hyper, order = start(recipe, [{"learning_rate": 0.05}], [3])
    program, data = epoch_program(recipe), data_of(tiny_dataset())
    found = [member(states, 0)]
    for _ in range(epochs):
        states, _ = program(states, hyper, order, data)
        found.append(member(states, 0))
    return found


def leaves(tree):
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def plain():
    # One step an epoch, so that the ends of epochs are all there is to average.
    return trajectory(recipe_of(cnn(), epochs=EPOCHS, batch_size=23))


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_the_average_is_that_of_a_plain_loop(plain, kind, after):
    averaging = Averaging(kind, 0.7, after)
    recipe = recipe_of(cnn(), epochs=EPOCHS, batch_size=23)._replace(averaging=averaging)
    found = trajectory(recipe)
    ends = [leaves(state.params) for state in plain]
    want = ends[0]
    for epoch in range(1, EPOCHS + 1):
        if kind == "swa":
            counted = ends[after + 1 : epoch + 1] or [ends[epoch]]
            want = [np.mean(each, 0) for each in zip(*counted, strict=True)]
        elif epoch <= after + 1:
            want = ends[epoch]
        else:
            want = [0.7 * a + 0.3 * t for a, t in zip(want, ends[epoch], strict=True)]
        for a, b in zip(leaves(found[epoch].params), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for a, b in zip(leaves(found[-1].iterate[0]), ends[-1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # training does not see it


@pytest.mark.slow
def test_an_exponential_average_takes_every_step():
    """Of two steps with decay 0 the last counts, with a decay near 1 the first."""
    ends = {}
    for decay in (0.0, 1 - 1e-7, 0.5):
        recipe = recipe_of(cnn(), batch_size=11)._replace(averaging=Averaging("ema", decay))
        state = trajectory(recipe, 1)[-1]
        ends[decay] = leaves(state.params)
        if decay == 0:
            for a, b in zip(ends[0.0], leaves(state.iterate[0]), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(*list(ends.values())[:2], strict=True))
    for last, first, half in zip(*ends.values(), strict=True):
        np.testing.assert_allclose(half, (first + last) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_average_has_statistics_and_metrics_of_its_own():
    network, dataset = cnn(), tiny_dataset()
    recipe = recipe_of(network)._replace(averaging=Averaging("swa"))
    states, hyper, order = start(recipe, [{"learning_rate": 0.05}], [3])
    program, data = epoch_program(recipe), data_of(dataset)
    for _ in range(2):
        states, metrics = program(states, hyper, order, data)
    state = member(states, 0)
    images, labels = dataset.train
    want = recompute_statistics(network, state.params, state.iterate[1], images)
    for a, b in zip(leaves(state.stats), leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    loss = network.frozen_loss(want)(state.params, (images, labels))
    np.testing.assert_allclose(metrics.train_loss[0], loss, rtol=1e-4)
    assert not np.allclose(
        network.frozen_loss(state.iterate[1])(state.params, (images, labels)), loss
    )


@pytest.mark.slow
def test_no_run_converges_before_its_average_begins():
    recipe = recipe_of(cnn(), epochs=EPOCHS, loss_below=1e9)
    found = trajectory(recipe._replace(averaging=Averaging("swa", after=2)))
    assert [bool(state.converged) for state in found] == [False, False, False, True, True]


def test_statistics_that_cannot_be_made_anew_are_refused():
    network = cnn()
    bare = Network(network.init, network.apply)
    with pytest.raises(ValueError, match=r"^average is ema; it must be none for"):
        check_averaging(Averaging("ema"), bare, IMAGES)
    check_averaging(Averaging(), bare, IMAGES)
    check_averaging(Averaging("ema"), network, IMAGES)


class Twice(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.norm(x)).mean((1, 2))


class Spectral(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.SpectralNorm(nnx.Linear(72, 3, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.norm(x.reshape(len(x), -1), update_stats=False)


@pytest.mark.parametrize(
    ("module", "says"), [(Twice, "a BatchNorm layer is applied twice"), (Spectral, "SpectralNorm")]
)
def test_layers_whose_statistics_cannot_be_made_anew_are_refused_before_training(module, says):
    """Also those of which a network finds that out when it is called."""
    network = networks.from_nnx(module)
    with pytest.raises(ValueError, match=f"^average is swa; it must be none: statistics.*{says}"):
        check_averaging(Averaging("swa"), network, IMAGES)
    check_averaging(Averaging(), network, IMAGES)


@pytest.mark.parametrize("kind", ["ema", "swa"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_averages_of_narrow_parameters_are_refused(kind, dtype):
    """After t, an average with a decay of 0.999 in bfloat16 is a <- a + 0.001 t, or a again."""

    def init(key):
        params, stats = cnn().init(key)
        first, *rest = jax.tree.leaves(params)
        leaves = [first.astype(dtype), *rest]
        return jax.tree.unflatten(jax.tree.structure(params), leaves), stats

    narrow = cnn()._replace(init=init)
    said = f"^average is {kind}; it must be none for parameters in {jnp.dtype(dtype).name}, which"
    with pytest.raises(ValueError, match=said):
        check_averaging(Averaging(kind), narrow, IMAGES)
    check_averaging(Averaging(), narrow, IMAGES)
