"""Every registered optimizer: PyTorch's trajectories, and a contract with and without SAM."""

import functools
import inspect
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpy_optimizers
import optax
import pytest
from quadratic import flatten, grad, gradient_sequence, initial_params, open_loop, run

from jaxsharp.optimizers import OPTIMIZERS
from jaxsharp.optimizers.adabound import amsbound
from jaxsharp.optimizers.adagrad import adagrad
from jaxsharp.optimizers.sam import sam

REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text())

STUDY_DEFAULTS = {
    "sgd": {"learning_rate": 0.1},
    "heavy_ball": {"learning_rate": 0.01, "momentum": 0.8},
    "adagrad": {"learning_rate": 0.01, "eps": 1e-10},
    "adam": {"learning_rate": 0.001, "b1": 0.9, "b2": 0.999, "eps": 1e-8},
    "adashift": {"learning_rate": 0.01, "b1": 0.9, "b2": 0.999, "window": 10, "eps": 1e-10},
    "adabound": {
        "learning_rate": 0.001,
        "final_lr": 0.1,
        "gamma": 1e-3,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "base_learning_rate": None,
    },
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
with_and_without_sam = pytest.mark.parametrize("rho", [None, 0.05])


def make(name, rho=None, **hyperparameters):
    tx = OPTIMIZERS[name](**hyperparameters)
    return tx if rho is None else sam(tx, rho)


@functools.cache
def closed_loop(name, rho):
    """Compiled (rate, rho, params) -> 120 steps on the quadratic; one program for many tests."""

    def trajectory(rate, traced_rho, params):
        traced_rho = None if rho is None else traced_rho
        return run(make(name, traced_rho, learning_rate=rate), params, 120)

    return jax.jit(trajectory)


@functools.cache
def updates_for(name, rho):
    """Compiled grads -> updates with the hyper-parameters of the study."""
    return jax.jit(lambda grads: open_loop(make(name, rho), grads))


def rate_of(name):
    return STUDY_DEFAULTS[name]["learning_rate"]


def assert_same(actual, expected, rtol=0.0, atol=0.0):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol, atol), actual, expected)


def test_registry_has_the_six_optimizers_of_the_study_with_its_hyperparameters():
    parameters = {name: inspect.signature(f).parameters for name, f in OPTIMIZERS.items()}
    defaults = {n: {k: p.default for k, p in ps.items()} for n, ps in parameters.items()}
    assert defaults == STUDY_DEFAULTS
    assert all(p.kind is p.KEYWORD_ONLY for ps in parameters.values() for p in ps.values())


def test_first_line_of_every_docstring_tells_the_optimizers_apart():
    lines = {factory.__doc__.splitlines()[0] for factory in OPTIMIZERS.values()}
    assert len(lines) == len(OPTIMIZERS)
    assert all(line.endswith(".") for line in lines)


@pytest.mark.parametrize("name", REFERENCE)
def test_follows_pytorch(name):
    with jax.enable_x64(True):
        if name == "amsbound":
            trajectory = run(amsbound(), initial_params(), 100)
        else:
            trajectory = closed_loop(name, None)(rate_of(name), 0.0, initial_params())
        vectors = flatten(trajectory)
        for step, expected in REFERENCE[name].items():
            np.testing.assert_allclose(vectors[int(step)], expected, rtol=1e-10)


@every_optimizer
@with_and_without_sam
def test_follows_the_numpy_transcription(name, rho):
    plain = numpy_optimizers.quadratic_grad
    numpy_grad = plain if rho is None else numpy_optimizers.sam_grad(plain, rho)
    loop = getattr(numpy_optimizers, name)
    expected = loop(numpy_grad, numpy_optimizers.initial_params(), 120)
    # SAM's perturbation turns sharply near the floor of a steep direction: rounding grows.
    tolerance = 1e-10 if rho is None else 1e-8
    with jax.enable_x64(True):
        vectors = flatten(closed_loop(name, rho)(rate_of(name), rho, initial_params()))
        # Distances are relative to each vector: single entries cross zero.
        for vector, params in zip(vectors, expected, strict=True):
            reference = numpy_optimizers.flatten(params)
            assert np.linalg.norm(vector - reference) <= tolerance * np.linalg.norm(reference)


