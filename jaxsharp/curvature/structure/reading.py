"""What a network's program says about its parameters: linearity, and the rescalings it admits.

A network is traced for a single example, and each equation of the program is read once.

*Linearity.* Every value carries the set of parameters it depends on. If sums, maxima and
selections join these sets, products join only disjoint ones, and no other operation meets a
parameter, the network is piecewise linear in each parameter with the others held fixed. Then
every diagonal block of the Hessian of a convex output loss is that of the Gauss-Newton matrix.

*Rescalings.* Give parameter j the factor exp(z_j). Every value then has a factor exp(<s, z>),
provided that the terms of each sum, and the operands of each maximum, have the same one, and
that whatever enters a nonlinear operation has none. These are linear equations in z; together
with <s, z> = 0 for the logits, their solutions are the rescalings that leave the network's
function unchanged. BatchNorm statistics are scaled along: a running mean like a bias, while a
running variance passes through a square root of (var + eps) and so must keep its scale.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy
from jax.extend import core
from jaxtyping import Array, Float, PyTree

from jaxsharp.curvature.structure import rules, tables
from jaxsharp.curvature.structure.tables import is_product, kind, subprogram


class StructureError(ValueError):
    """The network does not have the structure that an exact method needs."""


class Product(NamedTuple):
    """The one operation on a parameter, a matrix product or convolution with activations."""

    leaf: int
    reshapes: tuple[core.JaxprEqn, ...]  # these lead from the leaf to the operand
    equation: core.JaxprEqn
    position: int  # of the parameter among the two operands


Place = tuple[int, ...]  # index of an equation, after those of the calls it stands in


class Structure(NamedTuple):
    """The program of one example, its products by place, and the exponents.

    ``products`` has an entry for each parameter that enters nothing but one product;
    ``exponents`` (J, K), one row a parameter leaf: for every v in R^K, multiplying leaf j by
    exp(<exponents[j], v>) leaves the function unchanged (statistics scaled along);
    ``refusals``: why the network is not piecewise linear in each parameter, empty if it is.
    """

    program: core.ClosedJaxpr
    products: dict[Place, Product]
    exponents: Float[np.ndarray, "J K"]
    refusals: list[str]


class Value(NamedTuple):
    """Abstract value: parameters it depends on, log scale, and the leaf it is a reshaping of.

    ``scale`` is a vector over all leaves, or None where any scale fits (zeros, infinities).
    """

    leaves: frozenset[int]
    scale: np.ndarray | None
    source: int | None = None
    reshapes: tuple[core.JaxprEqn, ...] = ()


class Reader:
    """Reads a program equation by equation and gathers what ``read`` returns."""

    def __init__(self, num_leaves: int, names: list[str]):
        self.num_leaves = num_leaves
        self.names = names
        self.constraints: list[np.ndarray] = []
        self.uses = [0] * len(names)
        self.products: dict[Place, Product] = {}
        self.refusals: list[str] = []
        self.false_rules: list[str] = []

    def constant(self, value: Any) -> Value:
        """A literal or constant array; zeros and infinities fit any scale."""
        array = np.asarray(value)
        anything = array.dtype != bool and not np.any(np.isfinite(array) & (array != 0))
        return Value(frozenset(), None if anything else np.zeros(self.num_leaves))

    def read(self, closed: core.ClosedJaxpr, inputs: list[Value], at: Place = ()) -> list[Value]:
        """Abstract outputs of a program."""
        jaxpr = closed.jaxpr
        env = dict(zip(jaxpr.constvars, map(self.constant, closed.consts), strict=True))
        env.update(zip(jaxpr.invars, inputs, strict=True))

        def lookup(atom):
            return self.constant(atom.val) if isinstance(atom, core.Literal) else env[atom]

        for i, eqn in enumerate(jaxpr.eqns):
            operands, place = [lookup(atom) for atom in eqn.invars], (*at, i)
            if inner := subprogram(eqn):
                self.check_rule(eqn, operands)
                outputs = self.read(inner, operands, place)
            else:
                outputs = self.equation(eqn, operands, place)
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [lookup(atom) for atom in jaxpr.outvars]

    def equation(self, eqn, operands: list[Value], place: Place) -> list[Value]:
        """Abstract outputs of a single operation."""
        name = kind(eqn)
        leaves = frozenset().union(*(v.leaves for v in operands))
        if name not in tables.RESHAPES:
            for position, value in enumerate(operands):
                if value.source is not None:
                    self.uses[value.source] += 1
                    if is_product(eqn, position):
                        entry = Product(value.source, value.reshapes, eqn, position)
                        self.products[place] = entry
        constant = Value(frozenset(), np.zeros(self.num_leaves))
        if name in tables.RESHAPES:
            out = operands[0]._replace(reshapes=(*operands[0].reshapes, eqn))
        elif name in tables.SEPARATE:
            return [Value(v.leaves, v.scale) for v in operands]
        elif name == "top_k":
            return [Value(leaves, operands[0].scale), constant]
        elif name in tables.UNARY:
            self.check_indices(name, operands[1:])
            out = Value(operands[0].leaves, operands[0].scale)
        elif name in tables.UPDATES:
            kept = [operands[i] for i in tables.UPDATES[name]]
            self.check_indices(name, [v for v in operands if not any(v is k for k in kept)])
            out = Value(leaves, self.equal([v.scale for v in kept]))
        elif name in tables.ADDITIVE:
            out = Value(leaves, self.equal([v.scale for v in operands]))
        elif name == "select_n":
            out = Value(leaves, self.equal([v.scale for v in operands[1:]]))
        elif name in tables.COMPARISONS:
            self.equal([v.scale for v in operands])
            out = constant
        elif name in tables.DIRECTIONS:
            out = constant
        elif name in tables.STEPS:
            self.keep_scale(operands)
            out = constant
        elif name in tables.PRODUCTS:
            self.check_disjoint(name, operands)
            scales = [v.scale for v in operands]
            out = Value(leaves, None if any(s is None for s in scales) else sum(scales))
        elif name == "div" and not operands[1].leaves and operands[1].scale is not None:
            above, below = (v.scale for v in operands)
            out = Value(leaves, None if above is None else above - below)
        else:
            out = self.unscaled(name, operands)
        return [out] * len(eqn.outvars)

    def check_rule(self, eqn, operands: list[Value]) -> None:
        """Refuse a custom derivative that is not its function's, where a parameter meets it."""
        leaves = frozenset().union(*(v.leaves for v in operands))
        if eqn.primitive.name in tables.RULED and leaves:
            agrees = rules.is_derivative(eqn)
            if not agrees:
                name = eqn.primitive.name.removesuffix("_call")
                what = "could not be compared with" if agrees is None else "is not"
                self.false_rules.append(
                    f"the rule of a {name} that is applied to a value that depends on parameter "
                    f"{self.names[min(leaves)]} {what} its function's derivative"
                )

    def check_indices(self, name: str, indices: list[Value]) -> None:
        """Indices depend on no parameter, except by steps, and keep their value."""
        for value in indices:
            self.refuse(value.leaves, f"{name} takes an index that")
        self.keep_scale(indices)

    def keep_scale(self, operands: list[Value]) -> None:
        """Require a factor of one."""
        self.constraints += [v.scale for v in operands if v.scale is not None]

    def equal(self, scales: list[np.ndarray | None]) -> np.ndarray | None:
        """Require equal scales; return theirs."""
        known = [s for s in scales if s is not None]
        self.constraints += [s - known[0] for s in known[1:]]
        return known[0] if known else None

    def check_disjoint(self, name: str, operands: list[Value]) -> None:
        """Refuse a product of two values that depend on one parameter."""
        self.refuse(
            operands[0].leaves & operands[1].leaves, f"{name} multiplies two values, each of which"
        )

    def unscaled(self, name: str, operands: list[Value]) -> Value:
        """Any other operation: no parameter may reach it, and its operands keep their scale."""
        known = name in tables.NONLINEAR
        for value in operands:
            if known:
                self.refuse(value.leaves, f"{name} is applied to a value that")
            elif value.leaves:
                self.refusals.append(
                    f"{name} is applied to a value that depends on parameter "
                    f"{self.names[min(value.leaves)]}: {name} is not read, so that the network may "
                    "not be piecewise linear in it"
                )
        self.keep_scale(operands)
        leaves = frozenset().union(*(v.leaves for v in operands))
        return Value(leaves, np.zeros(self.num_leaves))

    def refuse(self, leaves: frozenset[int], what: str) -> None:
        """Note that the network is not piecewise linear in ``leaves``, if there are any."""
        if leaves:
            self.refusals.append(
                f"{what} depends on parameter {self.names[min(leaves)]}: "
                "the network is not piecewise linear in it"
            )


