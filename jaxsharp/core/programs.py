"""Reading of traced programs (jaxprs), calls, loops and branches included."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def subprograms(jaxpr: Jaxpr) -> Iterator[ClosedJaxpr]:
    """Yield the programs that the operations of a program run, not those inside of these."""
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values())):
            if isinstance(value, ClosedJaxpr):
                yield value
            elif isinstance(value, Jaxpr):
                yield ClosedJaxpr(value, ())


def primitives(jaxpr: Jaxpr) -> Iterator[str]:
    """Yield the names of all operations, at any depth."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
    for inner in subprograms(jaxpr):
        yield from primitives(inner.jaxpr)


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
