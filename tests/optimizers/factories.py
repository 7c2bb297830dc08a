"""Every optimizer, plain and sharpness-aware, and programs that several tests share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from quadratic import grad, open_loop, run

from jaxsharp.optimizers import OPTIMIZERS, SHARPNESS_AWARE, amsbound

ADABOUND = {
    "learning_rate": 0.001,
    "final_lr": 0.1,
    "gamma": 1e-3,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "base_learning_rate": None,
}
DEFAULTS = {
    "sgd": {"learning_rate": 0.1},
    "heavy_ball": {"learning_rate": 0.01, "momentum": 0.8},
    "adagrad": {"learning_rate": 0.01, "eps": 1e-10},
    "adam": {"learning_rate": 0.001, "b1": 0.9, "b2": 0.999, "eps": 1e-8},
    "adashift": {"learning_rate": 0.01, "b1": 0.9, "b2": 0.999, "window": 10, "eps": 1e-10},
    "adabound": ADABOUND,
    "amsbound": ADABOUND,
}
FACTORIES = {**OPTIMIZERS, "amsbound": amsbound}

# The base of all variants but SAM, which goes around every optimizer.
BASE = "heavy_ball"
VARIANTS = ["sam", *(variant for variant in SHARPNESS_AWARE if variant != "sam")]
WITH_BASE = [f"{variant}-{BASE}" for variant in VARIANTS]
WITH_SAM = [f"sam-{name}" for name in FACTORIES]
CASES = [*FACTORIES, *WITH_SAM, *WITH_BASE[1:]]
SETTINGS = {"m_sam": {"m": 1}}


def make(case, rho=None, **hyperparameters):
    """The optimizer "name" or "variant-name", with the study's hyper-parameters or those given."""
    variant, _, name = case.rpartition("-")
    tx = FACTORIES[name](**hyperparameters)
    if not variant:
        return tx
    radius = {} if rho is None else {"rho": rho}
    return SHARPNESS_AWARE[variant](tx, **radius, **SETTINGS.get(variant, {}))


def arguments(case, grad):
    """What `update` gets beside params; for m-SAM of two examples, with that gradient as mean."""
    if not case.startswith("m_sam"):
        return {"grad_fn": grad}

    def grad_fn(params, batch):
        grads = grad(params)
        return optax.tree.cast_like(optax.tree.scale(jnp.mean(batch), grads), grads)

    return {"grad_fn": grad_fn, "batch": jnp.array([0.5, 1.5])}


def rate_of(case):
    return DEFAULTS[case.rpartition("-")[2]]["learning_rate"]


def floats_of(case):
    """The hyper-parameters that may be traced."""
    defaults = DEFAULTS[case.rpartition("-")[2]]
    floats = {name: value for name, value in defaults.items() if isinstance(value, float)}
    return floats | {"weight_decay": 0.01, "decoupled_weight_decay": 0.02}


def with_schedule(case, schedule, **hyperparameters):
    """The optimizer with a schedule as learning rate, AdaBound with the configured one too."""
    if "bound" in case:
        hyperparameters = {"base_learning_rate": rate_of(case), **hyperparameters}
    return make(case, learning_rate=schedule, **hyperparameters)


def walk(tx, case, params, steps, grad=grad):
    """Stacked parameters after every step, initial ones first."""
    return run(tx, params, steps, grad, functools.partial(arguments, case))


def updates_of(tx, case, grads):
    """Stacked updates for stacked gradients that do not depend on the parameters."""
    return open_loop(tx, grads, functools.partial(arguments, case))


@functools.cache
def closed_loop(case):
    """Compiled (rate, rho, params) -> 120 steps on the quadratic."""

    def trajectory(rate, rho, params):
        return walk(make(case, rho, learning_rate=rate), case, params, 120)

    return jax.jit(trajectory)


@functools.cache
def updates_for(case):
    """Compiled grads -> updates with the hyper-parameters of the study."""
    return jax.jit(lambda grads: updates_of(make(case), case, grads))


def assert_same(actual, expected, rtol=0.0, atol=0.0):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol, atol), actual, expected)


def assert_near(actual, expected, rtol):
    """Equal relative to the whole vector of each step: single entries cross zero."""
    for vector, reference in zip(actual, expected, strict=True):
        assert np.linalg.norm(vector - reference) <= rtol * np.linalg.norm(reference)
