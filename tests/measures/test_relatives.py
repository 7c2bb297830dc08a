"""Quadratic forms of the parameters against dense matrices in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp import measures
from jaxsharp.core import Budget, budget
from jaxsharp.curvature import StructureError
from jaxsharp.measures import relative_flatness, relatives
from jaxsharp.networks import LOSSES, Network
from tests.references import dense_hessian, mean_over_examples
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset

LAYERS = {
    "mlp": ["dense1", "dense2", "dense3"],
    "cnn": ["conv1", "conv2", "dense1", "dense2"],
}
NETWORKS = {"mlp": mlp(), "cnn": cnn()}
SMALL = Budget(1, 1, 1, vmapped=False)  # an example at a time
pytestmark = pytest.mark.usefixtures("double_precision")


def setting(name):
    network = NETWORKS[name]
    return network, (*generic_point(network), tuple(tiny_dataset(num=9).train))


def taken(network, arguments, names=tuple(relatives.MEASURES), **options):
    return measures.measure(network, *arguments, names, key=jax.random.key(0), **options)


def block_flatness(hessian, params, layer):
    """sum_(s, s') <w_s, w_s'> tr H_(s, s'), by loops over the outputs of a layer."""
    marks = jax.tree.map(lambda leaf: np.full(leaf.shape, False), params)
    marks[layer] = {**marks[layer], "kernel": np.full(params[layer]["kernel"].shape, True)}
    inside = np.flatnonzero(ravel_pytree(marks)[0])
    weights = np.asarray(params[layer]["kernel"]).reshape(-1, params[layer]["kernel"].shape[-1])
    numbers = np.arange(weights.size).reshape(weights.shape)
    block = np.asarray(hessian)[np.ix_(inside, inside)]
    total = 0.0
    for s in range(weights.shape[1]):
        for t in range(weights.shape[1]):
            between = block[np.ix_(numbers[:, s], numbers[:, t])]
            total += weights[:, s] @ weights[:, t] * np.trace(between)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_values_are_those_of_dense_matrices(name):
    network, arguments = setting(name)
    params, stats, batch = arguments
    loss, theta = network.frozen_loss(stats), np.asarray(ravel_pytree(params)[0])
    gradient = jax.jit(jax.grad(loss))
    hessian = np.asarray(dense_hessian(loss, params, batch))
    flatness = [block_flatness(hessian, params, layer) for layer in LAYERS[name]]
    want = {
        "fisher_rao_norm": mean_over_examples(
            lambda one: (theta @ np.asarray(ravel_pytree(gradient(params, one))[0])) ** 2, batch
        ),
        "frn": theta @ hessian @ theta,
        "relative_flatness": flatness[-1],
        "relative_flatness_sum": sum(flatness),
    }
    np.testing.assert_allclose(relative_flatness(network, *arguments), flatness, rtol=1e-9)
    for memory in (budget(), SMALL)[: 1 + (name == "cnn")]:
        for key, record in taken(network, arguments, memory=memory).items():
            np.testing.assert_allclose(record.value, want[key], rtol=1e-9, err_msg=key)
            assert record.finished and record.exact
            assert (record.examples, record.directions) == (9, 0)


def homogeneous(params, stats, x, train):
    for w in params[:-1]:
        x = jax.nn.relu(x @ w)
    return x @ params[-1], stats


@pytest.mark.slow
def test_of_a_homogeneous_network_the_fisher_rao_norm_is_that_of_the_paper():
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=shape)) for shape in ((4, 5), (5, 6), (6, 3))]
    x, y = rng.normal(size=(17, 4)), rng.integers(0, 3, 17)
    network = Network(lambda key: (params, {}), homogeneous)
    outputs = homogeneous(params, {}, x, False)[0]
    p = jax.nn.softmax(outputs)
    want = 3**2 * np.mean((np.sum(p * outputs, 1) - outputs[np.arange(17), y]) ** 2)
    of = jax.jit(lambda p: relatives.fisher_rao_norm(network, p, {}, (x, jnp.asarray(y)), budget()))
    found, _ = of(params)
    np.testing.assert_allclose(found, want, rtol=1e-12)


