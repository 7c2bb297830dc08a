"""Traced programs (jaxprs), read with calls, loops and branches included, and compiled once."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

# What a compiled program may ask of Python while it runs, so that reading it proves nothing.
CALLBACKS = {"pure_callback", "io_callback"}
# How many functions are kept with their programs, and with the arrays that these close over.
MOST_KEPT = 32


@contextmanager
def own_settings() -> Iterator[None]:
    """A block with JAX's own switches as measurements need them, whatever the surroundings say.

    Matrix products at full precision, as TF32 is good for two digits; numbers moved between host
    and device, and promoted, whatever guards are set for a training loop.
    """
    with (
        jax.default_matmul_precision("highest"),
        jax.transfer_guard("allow"),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


@contextmanager
def of_many_runs() -> Iterator[None]:
    """A block whose programs hold many runs, of which one may diverge and has NaN by rule.

    So debug_nans, which would end all of them, is off, as transfer guards are.
    """
    with jax.debug_nans(False), jax.transfer_guard("allow"):
        yield


def compiled(fn: Callable, key: Hashable | None) -> Callable:
    """Return `fn` under jit, or the function that was given with an equal `key` before.

    So `key` must say all that `fn` computes, its arguments apart; with None nothing is remembered.
    The last MOST_KEPT are.
    """
    return jax.jit(fn) if key is None else _kept(_Known(key, fn))


@dataclass(frozen=True)
class _Known:
    key: Hashable
    fn: Callable = field(compare=False)


@lru_cache(maxsize=MOST_KEPT)
def _kept(known: _Known) -> Callable:
    return jax.jit(known.fn)


def as_program(value: Any) -> ClosedJaxpr | None:
    """The program that a parameter of an operation is, with its constants; None for another."""
    if isinstance(value, ClosedJaxpr):  # since JAX 0.12 a Jaxpr is one, too
        return value
    return ClosedJaxpr(value, ()) if isinstance(value, Jaxpr) else None


def subprograms(jaxpr: Jaxpr) -> Iterator[ClosedJaxpr]:
    """Yield the programs that the operations of a program run, not those inside of these."""
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values())):
            if (inner := as_program(value)) is not None:
                yield inner


def every_program(jaxpr: Jaxpr) -> Iterator[Jaxpr]:
    """Yield a program and those that its operations run, at any depth."""
    yield jaxpr
    for inner in subprograms(jaxpr):
        yield from every_program(inner.jaxpr)


def primitives(jaxpr: Jaxpr) -> Iterator[str]:
    """Yield the names of all operations, at any depth."""
    for each in every_program(jaxpr):
        yield from (equation.primitive.name for equation in each.eqns)


def readable(const: Any) -> Any:
    """Return a constant, of typed random keys their integers, which NumPy can read."""
    if isinstance(const, jax.core.Tracer) or not isinstance(const, jax.Array):
        return const
    if not jax.dtypes.issubdtype(const.dtype, jax.dtypes.prng_key):
        return const
    with jax.ensure_compile_time_eval():
        return jax.random.key_data(const)


def constants(program: ClosedJaxpr) -> Iterator[Any]:
    """Yield the arrays that a program has as constants, at any depth; typed keys as integers."""
    for const in program.consts:
        yield readable(const)
    for inner in subprograms(program.jaxpr):
        yield from constants(inner)
