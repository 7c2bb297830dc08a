"""A mask for the ascent, real parameters alone, and which parameters are weights."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from factories import FACTORIES
from flax import nnx
from small_network import assert_close, grad_fn, network

from jaxsharp import data, networks
from jaxsharp.core import trees
from jaxsharp.optimizers import (
    SHARPNESS_AWARE,
    adaptive_ascent_step,
    ascent_step,
    sam,
    sam_gradient,
    weights_only,
)
from jaxsharp.optimizers.sharpness_aware.gsam import without_direction

OPTIONS = {"asam": {"adaptive": None}, "m_sam": {"m": 2}}
every_variant = pytest.mark.parametrize("name", SHARPNESS_AWARE)
MASK = {"w": True, "s": False}


def path_of(tx, params, grad, steps=7):
    """Parameters after each step; LookSAM's look and its steps in between are among them."""
    batch = network()[1]

    def step(carry, _):
        params, state = carry
        extra = {"grad_fn": lambda p, b=batch: grad(p, b), "batch": batch}
        updates, state = tx.update(grad(params, batch), state, params, **extra)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    run = lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps)[1]  # noqa: E731
    return jax.jit(run)(params)


@pytest.mark.slow
@every_variant
def test_with_a_mask_a_variant_is_itself_on_the_trainable_part_alone(name, x64):
    params, _ = network()
    wrap, options = SHARPNESS_AWARE[name], OPTIONS.get(name, {})
    alone = path_of(
        wrap(optax.sgd(0.1, momentum=0.5), 0.3, **options),
        {"w": params["w"]},
        lambda p, b: {"w": grad_fn(params | p, b)["w"]},
    )
    groups = {True: optax.sgd(0.1, momentum=0.5), False: optax.set_to_zero()}
    base = optax.multi_transform(groups, MASK)
    for mask in (MASK, lambda params: MASK):
        found = path_of(wrap(base, 0.3, mask=mask, **options), params, grad_fn)
        assert_close(found["w"], alone["w"])
        np.testing.assert_array_equal(found["s"], params["s"])
    unmasked = path_of(wrap(base, 0.3, **options), params, grad_fn)
    assert np.linalg.norm(unmasked["w"][-1] - alone["w"][-1]) > 1e-4


@every_variant
def test_what_the_mask_leaves_out_moves_along_its_gradient_at_the_perturbed_point(name, x64):
    params, batch = network()
    tx = SHARPNESS_AWARE[name](optax.sgd(1.0), 0.3, mask=MASK, **OPTIONS.get(name, {}))
    extra = {"grad_fn": lambda p, b=batch: grad_fn(p, b), "batch": batch}
    updates, _ = tx.update(grad_fn(params, batch), tx.init(params), params, **extra)
    if name in ("sam", "look_sam", "friendly_sam", "gsam"):
        clean = grad_fn(params, batch)["w"]
        point = params | {"w": params["w"] + 0.3 * clean / jnp.linalg.norm(clean)}
        assert_close(updates["s"], -grad_fn(point, batch)["s"])
    assert abs(updates["s"]) > 1e-3


@pytest.mark.slow
def test_a_mask_may_be_the_upper_part_and_the_pure_gradient_takes_it(x64):
    def value_and_grad(params):
        return jax.value_and_grad(lambda p: sum(jnp.sum(x**4) for x in jax.tree.leaves(p)))(params)

    params = {"body": {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}, "head": jnp.array(-1.0)}
    _, grads = sam_gradient(value_and_grad, 0.1, mask={"body": False, "head": True})(params)
    assert_close(grads["body"], value_and_grad(params)[1]["body"])
    np.testing.assert_allclose(grads["head"], 4 * (-1.1) ** 3, rtol=1e-12)


@every_variant
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"w": True}, "mask has the structure"),
        ({"w": 1.0, "s": True}, "mask holds 1.0; its leaves must be True or False"),
        ({"w": False, "s": False}, "at least one leaf must be True"),
        (lambda params: {"w": False, "s": False}, "at least one leaf must be True"),
    ],
)
def test_a_bad_mask_is_one_clear_line(name, mask, message):
    params, _ = network()
    with pytest.raises(ValueError, match=message) as error:
        SHARPNESS_AWARE[name](optax.sgd(0.1), mask=mask, **OPTIONS.get(name, {})).init(params)
    assert "\n" not in str(error.value)


@every_variant
def test_optax_masked_around_a_variant_is_one_clear_line(name):
    params, _ = network()
    tx = SHARPNESS_AWARE[name](optax.sgd(0.1), **OPTIONS.get(name, {}))
    for outer in (
        optax.masked(tx, MASK),
        optax.multi_transform({True: tx, False: optax.set_to_zero()}, MASK),
    ):
        with pytest.raises(ValueError, match="put it inside, around the base") as error:
            outer.init(params)
        assert "\n" not in str(error.value)


COMPLEX = {"w": jnp.array([3.0 + 4.0j, 1.0j]), "b": jnp.ones(2)}


@pytest.mark.parametrize("name", [*FACTORIES, *SHARPNESS_AWARE])
def test_complex_and_integer_parameters_are_refused_by_all(name):
    wrapped = name in SHARPNESS_AWARE
    tx = SHARPNESS_AWARE[name](optax.sgd(0.1)) if wrapped else FACTORIES[name]()
    for params, dtype in ((COMPLEX, "complex64"), ({"w": jnp.arange(3)}, "int32")):
        with pytest.raises(ValueError, match=f"hold {dtype}; they must be real") as error:
            tx.init(params)
        assert "\n" not in str(error.value)