@pytest.mark.slow
def test_relatives_of_another_loss():
    network, (params, stats, (images, _)) = setting("mlp")
    targets = np.random.default_rng(0).random((9, 3))
    network, batch = network._replace(loss=LOSSES["binary_cross_entropy"]), (images, targets)
    of_loss, theta = network.frozen_loss(stats), ravel_pytree(params)[0]
    hessian = dense_hessian(of_loss, params, batch)
    gradient = jax.jit(jax.grad(of_loss))
    slopes = [
        theta @ ravel_pytree(gradient(params, (images[i : i + 1], targets[i : i + 1])))[0]
        for i in range(9)
    ]
    want = {
        "fisher_rao_norm": np.mean(np.square(slopes)),
        "frn": theta @ hessian @ theta,
        "relative_flatness": block_flatness(hessian, params, "dense3"),
        "relative_flatness_sum": sum(block_flatness(hessian, params, n) for n in LAYERS["mlp"]),
    }
    for key, record in taken(network, (params, stats, batch)).items():
        np.testing.assert_allclose(record.value, want[key], rtol=1e-9, err_msg=key)


def smooth(params, stats, x, train):
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"], stats


@pytest.mark.slow
def test_the_last_layer_alone_may_follow_what_is_not_piecewise_linear():
    rng = np.random.default_rng(1)
    params = {
        n: jnp.asarray(rng.normal(size=s)) for n, s in dict(w1=(4, 5), b1=5, w2=(5, 3)).items()
    }
    network, batch = Network(None, smooth), (rng.normal(size=(7, 4)), rng.integers(0, 3, 7))
    hessian = dense_hessian(network.frozen_loss({}), params, batch)
    nested = {"last": {"kernel": params["w2"]}}
    block = hessian[-15:, -15:]
    found = relatives.flatness_of_last(network, params, {}, jnp.asarray(batch[0]), budget())
    np.testing.assert_allclose(found, block_flatness(block, nested, "last"), rtol=1e-10)
    with pytest.raises(StructureError, match=r"tanh.*not piecewise linear"):
        relative_flatness(network, params, {}, batch)


def shared(params, stats, x, train):
    return jax.nn.relu(x @ params["w"]) @ params["w"], stats


@pytest.mark.slow
def test_what_has_no_flatness_is_refused_in_a_line():
    params, batch = {"w": jnp.eye(3)}, (np.ones((5, 3)), np.zeros(5, int))
    with pytest.warns(UserWarning, match=r"parameter \['w'\] does not enter one matrix product"):
        found = taken(Network(None, shared), (params, {}, batch), ["relative_flatness", "frn"])
    assert np.isnan(found["relative_flatness"].value) and found["frn"].finished
    own = Network(None, homogeneous)._replace(
        loss=measures.catalogue.loss_of(lambda f, y: f.sum(1))
    )
    with pytest.raises(ValueError, match=r"second derivatives of loss <lambda> are not known"):
        relative_flatness(own, [jnp.eye(3)], {}, batch)
    vectors = Network(None, lambda p, s, x, train: (x * p["scale"], s))
    with pytest.raises(StructureError, match="no parameter enters a matrix product"):
        relative_flatness(vectors, {"scale": jnp.ones(3)}, {}, batch)


@pytest.mark.slow
def test_the_error_holds_the_rounding_of_single_precision():
    """At confident outputs too, whose probabilities round."""
    network, (params, stats, batch) = setting("cnn")
    for scale in (1.0, 8.0):
        params = {**params, "dense2": jax.tree.map(lambda a, c=scale: c * a, params["dense2"])}
        double = taken(network, (params, stats, batch))
        with jax.enable_x64(False):
            single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, stats))
            single = taken(network, (*single, batch))
        for name, record in single.items():
            off = abs(record.value - double[name].value)
            assert off <= record.error <= 3e-3 * abs(record.value), (name, off, record)
