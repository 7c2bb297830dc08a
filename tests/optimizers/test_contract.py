"""What every optimizer keeps to, plain and sharpness-aware; the test names say which mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from factories import (
    CASES,
    FACTORIES,
    WITH_BASE,
    WITH_SAM,
    arguments,
    assert_near,
    assert_same,
    closed_loop,
    floats_of,
    make,
    rate_of,
    updates_for,
    updates_of,
    walk,
    with_schedule,
)
from quadratic import flatten, grad, gradient_sequence, initial_params

from jaxsharp.optimizers import sam

every_case = pytest.mark.parametrize("case", CASES)
every_variant = pytest.mark.parametrize("case", WITH_BASE)
every_optimizer = pytest.mark.parametrize("case", FACTORIES)
RHO = 0.05


def first(trajectory, steps):
    return jax.tree.map(lambda p: p[: steps + 1], trajectory)


@pytest.mark.slow
@every_case
def test_jit_equals_eager(case):
    steps = 12 if "adashift" in case else 2
    tx = make(case, RHO)
    with jax.enable_x64(True):
        params, expected = initial_params(), closed_loop(case)(rate_of(case), RHO, initial_params())
        state = tx.init(params)
        for _ in range(steps):
            updates, state = tx.update(grad(params), state, params, **arguments(case, grad))
            params = optax.apply_updates(params, updates)
        # XLA fuses, and so rounds, differently.
        assert_same(params, jax.tree.map(lambda p: p[steps], expected), rtol=1e-12)


@pytest.mark.slow
@every_case
def test_vmap_over_rates_radii_and_members_equals_serial_and_no_member_harms_another(case):
    with jax.enable_x64(True):
        # The first member has no rate, the last starts at the minimum: no gradient.
        rates = jnp.array([0.0, 1e-4, 1e-2, 1e-2])
        radii = jnp.array([0.1, 0.0, 0.05, 0.1])
        factors = [1.0, 1.0, -3.0, 0.0]
        members = jax.tree.map(lambda p: jnp.stack([f * p for f in factors]), initial_params())
        serial = closed_loop(case)
        together = jax.jit(jax.vmap(serial))(rates, radii, members)
        together = jax.tree.map(lambda p: p[:, :16], together)
        for i, (rate, rho) in enumerate(zip(rates, radii, strict=True)):
            alone = serial(rate, rho, jax.tree.map(lambda p, i=i: p[i], members))
            found = flatten(jax.tree.map(lambda p, i=i: p[i], together))
            assert_near(found, flatten(first(alone, 15)), rtol=1e-12)
        for p in jax.tree.leaves(together):
            np.testing.assert_array_equal(p[0, -1], p[0, 0])
            np.testing.assert_array_equal(p[3], 0.0)
            assert np.all(p[2, -1] != p[2, 0])


@pytest.mark.parametrize("case", [*WITH_SAM, *WITH_BASE[1:]])
def test_rho_zero_is_the_base_optimizer(case):
    with jax.enable_x64(True):
        found = closed_loop(case)(rate_of(case), 0.0, initial_params())
        base = closed_loop(case.rpartition("-")[2])(rate_of(case), 0.0, initial_params())
        # Two programs: XLA may round a fused operation differently.
        assert_near(flatten(found), flatten(base), rtol=1e-12)


@every_case
def test_one_trace_serves_every_step_and_every_value_of_the_hyperparameters(case):
    traces = []

    @jax.jit
    def step(rho, hyperparameters, params, state):
        traces.append(case)
        tx = make(case, rho, **hyperparameters)
        updates, state = tx.update(grad(params), state, params, **arguments(case, grad))
        return optax.apply_updates(params, updates), state

    params = initial_params()
    hyperparameters = jax.tree.map(jnp.float32, floats_of(case))
    state = make(case, RHO, **hyperparameters).init(params)
    for scale in (1.0, 0.9, 0.8):
        scaled = {name: scale * value for name, value in hyperparameters.items()}
        params, state = step(scale * RHO, scaled, params, state)
    assert len(traces) == 1


@every_case
def test_dtypes_and_structure_are_kept_and_unknown_arguments_accepted(case):
    with jax.enable_x64(True):
        params = initial_params()
        params["weight"] = params["weight"].astype(jnp.bfloat16)
        params["bias"] = params["bias"].astype(jnp.float32)

        def first_step(params, rho, hyperparameters):
            tx = make(case, rho, **hyperparameters)
            state = tx.init(params)
            extra = arguments(case, grad)
            return state, *tx.update(grad(params), state, params, **extra, unknown="anything")

        for number in (jnp.float32, jnp.float64, float):
            hyperparameters = jax.tree.map(number, floats_of(case))
            before, updates, after = jax.eval_shape(
                first_step, params, number(RHO), hyperparameters
            )
            assert updates == jax.eval_shape(lambda tree: tree, params)
            assert before == after


@every_case
def test_bfloat16_updates_are_the_rounded_float32_ones(case):
    low = gradient_sequence(40, jnp.bfloat16)
    exact = updates_for(case)(jax.tree.map(lambda g: g.astype(jnp.float32), low))
    rounded = jax.tree.map(lambda u: u.astype(jnp.bfloat16), exact)
    assert_same(updates_for(case)(low), rounded)


@every_case
def test_zero_gradient_is_no_nan_and_takes_no_step(case):
    """As `optax.contrib.sam` does not have it (pitfall 26)."""
    grads = gradient_sequence(40)
    grads["bias"] = jnp.zeros_like(grads["bias"])
    grads = jax.tree.map(lambda g: g.at[:15].set(0.0), grads)
    updates = updates_for(case)(grads)
    jax.tree.map(lambda u: np.testing.assert_array_equal(u[:15], 0.0), updates)
    np.testing.assert_array_equal(updates["bias"], 0.0)
    assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves(updates))
    assert np.all(updates["weight"][25:] != 0.0)


@every_case
def test_a_huge_gradient_stays_finite_and_within_its_tensor(case):
    grads = gradient_sequence(40)
    usual = updates_for(case)(grads)
    grads["bias"] = grads["bias"].at[3, 1].set(1e30)
    updates = updates_for(case)(grads)
    assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves(updates))
    if not case.startswith("gsam"):  # its projection is over all tensors
        updates.pop("bias"), usual.pop("bias")
        assert_same(updates, usual)


@every_case
@pytest.mark.parametrize("shapes", [{}, {"none": None, "weight": (0, 3)}])
def test_trees_without_entries(case, shapes):
    params = {k: None if shape is None else jnp.zeros(shape) for k, shape in shapes.items()}
    tx = make(case, weight_decay=0.1, decoupled_weight_decay=0.1)
    extra = arguments(case, lambda params: params)
    updates, _ = tx.update(params, tx.init(params), params, **extra)
    assert_same(updates, params)


@pytest.mark.parametrize("case", [*FACTORIES, *WITH_BASE])
def test_rate_schedule_counts_updates_from_zero_and_does_not_restart(case):
    grads = gradient_sequence(40)
    warm_up = jnp.minimum(jnp.arange(40) / 20, 1.0)
    tx = with_schedule(case, lambda t: rate_of(case) * warm_up[t])
    constant = updates_for(case)(grads)
    expected = jax.vmap(lambda update, factor: jax.tree.map(lambda u: factor * u, update))(
        constant, warm_up
    )
    assert_same(updates_of(tx, case, grads), expected, rtol=1e-6)  # a few roundings in float32


@every_variant
def test_rho_schedule_counts_updates_not_gradients(case):
    """Two gradients are one step of the schedule (pitfall 29)."""
    with jax.enable_x64(True):
        # Only in the sixth step is there an ascent; LookSAM has it every fifth, from the first on.
        tx = make(case, lambda t: jnp.where(t == 5, RHO, 0.0))
        found = flatten(walk(tx, case, initial_params(), 7))
        base = flatten(closed_loop("heavy_ball")(0.01, RHO, initial_params()))
        assert_near(found[:6], base[:6], rtol=1e-12)
        assert np.linalg.norm(found[6] - base[6]) > 1e-6 * np.linalg.norm(base[6])


@pytest.mark.parametrize("case", [*FACTORIES, *WITH_BASE])
def test_in_a_chain(case):
    with jax.enable_x64(True):
        tx = optax.chain(optax.identity(), make(case, RHO), optax.scale(1.0))
        alone = closed_loop(case)(rate_of(case), RHO, initial_params())
        chained = walk(tx, case, initial_params(), 12)
        # The rate is traced in one program alone, so their roundings differ.
        assert_near(flatten(chained), flatten(first(alone, 12)), rtol=1e-12)


@pytest.mark.slow
@every_optimizer
def test_in_inject_hyperparams(case):
    with jax.enable_x64(True):
        static = "window" if case == "adashift" else ()
        injected = optax.inject_hyperparams(FACTORIES[case], static)
        tx = injected(lambda t: rate_of(case) * (t != 11))
        alone = flatten(closed_loop(case)(rate_of(case), RHO, initial_params()))
        found = flatten(walk(tx, case, initial_params(), 12))
        assert_near(found[:12], alone[:12], rtol=1e-12)
        np.testing.assert_array_equal(found[12], found[11])
        # A value may be changed in the state, also that of a decay that was zero.
        params = initial_params()
        state = injected(rate_of(case)).init(params)
        state.hyperparams["learning_rate"] = jnp.array(2.0)
        state.hyperparams["decoupled_weight_decay"] = jnp.array(0.25)
        updates, _ = injected(rate_of(case)).update(grad(params), state, params)
        plain = FACTORIES[case](2.0)
        expected, _ = plain.update(grad(params), plain.init(params), params)
        expected = jax.tree.map(lambda u, p: u - 0.5 * p, expected, params)
        if "bound" not in case:  # its base rate there is that of the step, here 2
            assert_same(updates, expected, rtol=1e-12)


@every_optimizer
def test_masked_and_in_groups(case):
    with jax.enable_x64(True):
        grads = gradient_sequence(12)
        expected = updates_of(make(case), case, grads)
        mask = {"weight": True, "bias": False, "scale": True}
        masked = updates_of(optax.masked(make(case), mask), case, grads)
        assert_same(masked, expected | {"bias": grads["bias"]}, rtol=1e-12)
        groups = {True: make(case), False: optax.set_to_zero()}
        grouped = updates_of(optax.multi_transform(groups, mask), case, grads)
        assert_same(grouped, expected | {"bias": 0 * grads["bias"]}, rtol=1e-12)


@every_optimizer
def test_multi_steps_is_the_optimizer_on_mean_gradients(case):
    with jax.enable_x64(True):
        grads = gradient_sequence(24)
        means = jax.tree.map(lambda g: (g[::2] + g[1::2]) / 2, grads)
        tx = optax.MultiSteps(make(case), 2, accumulator_dtype=float).gradient_transformation()
        found = updates_of(tx, case, grads)
        jax.tree.map(lambda u: np.testing.assert_array_equal(u[::2], 0.0), found)
        expected = updates_of(make(case), case, means)
        assert_same(jax.tree.map(lambda u: u[1::2], found), expected, rtol=1e-12)


@pytest.mark.slow
def test_sam_of_a_base_with_frozen_parameters_ascends_over_all_of_them():
    frozen = optax.masked(optax.set_to_zero(), {"weight": False, "bias": True, "scale": False})
    tx = sam(optax.chain(make("sgd"), frozen), RHO)
    params = initial_params()
    found, _ = tx.update(grad(params), tx.init(params), params, grad_fn=grad)
    plain = make("sam-sgd", RHO)
    expected, _ = plain.update(grad(params), plain.init(params), params, grad_fn=grad)
    assert_same(found, expected | {"bias": 0 * expected["bias"]})


@pytest.mark.slow
def test_sam_of_multi_steps_is_the_base_on_the_mean_of_sam_gradients():
    with jax.enable_x64(True):
        base = optax.MultiSteps(make("sgd"), 2, accumulator_dtype=float).gradient_transformation()
        tx = sam(base, RHO)
        params = initial_params()
        alone = flatten(walk(make("sam-sgd", RHO), "sam-sgd", params, 5))
        twice = flatten(walk(tx, "sam-sgd", params, 10))
        assert_near(twice[::2], alone, rtol=1e-12)
        assert_near(twice[1::2], alone[:5], rtol=1e-12)
