"""What sharpness-aware variants share: rho = 0, the clean pass, groups, devices, optax's call."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quadratic import initial_params, run
from small_network import assert_close, grad_fn, network, value_and_grad

from jaxsharp.optimizers import SHARPNESS_AWARE, per_group, sam, sam_gradient
from jaxsharp.optimizers.sharpness_aware.friendly_sam import friendly_sam_rule
from jaxsharp.optimizers.sharpness_aware.gsam import gsam_rule
from jaxsharp.optimizers.sharpness_aware.looksam import look_sam_rule
from jaxsharp.optimizers.sharpness_aware.momentum_sam import momentum_sam_rule
from jaxsharp.optimizers.sharpness_aware.rule import sharp_gradient
from jaxsharp.optimizers.sharpness_aware.sam import asam_rule, multi_step_rule, sam_rule

RULES = {
    "sam": sam_rule,
    "asam": functools.partial(asam_rule, adaptive=None),
    "multi_step_sam": multi_step_rule,
    "gsam": gsam_rule,
    "look_sam": look_sam_rule,
    "friendly_sam": friendly_sam_rule,
    "momentum_sam": momentum_sam_rule,
}
OPTIONS = {"asam": {"adaptive": None}, "m_sam": {"m": 2}}
every_rule = pytest.mark.parametrize("name", RULES)


def trajectory(tx, steps=12):
    """Parameters after steps of an update call with the gradient function and the batch."""
    params, batch = network()
    tx = optax.with_extra_args_support(tx)

    def step(carry, _):
        params, state = carry

        def gradient(params, batch=batch):
            return grad_fn(params, batch)

        extra = {"grad_fn": gradient, "batch": batch}
        updates, state = tx.update(gradient(params), state, params, **extra)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), length=steps)[1])(
        params
    )


@pytest.mark.parametrize("name", SHARPNESS_AWARE)
def test_rho_zero_is_the_base_optimizer(name, x64):
    base = optax.sgd(0.1, momentum=0.8)
    found = trajectory(SHARPNESS_AWARE[name](base, 0.0, **OPTIONS.get(name, {})))
    # GSAM projects, m-SAM averages groups: their roundings are their own.
    assert_close(found, trajectory(base), rtol=1e-12 if name in ("gsam", "m_sam") else 0)


@pytest.mark.parametrize("name", SHARPNESS_AWARE)
def test_the_base_comes_after_the_sharp_gradient(name, x64):
    base = optax.adamw(0.1, weight_decay=0.3)
    wrap = functools.partial(SHARPNESS_AWARE[name], rho=0.3, **OPTIONS.get(name, {}))
    in_chain = optax.chain(wrap(optax.identity()), optax.with_extra_args_support(base))
    assert_close(trajectory(in_chain, 7), trajectory(wrap(base), 7), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARPNESS_AWARE)
def test_rho_changes_the_path_and_may_be_a_schedule_over_real_steps(name, x64):
    wrap = functools.partial(SHARPNESS_AWARE[name], optax.sgd(0.1), **OPTIONS.get(name, {}))
    constant, base = trajectory(wrap(0.3)), trajectory(optax.sgd(0.1))
    assert np.linalg.norm(constant["w"][-1] - base["w"][-1]) > 1e-3
    scheduled = trajectory(wrap(lambda step: jnp.where(step < 5, 0.3, 0.1)))
    assert_close(scheduled["w"][:5], constant["w"][:5])
    assert np.all(np.linalg.norm(scheduled["w"][5:] - constant["w"][5:], axis=1) > 1e-4)


@pytest.mark.slow
@every_rule
def test_the_pure_gradient_takes_the_steps_of_the_wrapper(name, x64):
    options = {k: v for k, v in OPTIONS.get(name, {}).items() if k != "adaptive"}
    init, gradient = sharp_gradient(value_and_grad, RULES[name](0.3, **options))
    params, batch = network()
    expected = trajectory(SHARPNESS_AWARE[name](optax.sgd(0.1), 0.3, **OPTIONS.get(name, {})), 7)
    memory = init(params)
    for step in range(7):
        clean = value_and_grad(params, batch)[0]
        value, grads, memory = gradient(params, memory, step, batch)
        assert_close(value, clean, rtol=0)  # loss and auxiliary output are of the clean pass
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        assert_close(params, jax.tree.map(lambda p, i=step: p[i], expected))


@pytest.mark.slow
@every_rule
def test_no_state_of_a_member_leaks_into_others_under_vmap_over_rho(name, x64):
    params, batch = network()
    rhos = jnp.array([0.0, 0.05, 0.5])

    def three_steps(rho):
        init, gradient = sharp_gradient(value_and_grad, RULES[name](rho))
        point, memory = params, init(params)
        for step in range(3):
            _, grads, memory = gradient(point, memory, step, batch)
            point = jax.tree.map(lambda p, g: p - 0.1 * g, point, grads)
        return point

    together = jax.jit(jax.vmap(three_steps))(rhos)
    for i, rho in enumerate(rhos):
        assert_close(jax.tree.map(lambda x, i=i: x[i], together), three_steps(rho))


@pytest.mark.slow
def test_m_sam_is_the_mean_over_groups_of_sam_and_not_sam(x64):
    """Groups of m ascend each on their own (pitfall 28)."""
    params, batch = network()
    sharp = sam_gradient(value_and_grad, 0.3)
    groups = [sharp(params, batch[i : i + 2]) for i in (0, 2, 4)]
    mean = jax.tree.map(lambda *xs: sum(xs) / 3, *[grads for _, grads in groups])
    for vmapped in (False, True):
        value, grads = per_group(sharp, 2, vmapped=vmapped)(params, batch)
        assert_close(grads, mean)
        np.testing.assert_allclose(value[0], value_and_grad(params, batch)[0][0], rtol=1e-12)
        np.testing.assert_allclose(value[1][1], jnp.mean(batch, 0), rtol=1e-12)
        tx = SHARPNESS_AWARE["m_sam"](optax.sgd(1.0), 0.3, m=2, vmapped=vmapped)
        nothing = jax.tree.map(jnp.zeros_like, params)  # the clean gradient is not looked at
        extra = {"grad_fn": grad_fn, "batch": batch}
        updates, _ = tx.update(nothing, tx.init(params), params, **extra)
        assert_close(updates, jax.tree.map(jnp.negative, mean))
    assert np.all(np.abs(mean["w"] - sharp(params, batch)[1]["w"]) > 1e-4)


@pytest.mark.slow
def test_accumulated_gradients_ascend_globally_inside_and_by_group_outside(x64):
    params, batch = network()
    accumulated = sam_gradient(per_group(value_and_grad, 2), 0.3)
    assert_close(accumulated(params, batch)[1], sam_gradient(value_and_grad, 0.3)(params, batch)[1])
    # SAM around MultiSteps: each part of the batch has its ascent, the base steps once.
    tx = sam(optax.MultiSteps(optax.sgd(1.0), 3).gradient_transformation(), 0.3)
    state, total = tx.init(params), jax.tree.map(jnp.zeros_like, params)
    for part in (batch[:2], batch[2:4], batch[4:]):
        here = functools.partial(grad_fn, batch=part)
        updates, state = tx.update(here(params), state, params, grad_fn=here)
        total = jax.tree.map(jnp.add, total, updates)
    mean = per_group(sam_gradient(value_and_grad, 0.3), 2)(params, batch)[1]
    # MultiSteps computes 1 / k in float32.
    assert_close(total, jax.tree.map(jnp.negative, mean), rtol=1e-6)


@pytest.mark.slow
@every_rule
def test_over_devices_the_ascent_is_global_with_an_axis_name_and_local_without(name, x64):
    """Two algorithms, and m-SAM a third (pitfall 28)."""
    params, batch = network()
    parts = batch.reshape(3, 2, 3)
    rule = RULES[name](0.3)

    def steps(axis_name, batch):
        init, gradient = sharp_gradient(value_and_grad, rule, axis_name)
        point, memory = params, init(params)
        for step in range(2):
            _, grads, memory = gradient(point, memory, step, batch)
            grads = jax.lax.pmean(grads, "data")
            point = jax.tree.map(lambda p, g: p - 0.1 * g, point, grads)
        return point

    mapped = functools.partial(jax.vmap, axis_name="data")
    of_one_device = mapped(lambda b: steps(None, b))(batch[None])
    together = mapped(lambda b: steps("data", b))(parts)
    each_alone = mapped(lambda b: steps(None, b))(parts)
    for device in range(3):
        found = jax.tree.map(lambda x, d=device: x[d], together)
        assert_close(found, jax.tree.map(lambda x: x[0], of_one_device))
    assert np.all(np.abs(each_alone["w"][0] - together["w"][0]) > 1e-6)


@pytest.mark.slow
def test_a_loop_written_for_optax_in_opaque_mode_runs_unchanged(x64):
    theirs = optax.contrib.sam(
        optax.sgd(0.05),
        optax.chain(optax.contrib.normalize(), optax.sgd(0.3)),
        sync_period=2,
        opaque_mode=True,
    )

    def loop(tx):
        params, batch = network()
        state, path, indices = tx.init(params), [], []

        def loss(params, i):
            indices.append(i)
            return value_and_grad(params, batch)[0][0]

        gradient = jax.grad(loss)
        for _ in range(5):
            updates, state = tx.update(gradient(params, -1), state, params, grad_fn=gradient)
            params = optax.apply_updates(params, updates)
            path.append(params["w"])
        return np.array(path), [int(i) for i in indices]

    (ours, our_indices), (path, indices) = loop(sam(optax.sgd(0.05), 0.3)), loop(theirs)
    np.testing.assert_allclose(ours, path, rtol=1e-12)
    assert our_indices == indices


def test_gradient_functions_with_defaults_get_parameters_alone():
    seen = []

    def gradient(params, scale=1.0, *, more=None):
        seen.append((scale, more))
        return jax.tree.map(lambda p: scale * p, params)

    tx = sam(optax.sgd(0.1))
    tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2), grad_fn=gradient)
    assert seen == [(1.0, None)]


@pytest.mark.slow
def test_a_diverged_member_leaves_the_others_alone():
    for name in SHARPNESS_AWARE:
        if name == "m_sam":
            continue
        tx = SHARPNESS_AWARE[name](optax.sgd(0.1), 0.1, **OPTIONS.get(name, {}))

        def one(x, tx=tx):
            updates, _ = tx.update(2 * x, tx.init(x), x, grad_fn=lambda x: 2 * x)
            return updates

        members = jnp.array([[1.0, 2.0], [jnp.nan, 1.0], [jnp.inf, 1.0], [0.0, 0.0]])
        found = jax.jit(jax.vmap(one))(members)
        np.testing.assert_allclose(found[0], one(members[0]), rtol=1e-6)
        np.testing.assert_array_equal(found[3], 0.0)
        assert np.all(np.isfinite(run(tx, initial_params(), 3)["scale"])), name
