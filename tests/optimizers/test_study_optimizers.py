"""The optimizers of the study: their registry, the NumPy loops, and bad input."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import numpy_optimizers
import optax
import pytest
from factories import DEFAULTS, FACTORIES, assert_near, closed_loop, make, rate_of
from quadratic import flatten, initial_params, open_loop

from jaxsharp.optimizers import OPTIMIZERS, SHARPNESS_AWARE, adagrad
from jaxsharp.optimizers.arguments import check_count, check_decay

DECAY = {"weight_decay": 0.0, "decoupled_weight_decay": 0.0, "decay_mask": None}
every_optimizer = pytest.mark.parametrize("name", FACTORIES)


def test_registry_has_the_six_optimizers_of_the_study_with_its_hyperparameters():
    assert list(OPTIMIZERS) == ["sgd", "heavy_ball", "adagrad", "adam", "adashift", "adabound"]
    for name, factory in FACTORIES.items():
        rate, *others = inspect.signature(factory).parameters.values()
        assert {p.name: p.default for p in (rate, *others)} == DEFAULTS[name] | DECAY
        assert rate.kind is rate.POSITIONAL_OR_KEYWORD
        assert all(p.kind is p.KEYWORD_ONLY for p in others)


def test_first_line_of_every_docstring_tells_the_optimizers_apart():
    lines = {factory.__doc__.splitlines()[0] for factory in FACTORIES.values()}
    assert len(lines) == len(FACTORIES)
    assert all(line.endswith(".") for line in lines)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rho", [None, 0.05])
def test_follows_the_numpy_transcription(name, rho):
    plain = numpy_optimizers.quadratic_grad
    numpy_grad = plain if rho is None else numpy_optimizers.sam_grad(plain, rho)
    loop = getattr(numpy_optimizers, name)
    expected = loop(numpy_grad, numpy_optimizers.initial_params(), 120)
    case = name if rho is None else f"sam-{name}"
    with jax.enable_x64(True):
        found = flatten(closed_loop(case)(rate_of(name), rho, initial_params()))
        # SAM's perturbation turns sharply near the floor of a steep direction: rounding grows.
        rtol = 1e-10 if rho is None else 1e-8
        assert_near(found, [numpy_optimizers.flatten(params) for params in expected], rtol)


def test_adagrad_has_the_constants_of_pytorch_and_not_those_of_optax():
    """The sum starts at 0 and eps is outside of the root (pitfall 33)."""
    grads = {"w": jnp.array([[0.3, -2.0]])}
    ours = open_loop(adagrad(learning_rate=0.01), grads)["w"][0]
    np.testing.assert_allclose(ours, [-0.01, 0.01], rtol=1e-6)
    assert np.all(np.abs(open_loop(optax.adagrad(0.01), grads)["w"][0]) < 0.0099)


def test_adagrad_with_eps_zero_takes_no_step_where_nothing_accumulated():
    updates = open_loop(adagrad(learning_rate=0.5, eps=0.0), {"w": jnp.array([[0.0, -2.0]])})
    np.testing.assert_array_equal(updates["w"], [[0.0, 0.5]])


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


@pytest.mark.parametrize("compiled", [False, True])
def test_count_that_is_traced_is_named_with_the_remedy(compiled):
    check = (
        jax.jit(lambda n: check_count(window=n)) if compiled else lambda n: check_count(window=n)
    )
    with pytest.raises(TypeError, match=r"window must be an int.*static_args=\"window\"") as error:
        check(jnp.int32(3))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("compiled", [False, True])
def test_decay_that_would_be_one_in_bfloat16_is_named_with_the_remedy(compiled):
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    tx = optax.inject_hyperparams(FACTORIES["adam"])(1e-3)
    with pytest.raises(TypeError, match=r"b1 must be at least float32.*hyperparam_dtype") as error:
        (jax.jit(tx.init) if compiled else tx.init)(params)
    assert "\n" not in str(error.value)
    tx = optax.inject_hyperparams(FACTORIES["adam"], hyperparam_dtype=jnp.float32)(1e-3)
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_array_equal(updates["w"], jnp.bfloat16(-1e-3))
    check_decay(b2=0.999)


@pytest.mark.parametrize("variant", SHARPNESS_AWARE)
def test_bad_input_of_every_sharpness_aware_variant_is_named_in_one_line(variant):
    wrapper, base, x = SHARPNESS_AWARE[variant], make("sgd"), {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"rho must be a finite number >= 0.*-0.1") as error:
        wrapper(base, -0.1)
    assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="base"):
        wrapper(FACTORIES["sgd"], 0.1)
    tx = wrapper(base)
    with pytest.raises(ValueError, match=r"grad_fn is None; .* update\(") as error:
        tx.update(x, tx.init(x), x)
    assert "\n" not in str(error.value)
