"""Exponents of rescalings read off programs, and the refusal of networks that do not qualify."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.curvature import StructureError, analyze
from jaxsharp.curvature.structure import read
from jaxsharp.measures import chain_exponents
from tests.cases import make_case
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset


def example(network):
    return lambda params, stats, image: network.apply(params, stats, image[None], False)[0][0]


def same_span(a, b):
    rank = np.linalg.matrix_rank
    return rank(a) == rank(b) == rank(np.hstack([a, b]))


def scaled(tree, exponents, v):
    leaves, treedef = jax.tree.flatten(tree)
    factors = np.exp(exponents @ v)
    return jax.tree.unflatten(treedef, [leaf * f for leaf, f in zip(leaves, factors, strict=True)])


def test_chain_exponents_have_the_documented_rows():
    want = [[1, 0], [1, 0], [0, 1], [1, 1], [-1, -1], [0, 0]]
    np.testing.assert_array_equal(chain_exponents(3), want)
    np.testing.assert_array_equal(chain_exponents(3, biases=False), want[::2])
    assert chain_exponents(1).shape == (2, 0)


@pytest.mark.slow
def test_exponents_of_an_mlp_are_those_of_a_chain():
    network = mlp()
    params, stats = generic_point(network, dtype=jnp.float32)
    found = analyze(example(network), params, stats, tiny_dataset().train.images[0]).exponents
    bias_first = chain_exponents(3).reshape(3, 2, 2)[:, ::-1].reshape(6, 2)  # leaves: bias, kernel
    assert found.shape == (6, 2)
    assert same_span(found, bias_first)


@pytest.mark.slow
def test_batch_norm_is_a_layer_of_the_chain(x64):
    network, images = cnn(), tiny_dataset().train.images
    params, stats = generic_point(network)
    exponents = analyze(example(network), params, stats, images[0]).exponents
    assert exponents.shape == (12, 5)  # 2 conv + 2 norm + 2 dense layers
    v = np.random.default_rng(0).normal(size=5)
    moved = scaled(params, exponents, v)
    # A running mean scales like the bias of the convolution whose output it averages.
    factors = {
        f"norm{i}": (moved[f"conv{i}"]["bias"] / params[f"conv{i}"]["bias"])[0] for i in (1, 2)
    }
    means = {k: {**stats[k], "mean": stats[k]["mean"] * factors[k]} for k in stats}
    want, _ = network.apply(params, stats, images, False)
    np.testing.assert_allclose(network.apply(moved, means, images, False)[0], want, rtol=1e-9)
    assert np.abs(network.apply(moved, stats, images, False)[0] - want).max() > 1e-3


def test_a_skip_connection_ties_scales(x64):
    def apply(params, stats, x):
        hidden = x @ params["w0"]
        hidden = hidden + jax.nn.relu(hidden @ params["w1"]) @ params["w2"]
        return hidden @ params["w3"]

    rng = np.random.default_rng(0)
    shapes = {"w0": (4, 5), "w1": (5, 6), "w2": (6, 5), "w3": (5, 3)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    x = jnp.asarray(rng.normal(size=4))
    exponents = analyze(apply, params, {}, x).exponents
    # w1 against w2 inside of the block, w0 against w3 around it.
    assert same_span(exponents, np.array([[0, 1], [1, 0], [-1, 0], [0, -1]]))
    moved = scaled(params, exponents, np.array([0.3, -0.7]))
    np.testing.assert_allclose(apply(moved, {}, x), apply(params, {}, x), rtol=1e-12)


@pytest.mark.slow
def test_every_vector_outside_the_span_changes_the_function(x64):
    network, images = mlp(), tiny_dataset().train.images
    params, stats = generic_point(network)
    exponents = analyze(example(network), params, stats, images[0]).exponents
    want, _ = network.apply(params, stats, images, False)
    for direction in np.eye(6):
        outside = direction - exponents @ (exponents.T @ direction)
        if np.linalg.norm(outside) > 0.1:
            moved = scaled(params, outside[:, None], np.array([1.0]))
            assert np.abs(network.apply(moved, stats, images, False)[0] - want).max() > 1e-4


BAD = {
    "tanh": lambda p, s, x: jnp.tanh(x @ p["a"]) @ p["b"],
    "softplus": lambda p, s, x: jax.nn.softplus(x @ p["a"]) @ p["b"],
    "div": lambda p, s, x: (x @ p["a"]) / jnp.sum(p["b"]) @ p["b"],
    "weight sharing": lambda p, s, x: jax.nn.relu(x @ p["a"]) @ p["a"] @ p["b"],
    "product of activations": lambda p, s, x: (x @ p["a"]) * (x @ p["a"]) @ p["b"],
    "loop": lambda p, s, x: jax.lax.fori_loop(0, 2, lambda i, h: h @ p["a"], x) @ p["b"],
}


@pytest.mark.parametrize("name", BAD)
def test_networks_that_are_not_piecewise_linear_are_refused(name):
    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 3))}
    with pytest.raises(StructureError, match=r"parameter \['[ab]'\].*piecewise linear"):
        analyze(BAD[name], params, {}, jnp.ones(4))


def product_names(fn, params, stats, image):
    """Names of the parameters that enter nothing but one product."""
    structure = read(fn, params, stats, image)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    return {paths[p.leaf] for p in structure.products.values()}


@pytest.mark.slow
@pytest.mark.parametrize("lowering", ["patches", "conv"])
def test_kernels_of_a_network_enter_one_product_each(lowering):
    network, image = cnn(lowering), tiny_dataset().train.images[0]
    params, stats = generic_point(network, dtype=jnp.float32)
    kernels = {f"['{name}']['kernel']" for name in ("conv1", "conv2", "dense1", "dense2")}
    assert product_names(example(network), params, stats, image) == kernels


def test_a_parameter_that_is_used_twice_enters_no_product():
    def apply(params, stats, x):
        hidden = jnp.tanh(x @ params["a"].reshape(4, 4)) @ params["b"]
        return jax.lax.scan(lambda h, _: (h @ params["c"], None), hidden, None, 2)[0] @ params["b"]

    params = {"a": jnp.ones(16), "b": jnp.ones((4, 4)), "c": jnp.ones((4, 4))}
    assert product_names(apply, params, {}, jnp.ones(4)) == {"['a']"}
    assert product_names(lambda p, s, x: p["b"], params, {}, jnp.ones(4)) == set()

    def returned(params, stats, x):
        _ = x @ params["b"]
        return params["b"].reshape(-1)

    assert product_names(returned, params, {}, jnp.ones(4)) == set()


def test_an_equinox_network_has_the_exponents_of_its_chain():
    case = make_case("equinox")
    fn = lambda params, stats, x: case.apply(params, {"x": x[None]})[0]  # noqa: E731
    found = analyze(fn, case.params, {}, case.batch["x"][0]).exponents
    assert same_span(found, chain_exponents(3))


def test_leaky_relu_and_clipping_at_zero_keep_the_rescalings():
    def apply(params, stats, x):
        hidden = jax.nn.leaky_relu(x @ params["a"], 0.1)
        return jnp.where(hidden > 0, hidden, 2 * hidden) @ params["b"]

    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 3))}
    assert analyze(apply, params, {}, jnp.ones(4)).exponents.shape == (2, 1)


def test_a_threshold_that_is_not_zero_forbids_rescaling():
    def apply(params, stats, x):
        return jnp.minimum(jax.nn.relu(x @ params["a"]), 6.0) @ params["b"]

    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 3))}
    assert analyze(apply, params, {}, jnp.ones(4)).exponents.shape == (2, 0)


def test_a_statistic_inside_a_nonlinear_operation_keeps_its_scale():
    def apply(params, stats, x):
        normal = (x @ params["a"] - stats["mean"]) / jnp.sqrt(jnp.square(stats["mean"]) + 1)
        return jax.nn.relu(normal) @ params["b"]

    params, stats = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 3))}, {"mean": jnp.ones(4)}
    assert analyze(apply, params, stats, jnp.ones(4)).exponents.shape == (2, 0)


def test_parameters_that_are_a_single_array_have_a_name_in_messages():
    with pytest.raises(StructureError, match="parameter params: the network"):
        analyze(lambda p, s, x: jnp.tanh(x @ p), jnp.ones((3, 2)), {}, jnp.ones(3))
