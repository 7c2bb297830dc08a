"""What users give beside plain arrays: keys in losses, modules, tokens, and JAX's own switches."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp import curvature, measures, networks

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(12, 4)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, 3, 12))
PARAMS = {"w": jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)}
KEY = jax.random.key(7)


def masked(x):
    """A fixed mask, drawn from a typed key that the caller closes over."""
    return x * jax.random.bernoulli(KEY, 0.5, (4,)).astype(x.dtype)


def loss(params, batch):
    return networks.cross_entropy(masked(batch[0]) @ params["w"], batch[1])


@pytest.mark.slow
def test_a_typed_key_in_a_loss_is_a_constant():
    plain = X * np.asarray(jax.random.bernoulli(KEY, 0.5, (4,)))
    want = curvature.hessian(
        lambda p, b: networks.cross_entropy(b[0] @ p["w"], b[1]), PARAMS, (plain, Y)
    )(PARAMS)
    found = curvature.hessian(loss, PARAMS, (X, Y), chunk_size=5)(PARAMS)
    np.testing.assert_allclose(found["w"], want["w"], rtol=1e-5, atol=1e-7)


def test_a_typed_key_in_a_network_leaves_its_rescalings_to_be_read():
    def apply(params, stats, x, train):
        return jax.nn.relu(masked(x) @ params["a"]) @ params["b"], stats

    network = networks.Network(lambda key: None, apply)
    params = {"a": PARAMS["w"], "b": jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32)}
    found = measures.minimum_sharpness(network, params, {}, (X, Y))
    scaled = {"a": 4 * params["a"], "b": params["b"] / 4}
    again = measures.minimum_sharpness(network, scaled, {}, (X, Y))
    np.testing.assert_allclose(again.value, found.value, rtol=1e-5)


def test_a_module_and_texts_are_no_parameters_and_no_vectors():
    model = eqx.nn.MLP(4, 3, 5, 1, key=KEY)
    outputs = lambda m, b: jax.vmap(m)(b[0])  # noqa: E731
    with pytest.raises(ValueError, match=r"no array of numbers; of a module take.*partition"):
        curvature.hessian(lambda m, b: outputs(m, b).sum(), model, (X, Y))
    with pytest.raises(ValueError, match=r"like.* no array of numbers"):
        curvature.hutchinson(lambda v: v, model, key=KEY, rtol=0.1)
    with pytest.raises(ValueError, match=r"batch\[0\]\[0\] is str, no array of numbers"):
        curvature.hessian(loss, PARAMS, (["a", "b"], Y))


def test_a_vector_of_another_structure_is_refused():
    matvec = curvature.hessian(loss, PARAMS, (X, Y))
    with pytest.raises(ValueError, match="vector has the structure"):
        matvec({"v": PARAMS["w"]})


def test_rows_of_tokens_are_no_categorical_output():
    apply = lambda p, b: jnp.stack([b[0] @ p["w"]] * 2, axis=1)  # noqa: E731
    with pytest.raises(ValueError, match=r"shape \(2, 3\); categorical takes \(classes,\)"):
        curvature.fisher(apply, curvature.categorical, PARAMS, (X, Y))(PARAMS)


@pytest.mark.slow
@pytest.mark.parametrize("switch", ["jax_numpy_dtype_promotion", "jax_debug_nans"])
def test_numbers_are_the_same_under_a_switch_of_jax(switch):
    def numbers():
        matvec = curvature.hessian(loss, PARAMS, (X, Y), chunk_size=5)
        top = curvature.top_eigenpairs(matvec, PARAMS, k=1, key=KEY, tol=1e-4)
        trace = curvature.hutchinson(matvec, PARAMS, key=KEY, rtol=0.3)
        network = networks.Network(lambda key: None, lambda p, s, x, train: (masked(x) @ p["w"], s))
        rise = measures.random_perturbation(network, PARAMS, {}, (X, Y), key=KEY)
        return float(top.values[0]), float(trace.mean), rise.value

    usual = numbers()
    before = getattr(jax.config, switch)
    jax.config.update(switch, "strict" if switch.endswith("promotion") else True)
    try:
        np.testing.assert_allclose(numbers(), usual, rtol=1e-6)
    finally:
        jax.config.update(switch, before)
