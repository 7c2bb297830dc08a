"""Digests of content: of arrays and of traced programs, the same in every process.

A digest is BLAKE2b of 16 bytes, in hexadecimal. That of a program has its operations in order, what
each reads and its parameters, and the content of all constants. Names of variables and functions,
lines of the source, addresses, layouts and devices do not enter. Two programs with one digest
compute the same; two that compute the same may differ in theirs, as the same function traced by two
versions of JAX does.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from jaxsharp.core.programs import CALLBACKS, as_program, constants, primitives

SIZE = 16
# Parameters that say how a program is compiled or where it lies, not what it computes.
SILENT = ("name", "inline", "keep_unused", "donated_invars", "compiler_options_kvs", "debug_info")
PLACED = (jax.sharding.Sharding, jax.sharding.Mesh, jax.sharding.AbstractMesh)
ADDRESS = re.compile(r"0x[0-9a-f]+")


def of_array(array: Any) -> str:
    """Digest of an array: its dtype, its shape and every byte."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return of_text(f"{array.dtype} {of_array(jax.random.key_data(array))}")
    found = hashlib.blake2b(f"{array.dtype} {array.shape} ".encode(), digest_size=SIZE)
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return found.hexdigest()


def of_text(text: str) -> str:
    """Digest of a text."""
    return hashlib.blake2b(text.encode(), digest_size=SIZE).hexdigest()


def of_program(fn: Callable, *args: Any) -> str:
    """Digest of ``fn(*args)`` as it is traced; the arguments give structures, shapes and dtypes.

    A function that the program calls back on the host, and the rule of a custom derivative, are not
    read: trace the gradient for the latter. Nothing is compiled or computed.
    """
    program, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
    return of_traced(program, args, shapes)


def of_known_program(fn: Callable, *args: Any) -> str | None:
    """`of_program`, None where it would not tell two functions apart.

    So for one that closes over traced values, or calls back to Python.
    """
    program, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
    known = [*jax.tree.leaves(args), *constants(program)]
    if any(isinstance(leaf, jax.core.Tracer) for leaf in known):
        return None
    return None if CALLBACKS & set(primitives(program.jaxpr)) else of_traced(program, args, shapes)


def of_traced(program: ClosedJaxpr, args: Any, results: Any) -> str:
    """Digest of a traced program and of the structures of its arguments and results."""
    trees = [jax.tree.structure(tree) for tree in (args, results)]
    return of_text("\n".join([*(ADDRESS.sub("", str(tree)) for tree in trees), *lines(program)]))


def lines(program: ClosedJaxpr) -> Iterator[str]:
    """A program as text: constants by digest, variables by the order in which they appear."""
    jaxpr, numbers = program.jaxpr, {}

    def read(atom: Any) -> str:
        if isinstance(atom, Literal):
            return f"{kind(atom.aval)} {of_array(np.asarray(atom.val))}"
        return str(numbers[atom])

    def bind(variables: list) -> str:
        for variable in variables:
            numbers[variable] = len(numbers)
        return ", ".join(kind(variable.aval) for variable in variables)

    consts = [of_array(const) for const in program.consts]
    yield f"constants {consts}: {bind(jaxpr.constvars)}; arguments {bind(jaxpr.invars)}"
    for equation in jaxpr.eqns:
        known = {k: text(v) for k, v in equation.params.items() if k not in SILENT}
        inputs = ", ".join(map(read, equation.invars))
        yield f"{equation.primitive} {known} ({inputs}) -> {bind(equation.outvars)}"
    yield f"results {', '.join(map(read, jaxpr.outvars))}"


def kind(aval: Any) -> str:
    """Type of a value, without where it lies."""
    if not hasattr(aval, "shape"):
        return ADDRESS.sub("", str(aval))
    return f"{aval.dtype}{aval.shape}{' weak' if getattr(aval, 'weak_type', False) else ''}"


def text(value: Any) -> str:
    """A parameter of an operation as text, the same in every process."""
    if (program := as_program(value)) is not None:
        return of_text("\n".join(lines(program)))
    if isinstance(value, PLACED):
        return "placed"
    if isinstance(value, np.ndarray | jax.Array):
        return of_array(value)
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(f'{text(k)}: {text(v)}' for k, v in value.items()))}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(text, value)))}}}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}({', '.join(map(text, value))})"
    if hasattr(value, "call_wrapped") or (callable(value) and not isinstance(value, type)):
        return "function"
    return ADDRESS.sub("", repr(value))
