"""Weight decay: coupled and decoupled, its mask, its schedule, and when there is none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_optimizers
import optax
import pytest
from factories import (
    DEFAULTS,
    FACTORIES,
    assert_near,
    assert_same,
    make,
    rate_of,
    walk,
    with_schedule,
)
from quadratic import flatten, grad, gradient_sequence, initial_params

from jaxsharp.optimizers import sam, weights_only

MASK = {"weight": True, "bias": False, "scale": True}
every_optimizer = pytest.mark.parametrize("name", FACTORIES)
both_decays = pytest.mark.parametrize("decay", ["weight_decay", "decoupled_weight_decay"])


def decayed_by_hand(tx, decay, rate, params, steps):
    """Stacked parameters with -rate(t) * decay * params added to the updates of `tx`."""

    def step(carry, t):
        params, state = carry
        updates, state = tx.update(grad(params), state, params)
        updates = {k: u - MASK[k] * decay * rate(t) * params[k] for k, u in updates.items()}
        params = optax.apply_updates(params, updates)
        return (params, state), params

    _, later = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))
    return jax.tree.map(lambda p, ps: jnp.concatenate([p[None], ps]), params, later)


@every_optimizer
def test_coupled_decay_is_part_of_the_gradient(name):
    def numpy_grad(params):
        grads = numpy_optimizers.quadratic_grad(params)
        return {k: grads[k] + MASK[k] * 0.3 * params[k] for k in params}

    ams = {"ams": True} if name == "amsbound" else {}
    loop = getattr(numpy_optimizers, "adabound" if ams else name)
    expected = loop(numpy_grad, numpy_optimizers.initial_params(), 30, **ams)
    with jax.enable_x64(True):
        tx = make(name, weight_decay=0.3, decay_mask=MASK)
        found = flatten(walk(tx, name, initial_params(), 30))
        assert_near(found, [numpy_optimizers.flatten(params) for params in expected], 1e-10)


@every_optimizer
def test_decoupled_decay_is_outside_the_step_and_its_clip_with_the_rate_of_the_schedule(name):
    def rate(t):
        return rate_of(name) * jnp.where(t < 5, 0.2 * t, 0.9**t)

    with jax.enable_x64(True):
        decay = 0.5 / rate_of(name)  # a large part of the step
        tx = with_schedule(name, rate, decoupled_weight_decay=decay, decay_mask=lambda _: MASK)
        found = walk(tx, name, initial_params(), 30)
        plain = with_schedule(name, rate)
        expected = decayed_by_hand(plain, decay, rate, initial_params(), 30)
        assert_near(flatten(found), flatten(expected), rtol=1e-12)


def test_adam_with_decoupled_decay_is_adamw():
    with jax.enable_x64(True):
        schedule = optax.cosine_decay_schedule(0.01, 40)
        ours = make("adam", learning_rate=schedule, decoupled_weight_decay=0.3, decay_mask=MASK)
        theirs = optax.adamw(schedule, weight_decay=0.3, mask=MASK)
        found, expected = (walk(tx, "adam", initial_params(), 40) for tx in (ours, theirs))
        assert_same(found, expected, rtol=1e-12)


def test_both_decays_of_sgd_in_closed_form():
    x = {"weight": jnp.array([2.0, -4.0]), "bias": jnp.array(8.0)}
    g = {"weight": jnp.array([1.0, 0.0]), "bias": jnp.array(-1.0)}
    tx = make("sgd", learning_rate=0.5, weight_decay=0.25, decoupled_weight_decay=0.125)
    updates, _ = tx.update(g, tx.init(x), x)
    assert_same(updates, jax.tree.map(lambda g, x: -0.5 * (g + 0.375 * x), g, x))
    only = {"weight_decay": 0.25, "decoupled_weight_decay": 0.125, "decay_mask": weights_only}
    tx = make("sgd", learning_rate=0.5, **only)
    masked, _ = tx.update(g, tx.init(x), x)
    assert_same(masked, updates | {"bias": jnp.array(0.5)})


@every_optimizer
def test_decays_of_zero_leave_the_optimizer_as_it_is(name):
    grads = gradient_sequence(1)
    grads = jax.tree.map(lambda g: g[0], grads)
    plain = make(name)
    state = plain.init(grads)
    for zero in (0, 0.0, np.float64(0)):
        tx = make(name, weight_decay=zero, decoupled_weight_decay=zero, decay_mask=MASK)
        assert jax.tree.structure(tx.init(grads)) == jax.tree.structure(state)
        assert str(jax.make_jaxpr(tx.update)(grads, state)) == str(
            jax.make_jaxpr(plain.update)(grads, state)
        )


@every_optimizer
@both_decays
def test_params_are_needed_for_a_decay_alone(name, decay):
    x = {"w": jnp.ones(2)}
    plain = make(name)
    plain.update(x, plain.init(x))
    for value in (0.1, jnp.float32(0)):  # an array may hold another value in the next step
        tx = make(name, **{decay: value})
        with pytest.raises(ValueError, match=r"params is None; .* update\(") as error:
            tx.update(x, tx.init(x))
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heavy_ball", "adabound"])
def test_vmap_over_decays_equals_serial(name):
    def trajectory(coupled, decoupled):
        decays = {"weight_decay": coupled, "decoupled_weight_decay": decoupled}
        return flatten(walk(make(name, **decays), name, initial_params(), 20))

    with jax.enable_x64(True):
        coupled, decoupled = jnp.array([0.0, 0.3, 0.0]), jnp.array([0.0, 0.0, 0.5])
        together = jax.vmap(trajectory)(coupled, decoupled)
        serial = jax.jit(trajectory)
        for i in range(3):
            assert_near(together[i], serial(coupled[i], decoupled[i]), rtol=1e-12)
        plain = flatten(walk(make(name), name, initial_params(), 20))
        assert_near(together[0], plain, rtol=1e-12)
        assert np.linalg.norm(together[1, -1] - plain[-1]) > 1e-4
        assert np.linalg.norm(together[2, -1] - plain[-1]) > 1e-4


@both_decays
def test_decay_in_bfloat16_is_the_rounded_float32_one(decay):
    x, g = {"w": jnp.full(3, 1.5, jnp.bfloat16)}, {"w": jnp.full(3, 1.0, jnp.bfloat16)}
    # 1 + 1.5e-3 and 1 + 3e-3 are 1 in bfloat16 before the factor of the rate, 1.5.
    tx = make("sgd", learning_rate=1.5, **{decay: 3e-3})
    updates, _ = tx.update(g, tx.init(x), x)
    np.testing.assert_array_equal(updates["w"], jnp.bfloat16(-1.5 * (1.0 + 3e-3 * 1.5)))


def test_decay_of_the_base_is_that_of_the_clean_weights_and_no_part_of_the_ascent():
    decays = {"weight_decay": 0.3, "decoupled_weight_decay": 0.2}
    sharp = numpy_optimizers.sam_grad(numpy_optimizers.quadratic_grad, 0.5)
    x = numpy_optimizers.flatten(numpy_optimizers.initial_params())
    expected = [x]
    for _ in range(20):
        g = numpy_optimizers.flatten(sharp(numpy_optimizers.unflatten(x)))
        x = x - 0.1 * (g + 0.5 * x)
        expected.append(x)
    with jax.enable_x64(True):
        found = walk(sam(make("sgd", **decays), 0.5), "sam-sgd", initial_params(), 20)
        assert_near(flatten(found), expected, rtol=1e-10)


def test_mask_as_a_function_in_inject_hyperparams():
    factory = functools.partial(optax.inject_hyperparams, static_args=("decay_mask",))
    tx = factory(FACTORIES["sgd"])(0.5, weight_decay=lambda t: 0.1 * t, decay_mask=lambda _: MASK)
    x = initial_params()
    state = tx.init(x)
    for step in range(3):
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, x), state, x)
        expected = {k: -0.5 * MASK[k] * 0.1 * step * p for k, p in x.items()}
        assert_same(updates, expected, rtol=1e-6)


@every_optimizer
@both_decays
@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_negative_decay_is_named(name, decay, value):
    message = f"^{decay} must be a finite number >= 0, got {value}$"
    with pytest.raises(ValueError, match=message):
        make(name, **{decay: value})
    assert decay not in DEFAULTS[name]
