"""Names and numbers that a user gives: checked, or refused in one line that says what is valid."""

import difflib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def known(kind: str, name: str, valid: Iterable[str]) -> str:
    """The name itself, or ValueError with the valid ones, the closest first."""
    valid = list(valid)
    if name in valid:
        return name
    order = difflib.get_close_matches(name, valid, n=len(valid), cutoff=0.0)
    raise ValueError(f"unknown {kind} {name!r}; valid are {', '.join(order)}")


def known_list(kind: str, names: str, valid: Iterable[str]) -> tuple[str, ...]:
    """Names separated by commas, each once."""
    found = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not found:
        raise ValueError(f"no {kind} is named; valid are {', '.join(valid)}")
    return tuple(known(kind, name, valid) for name in found)


def checked(settings: Any) -> Any:
    """Settings or Options that passed their own check."""
    settings.check()
    return settings


def at_least_one(name: str, value: int) -> int:
    """The value itself, or ValueError."""
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
    return value


def width_of(text: str) -> int | None:
    """Members in a program: a number, or None for "auto"."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"width is {text!r}; it must be auto or a number from 1")
    return int(text)


def known_classes(labels: Any, shape: tuple[int, ...], num_classes: int) -> jax.Array | None:
    """None for integers from 0 to num_classes - 1 of a shape; ValueError for anything else.

    Of traced labels, whose values are not known: 1 for each that is a class, NaN for the others.
    """
    dtype, found = jnp.result_type(labels), jnp.shape(labels)
    if not jnp.issubdtype(dtype, jnp.integer) or found != tuple(shape):
        raise ValueError(
            f"labels are {dtype} of shape {found}; they must be integers of shape {tuple(shape)}, "
            "the index of the class of each example, not one-hot"
        )
    if isinstance(labels, jax.core.Tracer):
        return jnp.where((labels >= 0) & (labels < num_classes), 1.0, jnp.nan)
    if isinstance(labels, jax.Array) and not labels.is_fully_addressable:
        return None
    values = np.asarray(labels)
    wrong = values[(values < 0) | (values >= num_classes)]
    if wrong.size:
        raise ValueError(f"labels hold {wrong[0]}; the classes are 0 to {num_classes - 1}")
    return None
