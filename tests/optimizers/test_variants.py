"""What is particular to single sharpness-aware variants, and their bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quadratic import grad, initial_params
from small_network import assert_close, grad_fn, network, value_and_grad

from jaxsharp.optimizers import (
    SHARPNESS_AWARE,
    adaptive_ascent_step,
    look_sam,
    momentum_sam,
    sam_gradient,
    weights_only,
)
from jaxsharp.optimizers.sharpness_aware.looksam import look_sam_rule
from jaxsharp.optimizers.sharpness_aware.rule import sharp_gradient
from jaxsharp.optimizers.sharpness_aware.sam import multi_step_rule, sam_rule

OPTIONS = {"asam": {"adaptive": None}, "m_sam": {"m": 2}}


@pytest.mark.slow
def test_adaptive_step_is_the_best_point_of_its_ellipsoid(x64):
    params = {"kernel": jnp.array([[3.0, -0.5]]), "bias": jnp.array(0.2)}
    grads = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array(4.0)}
    sizes = {"kernel": np.array([[3.1, 0.6]]), "bias": np.array(1.0)}
    step = adaptive_ascent_step(grads, params, 0.5, eta=0.1, adaptive=weights_only)
    scaled = jax.tree.map(lambda t, g: t * g, sizes, grads)
    length = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(scaled)))
    assert_close(step, jax.tree.map(lambda t, x: 0.5 * t * x / length, sizes, scaled))
    rise = optax.tree.vdot(grads, step)
    rng = np.random.default_rng(0)
    for _ in range(50):
        point = jax.tree.map(lambda t: rng.normal(size=t.shape), sizes)
        size = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(point)))
        other = jax.tree.map(lambda t, x, n=size: 0.5 * t * x / n, sizes, point)
        assert optax.tree.vdot(grads, other) < rise
    everywhere = adaptive_ascent_step(grads, params, 0.5, eta=0.1)
    assert abs(everywhere["bias"] - step["bias"]) > 0.1


def test_adaptive_step_is_invariant_to_rescaling_as_the_ascent_step_is_not(x64):
    params, grads = jnp.array([2.0, -1.0]), jnp.array([0.3, 0.7])
    scale = jnp.array([10.0, 0.1])
    step = adaptive_ascent_step(grads, params, 0.5, eta=1e-12)
    rescaled = adaptive_ascent_step(grads / scale, params * scale, 0.5, eta=1e-12)
    np.testing.assert_allclose(rescaled, scale * step, rtol=1e-9)


def test_weights_are_known_by_the_last_name_of_their_path():
    params = {
        "dense": {"kernel": 1.0, "bias": 2.0},
        "norm": {"scale": 3.0, "bias": 4.0},
        "weight": [5.0, 6.0],
    }
    expected = {
        "dense": {"kernel": True, "bias": False},
        "norm": {"scale": True, "bias": False},
        "weight": [True, True],
    }
    assert weights_only(params) == expected


def test_look_sam_takes_the_second_gradient_every_few_steps():
    calls = []
    tx = look_sam(optax.sgd(0.1), 0.05, every=4)

    def counted(params):
        jax.debug.callback(lambda: calls.append(1), ordered=True)
        return grad(params)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grad(params), state, params, grad_fn=counted)
        return (optax.apply_updates(params, updates), state), None

    params = initial_params()
    jax.block_until_ready(
        jax.jit(lambda c: jax.lax.scan(step, c, length=10))((params, tx.init(params)))
    )
    jax.effects_barrier()
    assert len(calls) == 3


def test_look_sam_keeps_the_length_of_the_gradient_and_ignores_a_direction_that_is_rounding(x64):
    rule = look_sam_rule(0.1, every=2, alpha=0.7)
    curvature = jnp.array([1.0, 4.0])
    params = jnp.array([1.0, 1.0])
    memory = rule.init(params)
    _, memory = rule.gradient(lambda x: curvature * x, curvature * params, params, memory, 0)
    g = jnp.array([3.0, -1.0])
    sharp, _ = rule.gradient(lambda x: x, g, params, memory, 1)
    np.testing.assert_allclose(jnp.linalg.norm(sharp - g), 0.7 * jnp.linalg.norm(g), rtol=1e-12)
    assert abs(jnp.dot(sharp - g, curvature * params)) < 1e-12  # across the gradient of step 0
    # Where the Hessian maps the gradient to its multiple there is no direction across.
    _, memory = rule.gradient(lambda x: 3.0 * x, 3.0 * params, params, rule.init(params), 0)
    np.testing.assert_array_equal(memory, 0.0)


@pytest.mark.slow
def test_momentum_sam_takes_one_gradient_of_its_own_and_none_of_the_clean_one():
    calls = []

    def counted(params):
        calls.append(1)
        return grad(params)

    tx = momentum_sam(optax.sgd(0.1))
    params = initial_params()
    nan = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
    updates, _ = tx.update(nan, tx.init(params), params, grad_fn=counted)
    assert len(calls) == 1
    expected = jax.tree.map(lambda g: -0.1 * g, grad(params))  # no momentum yet: the base's step
    assert_close(updates, expected, rtol=1e-6)


def test_multi_step_sam_with_one_step_is_sam_and_stays_within_rho(x64):
    params, batch = network()
    points = []

    def spy(params, batch):
        points.append(params)
        return value_and_grad(params, batch)

    for num_steps in (1, 2, 5):
        points.clear()
        _, gradient = sharp_gradient(spy, multi_step_rule(0.3, num_steps=num_steps))
        _, grads, _ = gradient(params, (), 0, batch)
        assert len(points) == num_steps + 1
        distance = optax.tree.norm(optax.tree.sub(points[-1], params))
        assert 0.29 < distance <= 0.3 * (1 + 1e-12)
        if num_steps == 1:
            assert_close(grads, sam_gradient(value_and_grad, 0.3)(params, batch)[1])


@pytest.mark.parametrize("name", SHARPNESS_AWARE)
def test_bad_input_is_one_clear_line(name):
    wrap = SHARPNESS_AWARE[name]
    with pytest.raises(ValueError, match=r"rho must be a finite number >= 0.*got -0.1"):
        wrap(optax.sgd(0.1), -0.1)
    with pytest.raises(TypeError, match="base"):
        wrap(optax.sgd, 0.1)
    tx = wrap(optax.sgd(0.1), **OPTIONS.get(name, {}))
    x = {"w": jnp.ones(4)}
    with pytest.raises(
        ValueError, match=r"^grad_fn is None; .*update\(grads, state, params, grad_f"
    ):
        tx.update(x, tx.init(x), x)


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("m_sam", "m", 0),
        ("multi_step_sam", "num_steps", 0),
        ("look_sam", "every", 0),
        ("gsam", "alpha", -0.1),
        ("look_sam", "alpha", -0.1),
        ("asam", "eta", 0.0),
        ("friendly_sam", "sigma", -1.0),
        ("friendly_sam", "decay", 1.0),
        ("momentum_sam", "decay", 1.0),
    ],
)
def test_bad_options_are_named(name, argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be .*got {value}"):
        SHARPNESS_AWARE[name](optax.sgd(0.1), **{argument: value})


def test_m_sam_names_what_does_not_fit():
    params, batch = network()
    tx = SHARPNESS_AWARE["m_sam"](optax.sgd(0.1), m=4)
    with pytest.raises(ValueError, match="m is 4; it must divide the 6 examples of the batch"):
        tx.update(params, tx.init(params), params, grad_fn=grad_fn, batch=batch)
    with pytest.raises(ValueError, match=r"batch is None; .*grad_fn=grad_fn, batch=batch"):
        tx.update(params, tx.init(params), params, grad_fn=grad_fn)
    with pytest.raises(ValueError, match="per_group"):
        sharp_gradient(value_and_grad, sam_rule(0.1)._replace(takes_batch=True))
