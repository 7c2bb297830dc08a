"""Exact group traces against the diagonal of the dense Hessian, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp.exact import softmax_group_traces
from jaxsharp.losses import cross_entropy, frozen_loss
from jaxsharp.structure import StructureError
from tests.networks import cnn, generic_point, mlp, tiny_dataset
from tests.references import dot_precisions


def single(network):
    return lambda params, stats, image: network.apply(params, stats, image[None], False)[0][0]


def dense_traces(loss, params):
    flat, unflatten = ravel_pytree(params)
    hessian = jax.jit(jax.hessian(lambda flat: loss(unflatten(flat))))(flat)
    return jax.tree.map(jnp.sum, unflatten(jnp.diag(hessian)))


def assert_close(got, want, rtol=1e-11):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol), got, want)


@pytest.mark.parametrize(
    "network", [mlp(), cnn("patches"), cnn("conv")], ids=["mlp", "cnn", "conv"]
)
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_traces_are_those_of_the_dense_hessian(x64, network, chunk_size):
    batch = tiny_dataset(num=12).train
    params, stats = generic_point(network)
    got = softmax_group_traces(
        single(network), params, stats, jnp.asarray(batch.images), chunk_size=chunk_size
    )
    assert_close(got, dense_traces(lambda p: frozen_loss(network.apply, stats)(p, batch), params))


def two_heads(params, stats, x):
    """One weight, used twice side by side: linear, but no outer product per example."""
    return (x[:4] @ params["w"] + jax.nn.relu(x[4:] @ params["w"])) @ params["v"]


@jax.jit
def affine(x, w):
    return x @ w


def called_twice(params, stats, x):
    """Two layers through one jitted function, so that both share one inner program."""
    return affine(jax.nn.relu(affine(x, params["w"])), params["v"])


@pytest.mark.parametrize(("apply", "size"), [(two_heads, 8), (called_twice, 4)])
def test_shared_weights_and_shared_programs(x64, apply, size):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(4, 4))), "v": jnp.asarray(rng.normal(size=(4, 4)))}
    x, labels = jnp.asarray(rng.normal(size=(9, size))), rng.integers(0, 4, 9)
    got = softmax_group_traces(apply, params, {}, x)

    def loss(params):
        return cross_entropy(jax.vmap(lambda x: apply(params, {}, x))(x), labels)

    assert_close(got, dense_traces(loss, params))


def test_a_factor_on_a_layer_divides_its_trace_by_the_square(x64):
    network, images = mlp(), jnp.asarray(tiny_dataset().train.images)
    params, stats = generic_point(network)
    before = softmax_group_traces(single(network), params, stats, images)
    moved = dict(params)
    moved["dense1"] = jax.tree.map(lambda a: 2 * a, params["dense1"])
    moved["dense2"] = {"kernel": params["dense2"]["kernel"] / 2, "bias": params["dense2"]["bias"]}
    after = softmax_group_traces(single(network), moved, stats, images)
    np.testing.assert_allclose(after["dense1"]["kernel"], before["dense1"]["kernel"] / 4)
    np.testing.assert_allclose(after["dense2"]["kernel"], before["dense2"]["kernel"] * 4)
    np.testing.assert_allclose(after["dense3"]["kernel"], before["dense3"]["kernel"])


def test_tanh_is_refused_rather_than_given_a_wrong_number():
    """For tanh the diagonal blocks of Hessian and Gauss-Newton matrix differ."""

    def apply(params, stats, x):
        return jnp.tanh(x @ params["w"])

    with pytest.raises(StructureError, match="tanh"):
        softmax_group_traces(apply, {"w": jnp.ones((3, 3))}, {}, jnp.ones((2, 3)))


@pytest.mark.parametrize("lowering", ["patches", "conv"])
def test_every_matrix_product_runs_at_highest_precision(lowering):
    network, images = cnn(lowering), jnp.asarray(tiny_dataset().train.images)
    params, stats = generic_point(network, dtype=jnp.float32)
    traces = lambda params, images: softmax_group_traces(single(network), params, stats, images)  # noqa: E731
    with jax.default_matmul_precision("default"):
        precisions = dot_precisions(jax.make_jaxpr(traces)(params, images).jaxpr)
    assert len(precisions) >= 8
    assert set(precisions) == {(jax.lax.Precision.HIGHEST,) * 2}