@every_optimizer
def test_sam_with_rho_zero_is_the_base_optimizer(name):
    with jax.enable_x64(True):
        found = closed_loop(name, 0.05)(rate_of(name), 0.0, initial_params())
        base = closed_loop(name, None)(rate_of(name), 0.0, initial_params())
        # Two programs: XLA may round a fused operation differently.
        assert_same(found, base, rtol=1e-12)


def test_adagrad_is_not_that_of_optax():
    grads = {"w": jnp.array([[0.3, -2.0]])}
    ours = open_loop(adagrad(learning_rate=0.01), grads)["w"][0]
    np.testing.assert_allclose(ours, [-0.01, 0.01], rtol=1e-6)
    assert np.all(np.abs(open_loop(optax.adagrad(0.01), grads)["w"][0]) < 0.0099)


def test_adagrad_with_eps_zero_takes_no_step_where_nothing_accumulated():
    updates = open_loop(adagrad(learning_rate=0.5, eps=0.0), {"w": jnp.array([[0.0, -2.0]])})
    np.testing.assert_array_equal(updates["w"], [[0.0, 0.5]])


@every_optimizer
@with_and_without_sam
def test_jit_equals_eager(name, rho):
    tx = make(name, rho)
    with jax.enable_x64(True):
        params = initial_params()
        state = tx.init(params)
        for _ in range(12):
            updates, state = tx.update(grad(params), state, params, grad_fn=grad)
            params = optax.apply_updates(params, updates)
        compiled = closed_loop(name, rho)(rate_of(name), rho, initial_params())
        # XLA fuses, and so rounds, differently.
        assert_same(params, jax.tree.map(lambda p: p[12], compiled), rtol=1e-12)


@every_optimizer
@with_and_without_sam
def test_vmap_over_rates_and_members_equals_serial(name, rho):
    with jax.enable_x64(True):
        # The first member has no rate, the last starts at the minimum: no gradient.
        rates = jnp.array([0.0, 1e-4, 1e-2, 1e-2])
        factors = [1.0, 1.0, -3.0, 0.0]
        members = jax.tree.map(lambda p: jnp.stack([f * p for f in factors]), initial_params())
        serial = closed_loop(name, rho)
        together = jax.jit(jax.vmap(serial, (0, None, 0)))(rates, rho, members)
        together = jax.tree.map(lambda p: p[:, :16], together)
        for i, rate in enumerate(rates):
            alone = serial(rate, rho, jax.tree.map(lambda p, i=i: p[i], members))
            alone = jax.tree.map(lambda p: p[:16], alone)
            assert_same(jax.tree.map(lambda p, i=i: p[i], together), alone, rtol=1e-12)
        for p in jax.tree.leaves(together):
            np.testing.assert_array_equal(p[0, -1], p[0, 0])
            np.testing.assert_array_equal(p[3], 0.0)
            assert np.all(p[2, -1] != p[2, 0])


@every_optimizer
@with_and_without_sam
def test_one_trace_serves_every_step_and_every_value_of_the_hyperparameters(name, rho):
    floats = {k: v for k, v in STUDY_DEFAULTS[name].items() if isinstance(v, float)}
    traces = []

    @jax.jit
    def step(hyperparameters, params, state):
        traces.append(name)
        tx = make(name, rho, **hyperparameters)
        updates, state = tx.update(grad(params), state, params, grad_fn=grad)
        return optax.apply_updates(params, updates), state

    params = initial_params()
    state = make(name, rho).init(params)
    for scale in (1.0, 0.9, 0.8):
        params, state = step({k: scale * v for k, v in floats.items()}, params, state)
    assert len(traces) == 1


@every_optimizer
@with_and_without_sam
def test_dtypes_and_structure_are_kept(name, rho):
    with jax.enable_x64(True):
        params = initial_params()
        params["weight"] = params["weight"].astype(jnp.bfloat16)
        params["bias"] = params["bias"].astype(jnp.float32)

        def first_step(params, hyperparameters):
            tx = make(name, rho, **hyperparameters)
            state = tx.init(params)
            return state, *tx.update(grad(params), state, params, grad_fn=grad)

        floats = {k: v for k, v in STUDY_DEFAULTS[name].items() if isinstance(v, float)}
        for number in (jnp.float32, jnp.float64, float):
            hyperparameters = {k: number(v) for k, v in floats.items()}
            before, updates, after = jax.eval_shape(first_step, params, hyperparameters)
            assert updates == jax.eval_shape(lambda tree: tree, params)
            assert before == after