def analyze(
    fn: Callable, params: PyTree, stats: PyTree, image: Array | np.ndarray | jax.ShapeDtypeStruct
) -> Structure:
    """``read``, or StructureError if the network is not piecewise linear in each parameter."""
    structure = read(fn, params, stats, image)
    if structure.refusals:
        raise StructureError(structure.refusals[0])
    return structure


def read(
    fn: Callable, params: PyTree, stats: PyTree, image: Array | np.ndarray | jax.ShapeDtypeStruct
) -> Structure:
    """What the program of ``fn(params, stats, image) -> logits``, of a single example, says.

    Raises StructureError for a custom derivative rule that parameters reach and that is not its
    function's derivative (compared at random points, see ``rules``), or that cannot be compared.
    """
    struct = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype)  # noqa: E731
    params, stats, image = jax.tree.map(struct, (params, stats, image))
    program = jax.make_jaxpr(fn)(params, stats, image)
    paths = [jax.tree_util.keystr(p) or "params" for p, _ in jax.tree.leaves_with_path(params)]
    num_params, num_stats = len(paths), len(jax.tree.leaves(stats))
    reader = Reader(num_params + num_stats, paths)
    unit = np.eye(num_params + num_stats)
    inputs = [Value(frozenset({j}), unit[j], j) for j in range(num_params)]
    floating = [jax.numpy.issubdtype(a.dtype, jax.numpy.floating) for a in jax.tree.leaves(stats)]
    inputs += [Value(frozenset(), unit[num_params + j] * f) for j, f in enumerate(floating)]
    inputs.append(Value(frozenset(), np.zeros(num_params + num_stats)))
    (logits,) = reader.read(program, inputs)
    if reader.false_rules:
        raise StructureError(reader.false_rules[0])
    constraints = reader.constraints + ([] if logits.scale is None else [logits.scale])
    if logits.source is not None:
        reader.uses[logits.source] += 1
    products = {at: p for at, p in reader.products.items() if reader.uses[p.leaf] == 1}
    exponents = solutions(constraints, num_params, num_params + num_stats)
    return Structure(program, products, exponents, reader.refusals)


def solutions(constraints: list[np.ndarray], num_params: int, num_leaves: int) -> np.ndarray:
    """Orthonormal basis (J, K), restricted to the parameters, of {z: <c, z> = 0 for all c}."""
    matrix = np.stack([np.zeros(num_leaves), *constraints])
    null = scipy.linalg.null_space(matrix)[:num_params]
    return scipy.linalg.orth(null, rcond=1e-10) if null.size else np.zeros((num_params, 0))


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
