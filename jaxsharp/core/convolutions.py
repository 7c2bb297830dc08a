"""Convolutions as matrix products, in functions that anybody wrote.

XLA on the CPU runs a convolution inside a loop ten to a hundred times slower than outside of one,
and a convolution that is vmapped over its kernels becomes a slow grouped one on every platform.
As shifted slices of the input times a matrix it has neither defect, nor have its derivatives.
"""

import itertools
import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal

from jaxsharp.core.programs import as_program, primitives

CONVOLUTION = "conv_general_dilated"
# Kernels of more points stay convolutions, unless their windows do not overlap.
MOST_POINTS = 64
# Operations whose programs are read into; others, as those with custom derivatives, stay.
OPENED = ("jit", "pjit", "closed_call", "remat", "remat2", "checkpoint", "scan", "while", "cond")


def as_matrix_products(fn: Callable) -> Callable:
    """Return `fn` with its convolutions, calls and loops included, as matrix products.

    The same function to rounding. Convolutions in groups, of dilated inputs (transposed ones), of
    kernels with more than 64 points, and inside of functions with custom derivatives stay as they
    are. `fn` takes and returns pytrees of arrays, and is traced once more in each trace of it.
    """

    @wraps(fn)
    def lowered(*args: Any) -> Any:
        program, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
        if CONVOLUTION not in primitives(program.jaxpr):
            return fn(*args)
        found = evaluate(program, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    return lowered


def fast_in_loops(fn: Callable) -> Callable:
    """Return `fn` in the form that loops on this platform are fast with: on the CPU, without
    convolutions."""
    return as_matrix_products(fn) if jax.default_backend() == "cpu" else fn


def evaluate(program: ClosedJaxpr, *args: Any) -> list:
    """The results of a program, its convolutions as matrix products."""
    jaxpr, values = program.jaxpr, {}

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    values |= zip(jaxpr.constvars, program.consts, strict=True)
    values |= zip(jaxpr.invars, args, strict=True)
    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        name, params = equation.primitive.name, equation.params
        if name == CONVOLUTION and is_plain(*inputs, params):
            found = [convolution(*inputs, params)]
        else:
            if name in OPENED:
                params = {key: opened(value) for key, value in params.items()}
            bound = equation.primitive.get_bind_params(params)
            found = equation.primitive.bind(*inputs, **bound)
            found = found if equation.primitive.multiple_results else [found]
        values |= zip(equation.outvars, found, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def opened(value: Any) -> Any:
    """A parameter of an operation, its programs without convolutions."""
    if isinstance(value, tuple):
        return tuple(opened(each) for each in value)
    program = as_program(value)
    if program is None or CONVOLUTION not in primitives(program.jaxpr):
        return value
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in program.jaxpr.invars]
    made = jax.make_jaxpr(lambda *args: evaluate(program, *args))(*shapes)
    return made if isinstance(value, ClosedJaxpr) else made.jaxpr


def is_plain(inputs, kernel, params: dict) -> bool:
    """Whether a convolution is one that `convolution` takes."""
    spec = params["dimension_numbers"]
    sizes = [kernel.shape[axis] for axis in spec.rhs_spec[2:]]
    return (
        params["feature_group_count"] == params["batch_group_count"] == 1
        and set(params["lhs_dilation"]) <= {1}
        and math.prod(sizes) <= MOST_POINTS
        and inputs.dtype == kernel.dtype
    )


def convolution(inputs, kernel, params: dict) -> jax.Array:
    """A convolution as the slices under each point of its kernel, side by side, times a matrix."""
    spec, strides = params["dimension_numbers"], params["window_strides"]
    inputs = jnp.transpose(inputs, (spec.lhs_spec[0], *spec.lhs_spec[2:], spec.lhs_spec[1]))
    kernel = jnp.transpose(kernel, (*spec.rhs_spec[2:], spec.rhs_spec[1], spec.rhs_spec[0]))
    zero = jnp.zeros((), inputs.dtype)
    margins = [(0, 0, 0), *((low, high, 0) for low, high in params["padding"]), (0, 0, 0)]
    inputs = jax.lax.pad(inputs, zero, margins)
    sizes, dilation = kernel.shape[:-2], params["rhs_dilation"]
    spans = [(size - 1) * step + 1 for size, step in zip(sizes, dilation, strict=True)]
    lengths = [
        (whole - span) // stride + 1
        for whole, span, stride in zip(inputs.shape[1:-1], spans, strides, strict=True)
    ]

    def under(point):
        starts = [at * step for at, step in zip(point, dilation, strict=True)]
        stops = [
            start + (length - 1) * stride + 1
            for start, length, stride in zip(starts, lengths, strides, strict=True)
        ]
        n, channels = inputs.shape[0], inputs.shape[-1]
        return jax.lax.slice(inputs, (0, *starts, 0), (n, *stops, channels), (1, *strides, 1))

    points = itertools.product(*map(range, sizes))
    windows = jnp.concatenate([under(point) for point in points], axis=-1)
    matrix = kernel.reshape(-1, kernel.shape[-1])
    found = jax.lax.dot_general(
        *(windows, matrix),
        (((windows.ndim - 1,), (0,)), ((), ())),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    out = spec.out_spec
    places = {out[0]: 0, out[1]: found.ndim - 1}
    places |= {axis: i + 1 for i, axis in enumerate(out[2:])}
    return jnp.transpose(found, [places[axis] for axis in range(found.ndim)])
