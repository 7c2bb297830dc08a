"""Runs a program with its products tapped; their operands, and what comes back, as matrices."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Float

from jaxsharp.curvature.structure.reading import Place, Product
from jaxsharp.curvature.structure.tables import subprogram


def evaluate_tapped(
    closed: core.ClosedJaxpr,
    inputs: list[Array],
    taps: dict[int, Array],
    products: dict[Place, Product],
    at: Place = (),
) -> tuple[list[Array], dict[int, Array]]:
    """Run a program with ``taps[leaf]`` added to the output of each product.

    Returns the outputs and, by leaf, the activations that entered the products.
    """
    jaxpr, activations = closed.jaxpr, {}
    env = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(jaxpr.invars, inputs, strict=True))

    def lookup(atom):
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    for i, eqn in enumerate(jaxpr.eqns):
        operands, place = [lookup(atom) for atom in eqn.invars], (*at, i)
        inner = subprogram(eqn)
        if inner and any(key[: len(place)] == place for key in products):
            outputs, more = evaluate_tapped(inner, operands, taps, products, place)
            activations |= more
        else:
            outputs = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
        if product := products.get(place):
            activations[product.leaf] = operands[1 - product.position]
            outputs = [outputs[0] + taps[product.leaf]]
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [lookup(atom) for atom in jaxpr.outvars], activations


def operand_axes(product: Product) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes of the parameter, as the product meets it, that are inputs, and those of outputs."""
    if product.equation.primitive.name == "conv_general_dilated":
        out, features, *window = product.equation.params["dimension_numbers"].rhs_spec
        return (*window, features), (out,)
    inputs = product.equation.params["dimension_numbers"][0][product.position]
    ndim = product.equation.invars[product.position].aval.ndim
    return tuple(inputs), tuple(axis for axis in range(ndim) if axis not in inputs)


def activation_rows(product: Product, activation: Array) -> Float[Array, "positions inputs"]:
    """The other operand as a matrix, its columns in the order of the parameter's input axes."""
    if product.equation.primitive.name == "conv_general_dilated":
        return patches(activation, product.equation)
    contracted = product.equation.params["dimension_numbers"][0][1 - product.position]
    free = [axis for axis in range(activation.ndim) if axis not in contracted]
    size = math.prod(activation.shape[axis] for axis in contracted)
    return activation.transpose(*free, *contracted).reshape(-1, size)


def signal_rows(product: Product, signal: Array) -> Float[Array, "positions outputs"]:
    """What is propagated back to the product's output, as a matrix."""
    operand = product.equation.invars[product.position].aval
    outputs = math.prod(operand.shape[axis] for axis in operand_axes(product)[1])
    if product.equation.primitive.name == "conv_general_dilated":
        batch, features, *window = product.equation.params["dimension_numbers"].out_spec
        return signal.transpose(batch, *window, features).reshape(-1, outputs)
    return signal.reshape(-1, outputs) if product.position else signal.reshape(outputs, -1).T


def patches(x: Array, equation) -> Float[Array, "positions inputs"]:
    """Slices of x that a convolution's kernel meets, one row a position of its output."""
    numbers = equation.params["dimension_numbers"]
    batch, features, *window = numbers.lhs_spec
    sizes = [equation.invars[1].aval.shape[axis] for axis in numbers.rhs_spec[2:]]
    counts = [equation.outvars[0].aval.shape[axis] for axis in numbers.out_spec[2:]]
    strides, steps = equation.params["window_strides"], equation.params["rhs_dilation"]
    padding = zip(equation.params["padding"], equation.params["lhs_dilation"], strict=True)
    padding = [(low, high, dilation - 1) for (low, high), dilation in padding]
    x = x.transpose(batch, *window, features)
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *padding, (0, 0, 0)])
    slices = []
    for offsets in itertools.product(*map(range, sizes)):
        along = zip(offsets, steps, counts, strides, strict=True)
        slices.append(x[:, *[slice(o * t, o * t + (n - 1) * s + 1, s) for o, t, n, s in along]])
    return jnp.concatenate(slices, -1).reshape(-1, math.prod(sizes) * x.shape[-1])


def parameter_matrix(product: Product, leaf: Array) -> Float[Array, "inputs outputs"]:
    """The parameter as the matrix that the product meets, in the parameter's own dtype."""
    for eqn in product.reshapes:
        if eqn.primitive.name != "convert_element_type":
            leaf = eqn.primitive.bind(leaf, **eqn.primitive.get_bind_params(eqn.params))
    inputs, outputs = operand_axes(product)
    size = math.prod(leaf.shape[axis] for axis in inputs)
    return leaf.transpose(*inputs, *outputs).reshape(size, -1)


def like_leaf(product: Product, matrix: Float[Array, "inputs outputs"]) -> Array:
    """Entries of the gradient's matrix, put where the parameter has them."""
    first, place = (product.reshapes[0], 0) if product.reshapes else product[2:]
    leaf = first.invars[place].aval
    # In the entries' dtype, whatever the network converts the leaf to.
    like = jax.ShapeDtypeStruct(leaf.shape, matrix.dtype)
    (entries,) = jax.linear_transpose(partial(parameter_matrix, product), like)(matrix)
    return entries