@every_optimizer
def test_bfloat16_updates_are_the_rounded_float32_ones(name):
    low = gradient_sequence(40, jnp.bfloat16)
    exact = updates_for(name, None)(jax.tree.map(lambda g: g.astype(jnp.float32), low))
    rounded = jax.tree.map(lambda u: u.astype(jnp.bfloat16), exact)
    assert_same(updates_for(name, None)(low), rounded)


@every_optimizer
@with_and_without_sam
def test_zero_gradient_takes_no_step_and_does_no_harm(name, rho):
    grads = gradient_sequence(40)
    grads["bias"] = jnp.zeros_like(grads["bias"])
    grads = jax.tree.map(lambda g: g.at[:15].set(0.0), grads)
    updates = updates_for(name, rho)(grads)
    jax.tree.map(lambda u: np.testing.assert_array_equal(u[:15], 0.0), updates)
    np.testing.assert_array_equal(updates["bias"], 0.0)
    assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves(updates))
    assert np.all(updates["weight"][25:] != 0.0)


@every_optimizer
@with_and_without_sam
def test_a_huge_gradient_stays_finite_and_within_its_tensor(name, rho):
    grads = gradient_sequence(40)
    usual = updates_for(name, rho)(grads)
    grads["bias"] = grads["bias"].at[3, 1].set(1e30)
    updates = updates_for(name, rho)(grads)
    assert np.all(np.isfinite(updates.pop("bias")))
    usual.pop("bias")
    assert_same(updates, usual)


@every_optimizer
@with_and_without_sam
@pytest.mark.parametrize("shapes", [{}, {"none": None, "empty": (0, 3)}])
def test_trees_without_entries(name, rho, shapes):
    params = {k: None if shape is None else jnp.zeros(shape) for k, shape in shapes.items()}
    tx = make(name, rho)
    updates, _ = tx.update(params, tx.init(params), params, grad_fn=lambda params: params)
    assert_same(updates, params)


@every_optimizer
@with_and_without_sam
def test_schedule_multiplies_the_step_and_counts_updates(name, rho):
    grads = gradient_sequence(40)
    warm_up = jnp.minimum(jnp.arange(40) / 20, 1.0)
    base = {"base_learning_rate": rate_of(name)} if name == "adabound" else {}
    tx = make(name, rho, learning_rate=lambda t: rate_of(name) * warm_up[t], **base)
    constant = updates_for(name, rho)(grads)
    expected = jax.vmap(lambda update, factor: jax.tree.map(lambda u: factor * u, update))(
        constant, warm_up
    )
    assert_same(open_loop(tx, grads), expected, rtol=1e-6)  # a few roundings in float32


@every_optimizer
def test_in_a_chain(name):
    with jax.enable_x64(True):
        tx = optax.chain(optax.identity(), make(name, 0.05), optax.scale(1.0))
        alone = closed_loop(name, 0.05)(rate_of(name), 0.05, initial_params())
        chained = jax.tree.map(lambda p: p[:16], run(tx, initial_params(), 15))
        # The rate is traced in one program alone, so their roundings differ.
        assert_same(chained, jax.tree.map(lambda p: p[:16], alone), rtol=1e-12)


@every_optimizer
@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf")])
def test_bad_learning_rate_is_named(name, rate):
    with pytest.raises(ValueError, match=f"learning_rate must be a finite number >= 0.*{rate}"):
        make(name, learning_rate=rate)


@every_optimizer
def test_learning_rate_of_the_wrong_type_is_named(name):
    with pytest.raises(TypeError, match="learning_rate"):
        make(name, learning_rate="0.1")


@pytest.mark.parametrize(
    ("name", "argument", "value", "valid"),
    [
        ("heavy_ball", "momentum", -0.1, ">= 0"),
        ("adagrad", "eps", -1e-10, ">= 0"),
        ("adam", "b1", 1.0, r"\[0, 1\)"),
        ("adam", "b2", -0.1, r"\[0, 1\)"),
        ("adam", "eps", 0.0, "> 0"),
    ],
)
def test_bad_hyperparameter_is_named(name, argument, value, valid):
    with pytest.raises(ValueError, match=f"{argument} must be .*{valid}, got {value}"):
        make(name, **{argument: value})


def test_numbers_held_in_arrays_are_checked_inside_a_compiled_function():
    rate = jnp.array(-1.0)
    with pytest.raises(ValueError, match="learning_rate"):
        jax.jit(lambda: make("sgd", learning_rate=rate).init(initial_params()))()
