"""Operations by what they do to linearity and scale; what no table has is not read."""

import jax.numpy as jnp
from jax.extend import core

from jaxsharp.core.programs import as_program

# One operand, rearranged.
RESHAPES = {"reshape", "transpose", "squeeze", "expand_dims", "copy", "convert_element_type"}
# Piecewise linear in the first operand, and of its scale; others are indices.
UNARY = RESHAPES | {
    *("broadcast_in_dim", "slice", "dynamic_slice", "rev", "neg", "abs", "split", "tile"),
    *("unstack", "reduce_sum", "reduce_max", "reduce_min", "cumsum", "cummax", "cummin"),
    *("reduce_window_sum", "reduce_window_max", "reduce_window_min", "reduce_precision"),
    *("copy_p", "sharding_constraint", "gather"),
}
# Piecewise linear in all operands, which have one scale.
ADDITIVE = {"add", "sub", "add_any", "max", "min", "concatenate", "stack", "pad", "clamp"}
# The same of the operands at these positions; the others are indices.
UPDATES = {
    "dynamic_update_slice": (0, 1),
    **dict.fromkeys(("scatter", "scatter-add", "scatter-min", "scatter-max"), (0, 2)),
}
# Each result is a rearrangement of its own operand.
SEPARATE = {"sort", "optimization_barrier"}
COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge"}
# Constant wherever it is continuous, and the same at every positive scale of its operand.
DIRECTIONS = {"sign", "argmax", "argmin"}
# Constant wherever it is continuous.
STEPS = {"floor", "ceil", "round"}
PRODUCTS = {"mul", "dot_general", "conv_general_dilated"}
# Known to be nonlinear in each of its operands.
NONLINEAR = {
    *("exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh", "sinh", "cosh", "tan", "sin"),
    *("cos", "asin", "acos", "atan", "asinh", "acosh", "atanh", "atan2", "erf", "erfc", "erf_inv"),
    *("sqrt", "rsqrt", "cbrt", "square", "integer_pow", "pow", "div", "lgamma", "digamma"),
    *("reduce_prod", "cumprod", "cumlogsumexp", "scatter_mul", "scatter-mul"),
}
# Each number of the result is made of those at its own place.
ELEMENTWISE = COMPARISONS | {
    *("add", "sub", "add_any", "max", "min", "clamp", "select_n", "neg", "abs", "sign", "copy"),
    *("copy_p", "convert_element_type", "reduce_precision", "sharding_constraint"),
    "optimization_barrier",
}
# Operations that run one program on the same operands, by the parameter that has it.
CALLS = {
    **dict.fromkeys(("jit", "pjit", "remat2", "checkpoint", "remat"), "jaxpr"),
    **dict.fromkeys(
        ("closed_call", "core_call", "custom_jvp_call", "custom_vjp_call"), "call_jaxpr"
    ),
}
# Calls whose derivative is not that of the program but a rule.
RULED = {"custom_jvp_call", "custom_vjp_call"}


def subprogram(eqn) -> core.ClosedJaxpr | None:
    """The program that a call (jit, custom derivative, checkpoint) runs on the same operands."""
    return as_program(eqn.params.get(CALLS.get(eqn.primitive.name)))


def scaled_operands(name: str, operands: list) -> list | None:
    """The operands whose scale is that of the result; None for an operation that has none.

    Others are indices and predicates.
    """
    if name in UPDATES:
        return [operands[i] for i in UPDATES[name]]
    if name == "select_n":
        return operands[1:]
    if name in UNARY | DIRECTIONS or name == "top_k":
        return operands[:1]
    return operands if name in ADDITIVE | COMPARISONS | SEPARATE else None


def mixed_axes(name: str, eqn) -> tuple[int, ...] | None:
    """Axes along which an operation mixes the numbers of its operand; None where it may be all."""
    if name.startswith("reduce_window"):
        sizes = eqn.params["window_dimensions"]
        return tuple(axis for axis, size in enumerate(sizes) if size > 1)
    if name.startswith("cum"):
        return (eqn.params["axis"],)
    return tuple(eqn.params["axes"]) if "axes" in eqn.params else None


def kind(eqn) -> str:
    """The name under which an operation stands in the tables.

    Conversions between floating-point numbers are linear; others are steps, or have no name.
    """
    name = eqn.primitive.name
    if name == "convert_element_type":
        old, new = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
        if jnp.issubdtype(old, jnp.floating) and not jnp.issubdtype(new, jnp.floating):
            if jnp.issubdtype(new, jnp.bool_):
                return "sign"
            return "round" if jnp.issubdtype(new, jnp.integer) else f"conversion to {new}"
    if name == "gather" and eqn.params.get("fill_value") is not None:
        return "gather with a fill_value"
    if name == "abs" and jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.complexfloating):
        return "abs of complex numbers"
    return name


def is_product(eqn, position: int) -> bool:
    """Whether the gradient of the operand at ``position`` is one product of two matrices."""
    if not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating):
        return False
    if eqn.primitive.name == "conv_general_dilated":
        groups = eqn.params["feature_group_count"], eqn.params["batch_group_count"]
        return position == 1 and groups == (1, 1)
    return eqn.primitive.name == "dot_general" and not eqn.params["dimension_numbers"][1][0]