def test_complex_gradients_are_refused_by_the_functions_without_a_state():
    steps = [lambda g: ascent_step(g, 0.1), lambda g: adaptive_ascent_step(g, g, 0.1)]
    for step in (*steps, lambda g: sam_gradient(lambda p: (0.0, p), 0.1)(g)):
        with pytest.raises(ValueError, match="hold complex64; they must be real"):
            step(COMPLEX)


def test_complex_parameters_that_the_mask_leaves_out_are_none_of_its_business():
    sam(optax.identity(), mask={"w": False, "b": True}).init(COMPLEX)


@pytest.mark.slow
def test_vectors_with_complex_entries(x64):
    """Against the real and imaginary parts as one longer vector."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape))  # noqa: E731
    v, u = ({"a": draw(2, 3), "b": draw(4)} for _ in range(2))
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])  # noqa: E731
    assert trees.norm(jnp.array([3 + 4j])) == 5 and not jnp.iscomplexobj(trees.norm(v))
    np.testing.assert_allclose(trees.norm(v), np.linalg.norm(flat(v)), rtol=1e-12)
    assert abs(trees.norm(trees.scaled_to_norm(v, 2.0)) - 2.0) < 1e-12
    left = without_direction(v, u)
    assert abs(np.vdot(flat(u), flat(left))) < 1e-12
    np.testing.assert_allclose(
        flat(v) - flat(left), np.vdot(flat(u), flat(v)) / trees.norm(u) ** 2 * flat(u), rtol=1e-12
    )
    unit = jax.tree.map(lambda x: x[None], trees.scaled_to_norm(u, 1.0))
    rest, coefficients = trees.without(unit, v)
    np.testing.assert_allclose(coefficients[0], np.vdot(flat(unit), flat(v)), rtol=1e-12)
    assert_close(rest, left)


MATRIX, ROW, NUMBER = jnp.ones((2, 3)), jnp.ones(3), jnp.ones(())
KNOWN = [
    ({"w1": MATRIX, "b1": ROW, "w": MATRIX}, {"w1": True, "b1": False, "w": True}),
    ({"W": MATRIX, "weights": ROW, "b": ROW}, {"W": True, "weights": True, "b": False}),
    ({"hidden_kernel": MATRIX, "kernel": MATRIX}, {"hidden_kernel": True, "kernel": True}),
    ({"W_q": MATRIX, "weight_ih": MATRIX, "bias_hh": ROW, "gate_b": ROW}, [True, True, False, 0]),
    ({"conv": jnp.ones((3, 3, 1, 4)), "outKernel": ROW, "attention": {"bias": MATRIX}}, None),
    ({"embedding": MATRIX, "pos_embedding": ROW, "scale": ROW, "offset": ROW}, None),
    ({"w": 1.0, "b": 2.0}, {"w": True, "b": False}),
]


@pytest.mark.parametrize(("params", "expected"), KNOWN)
def test_weights_are_known_by_name_and_rank(params, expected):
    found = weights_only(params)
    if expected is None:
        expected = jax.tree.map_with_path(
            lambda path, _: not jax.tree_util.keystr(path).endswith(("bias']", "offset']")), params
        )
    if isinstance(expected, list):
        assert [found[k] for k in params] == [bool(x) for x in expected]
    else:
        assert found == expected


@pytest.mark.parametrize(
    "odd", [{"theta": ROW}, {"s": NUMBER}, {"b": MATRIX}, {"log_scale": ROW}, {"weight_bias": ROW}]
)
def test_what_is_neither_a_weight_nor_a_bias_is_named(odd):
    """Of these, and of w1 and its like, ASAM was plain SAM without a word."""
    (name,) = odd
    for params in (odd, odd | {"kernel": MATRIX}):
        with pytest.raises(ValueError, match=f"neither .*'{name}'.* give a mask") as error:
            weights_only(params)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no parameter is a weight"):
        weights_only({"bias": ROW})


def test_weights_of_flax_and_equinox_models():
    modules = {
        "dense": nnx.Linear(2, 3, rngs=nnx.Rngs(0)),
        "norm": nnx.BatchNorm(3, rngs=nnx.Rngs(0)),
    }
    for name, module in modules.items():
        state = nnx.state(module, nnx.Param)
        weight = "kernel" if name == "dense" else "scale"
        found = nnx.to_pure_dict(weights_only(state))
        assert jax.tree.leaves(found) == jax.tree.leaves({"bias": False, weight: True})
    model = eqx.filter(eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0)), eqx.is_inexact_array)
    mask = weights_only(model)
    assert [(x.weight, x.bias) for x in mask.layers] == [(True, False)] * 2


@pytest.mark.parametrize("name", ["small_mlp", "mlp_1"])
def test_masks_of_the_packages_networks_are_those_of_their_names(name):
    network = networks.load(name, data.load("digits"))
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    params = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), params)
    last = lambda path, _: path[-1].key in ("kernel", "scale")  # noqa: E731
    assert weights_only(params) == jax.tree.map_with_path(last, params)
