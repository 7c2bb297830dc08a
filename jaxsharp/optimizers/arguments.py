"""Checks of hyper-parameters before anything is traced.

Traced values are not looked at: their numbers are unknown until the program runs.
"""

import math
import numbers

import jax
import numpy as np


def check_non_negative(**arguments):
    """Raise unless every argument is a finite number >= 0."""
    _check(arguments, lambda x: 0 <= x < math.inf, "a finite number >= 0")


def check_positive(**arguments):
    """Raise unless every argument is a finite number > 0."""
    _check(arguments, lambda x: 0 < x < math.inf, "a finite number > 0")


def check_decay(**arguments):
    """Raise unless every argument is a number in [0, 1), of at least float32 if it has a dtype."""
    for name, value in arguments.items():
        if isinstance(value, np.ndarray | jax.Array) and value.dtype.itemsize < 4:
            raise TypeError(
                f"{name} must be at least float32, got {value.dtype}, in which 0.999 is 1; "
                "optax.inject_hyperparams needs hyperparam_dtype=jnp.float32"
            )
    _check(arguments, lambda x: 0 <= x < 1, "a number in [0, 1)")


def check_rate(**arguments):
    """Raise unless every argument is a finite number >= 0 or a schedule (step -> number)."""
    numeric = {name: value for name, value in arguments.items() if not callable(value)}
    _check(numeric, lambda x: 0 <= x < math.inf, "a finite number >= 0 or a schedule")


def check_count(**arguments):
    """Raise unless every argument is an int >= 1, as what has a fixed shape or length needs."""
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool):
            traced = isinstance(value, jax.Array)
            hint = f'; optax.inject_hyperparams needs static_args="{name}"' if traced else ""
            raise TypeError(f"{name} must be an int >= 1, got {value!r}{hint}")
        if value < 1:
            raise ValueError(f"{name} must be an int >= 1, got {value}")


def _check(arguments, is_valid, valid):
    for name, value in arguments.items():
        if isinstance(value, jax.core.Tracer):
            continue
        number = isinstance(value, numbers.Real | np.ndarray | jax.Array) and np.ndim(value) == 0
        if not number or isinstance(value, bool):
            raise TypeError(f"{name} must be {valid}, got {value!r}")
        if not is_valid(float(value)):
            raise ValueError(f"{name} must be {valid}, got {value}")
