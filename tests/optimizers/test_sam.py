"""SAM: closed form, rho = 0, what belongs to the clean pass and what to the perturbed one."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_optimizers
import optax
import pytest
from quadratic import flatten, grad, initial_params, run

from jaxsharp.optimizers import sam, sam_gradient


def value_and_grad(params, batch):
    """A loss without symmetry, its parameters as auxiliary output."""

    def loss(params):
        prediction = jnp.tanh(batch @ params["w"]) * params["s"]
        return jnp.mean((prediction - 1.0) ** 2), params

    return jax.value_and_grad(loss, has_aux=True)(params)


def network(dtype=float):
    batch = jax.random.normal(jax.random.key(0), (5, 3), dtype)
    return {"w": jnp.array([0.3, -0.2, 0.5], dtype), "s": jnp.array(0.7, dtype)}, batch


def test_gradient_is_that_of_the_perturbed_quadratic():
    with jax.enable_x64(True):
        curvature, center = jnp.array([1.0, 10.0, 100.0]), jnp.array([1.0, 2.0, 3.0])

        def quadratic(x):
            return jnp.sum(curvature * (x - center) ** 2) / 2

        x = jnp.array([0.5, 2.5, 2.0])
        loss, found = sam_gradient(jax.value_and_grad(quadratic), 0.3)(x)
        g = curvature * (x - center)
        expected = g + 0.3 * curvature * g / np.linalg.norm(g)
        np.testing.assert_allclose(found, expected, rtol=1e-14)
        assert loss == quadratic(x)


def test_loss_and_aux_are_those_of_the_clean_pass():
    """BatchNorm statistics come with the loss (pitfall 27)."""
    params, batch = network()
    (clean_loss, _), clean_grads = value_and_grad(params, batch)
    (loss, aux), grads = sam_gradient(value_and_grad, 0.5)(params, batch)
    assert loss == clean_loss
    jax.tree.map(np.testing.assert_array_equal, aux, params)
    assert np.all(np.abs(grads["w"] - clean_grads["w"]) > 1e-3)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("zero", [0.0, np.float32(0.0), 0])
def test_rho_zero_is_the_base_gradient_bit_by_bit(zero, compiled):
    def with_sam(rho, params, batch):
        return sam_gradient(value_and_grad, rho)(params, batch)

    base = jax.jit(value_and_grad) if compiled else value_and_grad
    found = (jax.jit(with_sam) if compiled else with_sam)(zero, *network())
    jax.tree.map(np.testing.assert_array_equal, found, base(*network()))


@pytest.mark.slow
def test_vmap_over_rho_equals_serial():
    with jax.enable_x64(True):
        params, batch = network()
        rhos = [0.0, 0.05, 0.5]
        together = jax.vmap(lambda rho: sam_gradient(value_and_grad, rho)(params, batch)[1])(
            jnp.array(rhos)
        )
        for i, rho in enumerate(rhos):
            alone = sam_gradient(value_and_grad, rho)(params, batch)[1]
            np.testing.assert_allclose(together["w"][i], alone["w"], rtol=1e-13)
        assert not np.allclose(together["w"][1], together["w"][2], rtol=1e-3)


def test_zero_gradient_takes_the_gradient_where_it_is():
    def both(params):
        return sam_gradient(jax.value_and_grad(lambda x: jnp.sum(x**2)), 0.1)(params)

    _, grads = jax.jit(both)(jnp.zeros(3))
    np.testing.assert_array_equal(grads, 0.0)
    _, members = jax.jit(jax.vmap(both))(jnp.array([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]]))
    np.testing.assert_allclose(members, [[0.0, 0.0, 0.0], [6.12, 0.0, 8.16]], rtol=1e-6)


def test_diverged_gradient_is_passed_on_unchanged():
    bad = jnp.array([jnp.inf, 1.0, jnp.nan])
    _, grads = sam_gradient(lambda params: (0.0, bad + 0 * params), 0.1)(jnp.ones(3))
    np.testing.assert_array_equal(grads, bad)


def test_network_is_called_with_parameters_of_its_own_dtype():
    seen = []

    def spy(params):
        seen.append(params.dtype)
        return 0.0, params.astype(jnp.float32)

    jax.jit(lambda rho: sam_gradient(spy, rho)(jnp.ones(3, jnp.bfloat16)))(jnp.float32(0.1))
    assert seen == [jnp.bfloat16, jnp.bfloat16]


def test_momentum_clipping_and_weight_decay_act_on_the_sam_gradient_at_clean_weights():
    """None of them sees the perturbed weights (pitfall 30)."""
    lr, momentum, decay, clip = 0.05, 0.7, 0.3, 2.0
    sharpness_aware = numpy_optimizers.sam_grad(numpy_optimizers.quadratic_grad, 0.5)
    x = numpy_optimizers.flatten(numpy_optimizers.initial_params())
    buf, expected = np.zeros_like(x), [x]
    for _ in range(100):
        g = numpy_optimizers.flatten(sharpness_aware(numpy_optimizers.unflatten(x)))
        g = g * min(1.0, clip / np.linalg.norm(g))
        buf = momentum * buf + g
        x = x - lr * (buf + decay * x)
        expected.append(x)
    with jax.enable_x64(True):
        base = optax.chain(
            optax.clip_by_global_norm(clip),
            optax.trace(momentum),
            optax.add_decayed_weights(decay),
            optax.scale(-lr),
        )
        found = flatten(run(sam(base, 0.5), initial_params(), 100))
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


def test_schedules_count_updates():
    def rho(t):
        return 0.1 * (t + 1)

    def lr(t):
        return 0.1 / (t + 1)

    params, expected = numpy_optimizers.initial_params(), []
    for t in range(10):
        g = numpy_optimizers.sam_grad(numpy_optimizers.quadratic_grad, rho(t))(params)
        params = {name: params[name] - lr(t) * g[name] for name in params}
        expected.append(numpy_optimizers.flatten(params))
    with jax.enable_x64(True):
        found = flatten(run(sam(optax.sgd(lr), rho), initial_params(), 10))
        np.testing.assert_allclose(found[1:], expected, rtol=1e-10)


def test_clipping_before_sam_changes_the_direction_of_the_ascent_alone():
    tx = optax.chain(optax.clip(0.5), sam(optax.identity(), 0.1))
    x = jnp.array([3.0, 4.0])
    updates, _ = tx.update(2 * x, tx.init(x), x, grad_fn=lambda x: 2 * x)
    np.testing.assert_allclose(updates, 2 * (x + 0.1 / np.sqrt(2)), rtol=1e-6)


def test_extra_arguments_reach_the_base():
    def update(grads, state, params=None, *, factor, **extra_args):
        return jax.tree.map(lambda g: factor * g, grads), state

    base = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = sam(base, 0.0)
    x = jnp.array([1.0])
    updates, _ = tx.update(x, tx.init(x), x, grad_fn=lambda x: 2 * x, factor=3.0)
    np.testing.assert_array_equal(updates, [6.0])


def test_rho_defaults_to_that_of_the_study():
    x = jnp.array([3.0, 4.0])
    tx = sam(optax.identity())
    updates, _ = tx.update(x, tx.init(x), x, grad_fn=lambda x: x)
    np.testing.assert_allclose(updates, [3.03, 4.04], rtol=1e-6)


@pytest.mark.parametrize("missing", ["params", "grad_fn"])
def test_missing_params_or_grad_fn_is_named(missing):
    x = jnp.ones(2)
    given = {"params": x, "grad_fn": grad}
    given[missing] = None
    tx = sam(optax.identity())
    with pytest.raises(ValueError, match=rf"{missing} is None; .* update\(") as error:
        tx.update(x, tx.init(x), given["params"], grad_fn=given["grad_fn"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "make", [lambda rho: sam(optax.sgd(0.1), rho), lambda rho: sam_gradient(value_and_grad, rho)]
)
def test_negative_rho_is_an_error(make):
    with pytest.raises(ValueError, match=r"rho must be a finite number >= 0.*got -0.1"):
        make(-0.1)


def test_base_that_is_no_gradient_transformation_is_an_error():
    with pytest.raises(TypeError, match="base"):
        sam(optax.sgd, 0.1)
