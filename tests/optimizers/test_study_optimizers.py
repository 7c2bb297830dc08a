"""Every registered optimizer: PyTorch's trajectories, and a contract with and without SAM."""

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


def scheduled(name, rate, schedule, rho=None):
    """The optimizer at rate * schedule(step), traced or not."""
    base = {"base_learning_rate": rate} if name == "adabound" else {}
    return make(name, rho, learning_rate=lambda count: rate * schedule(count), **base)


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
    factory = amsbound if name == "amsbound" else OPTIMIZERS[name]
    with jax.enable_x64(True):
        vectors = flatten(run(factory(), initial_params(), 100))
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
        vectors = flatten(run(make(name, rho), initial_params(), 120))
        # Distances are relative to each vector: single entries cross zero.
        for vector, params in zip(vectors, expected, strict=True):
            reference = numpy_optimizers.flatten(params)
            assert np.linalg.norm(vector - reference) <= tolerance * np.linalg.norm(reference)


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
        compiled = jax.tree.map(lambda p: p[-1], run(tx, initial_params(), 12))
        assert_same(params, compiled, rtol=1e-12)  # XLA fuses, and so rounds, differently


@every_optimizer
@with_and_without_sam
def test_vmap_over_learning_rates_equals_serial(name, rho):
    with jax.enable_x64(True):
        rates = jnp.array([0.0, 1e-4, 1e-2])

        def final(rate):
            return run(make(name, rho, learning_rate=rate), initial_params(), 15)

        together = jax.vmap(final)(rates)
        for i, rate in enumerate([0.0, 1e-4, 1e-2]):
            assert_same(jax.tree.map(lambda p, i=i: p[i], together), final(rate), rtol=1e-12)
        jax.tree.map(lambda p: np.testing.assert_array_equal(p[0, -1], p[0, 0]), together)
        assert all(np.all(p[2, -1] != p[2, 0]) for p in jax.tree.leaves(together))


@every_optimizer
@with_and_without_sam
def test_vmap_over_members_equals_serial_with_one_member_at_the_minimum(name, rho):
    with jax.enable_x64(True):
        members = jax.tree.map(lambda p: jnp.stack([p, 0 * p, -3 * p]), initial_params())
        together = jax.vmap(lambda params: run(make(name, rho), params, 15))(members)
        for i in range(3):
            alone = run(make(name, rho), jax.tree.map(lambda p, i=i: p[i], members), 15)
            assert_same(jax.tree.map(lambda p, i=i: p[i], together), alone, rtol=1e-12)
        jax.tree.map(lambda p: np.testing.assert_array_equal(p[1], 0.0), together)


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

        @jax.jit
        def first_step(rate):
            tx = make(name, rho, learning_rate=rate)
            state = tx.init(params)
            return state, *tx.update(grad(params), state, params, grad_fn=grad)

        for rate in (jnp.float32(0.01), jnp.float64(0.01), 0.01):
            before, updates, after = first_step(rate)
            types = jax.tree.map(lambda p: (p.shape, p.dtype), params)
            assert jax.tree.map(lambda u: (u.shape, u.dtype), updates) == types
            assert jax.tree.map(jnp.result_type, before) == jax.tree.map(jnp.result_type, after)


@every_optimizer
def test_bfloat16_updates_are_the_rounded_float32_ones(name):
    low = gradient_sequence(60, jnp.bfloat16)
    exact = open_loop(make(name), jax.tree.map(lambda g: g.astype(jnp.float32), low))
    rounded = jax.tree.map(lambda u: u.astype(jnp.bfloat16), exact)
    assert_same(open_loop(make(name), low), rounded)


@every_optimizer
@with_and_without_sam
def test_zero_gradient_takes_no_step_and_does_no_harm(name, rho):
    grads = gradient_sequence(40)
    grads["bias"] = jnp.zeros_like(grads["bias"])
    grads = jax.tree.map(lambda g: g.at[:15].set(0.0), grads)
    updates = open_loop(make(name, rho), grads)
    jax.tree.map(lambda u: np.testing.assert_array_equal(u[:15], 0.0), updates)
    np.testing.assert_array_equal(updates["bias"], 0.0)
    assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves(updates))
    assert np.all(updates["weight"][25:] != 0.0)


@every_optimizer
@with_and_without_sam
def test_a_huge_gradient_stays_finite_and_within_its_tensor(name, rho):
    grads = gradient_sequence(40)
    usual = open_loop(make(name, rho), grads)
    grads["bias"] = grads["bias"].at[3, 1].set(1e30)
    updates = open_loop(make(name, rho), grads)
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
    with jax.enable_x64(True):
        grads = gradient_sequence(20)
        warm_up = jnp.minimum(jnp.arange(20) / 5, 1.0)
        constant = open_loop(make(name, rho, learning_rate=0.01), grads)
        updates = open_loop(scheduled(name, 0.01, lambda count: warm_up[count], rho), grads)
        expected = jax.tree.map(lambda u: u * warm_up.reshape(-1, *(1,) * (u.ndim - 1)), constant)
        assert_same(updates, expected, rtol=1e-12)


@every_optimizer
@with_and_without_sam
def test_in_a_chain(name, rho):
    alone = run(make(name, rho), initial_params(), 12)
    chained = optax.chain(optax.identity(), make(name, rho), optax.scale(1.0))
    assert_same(run(chained, initial_params(), 12), alone)


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
