"""Reads a program equation by equation; what it reads it for, `analysis` says."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core, source_info_util

from jaxsharp.core.programs import readable, subprograms
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


class Value(NamedTuple):
    """Abstract value: parameters it depends on, log scale, and the leaf it is a reshaping of.

    ``scale`` is a vector over all leaves, or None where any scale fits (zeros, infinities);
    ``data``: whether it depends on the example.
    """

    leaves: frozenset[int]
    scale: np.ndarray | None
    source: int | None = None
    reshapes: tuple[core.JaxprEqn, ...] = ()
    data: bool = False


class Reader:
    """Reads a program equation by equation and gathers what ``read`` returns."""

    def __init__(self, names: list[str], num_stats: int, captured: list[Any]):
        self.num_leaves = len(names) + num_stats + len(captured)
        self.columns = {id(c): len(names) + num_stats + i for i, c in enumerate(captured)}
        self.first_use: dict[int, str] = {}
        self.held: set[int] = set()
        self.names = names
        self.constraints: list[np.ndarray] = []
        self.uses = [0] * len(names)
        self.products: dict[Place, Product] = {}
        self.refusals: list[str] = []
        self.false_rules: list[str] = []

    def constant(self, value: Any) -> Value:
        """A literal or constant array; zeros and infinities fit any scale."""
        scale = np.zeros(self.num_leaves)
        if isinstance(value, jax.core.Tracer):
            return Value(frozenset(), scale)
        array = np.asarray(readable(value))
        if array.dtype != bool and not np.any(np.isfinite(array) & (array != 0)):
            return Value(frozenset(), None)
        if id(value) in self.columns and jnp.issubdtype(array.dtype, jnp.floating):
            scale[self.columns[id(value)]] = 1
        return Value(frozenset(), scale)

    def read(self, closed: core.ClosedJaxpr, inputs: list[Value], at: Place = ()) -> list[Value]:
        """Abstract outputs of a program."""
        jaxpr = closed.jaxpr
        env = dict(zip(jaxpr.constvars, map(self.constant, closed.consts), strict=True))
        env.update(zip(jaxpr.invars, inputs, strict=True))
        captured = dict(zip(jaxpr.constvars, map(id, closed.consts), strict=True))

        def lookup(atom):
            return self.constant(atom.val) if isinstance(atom, core.Literal) else env[atom]

        for i, eqn in enumerate(jaxpr.eqns):
            operands, place = [lookup(atom) for atom in eqn.invars], (*at, i)
            for atom in eqn.invars:
                if not isinstance(atom, core.Literal) and atom in captured:
                    self.first_use.setdefault(captured[atom], where(eqn))
            if inner := subprogram(eqn):
                self.check_rule(eqn, operands)
                outputs = self.read(inner, operands, place)
            else:
                data = any(v.data for v in operands)
                outputs = self.equation(eqn, operands, place)
                outputs = [v._replace(data=data) for v in outputs]
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
            self.check_disjoint(f"{name}{where(eqn)}", operands)
            self.hold(leaves, operands)
            known = [v.scale for v in operands if v.scale is not None]
            out = Value(leaves, sum(known) if len(known) == 2 else None)
        elif name == "div" and not operands[1].leaves and operands[1].scale is not None:
            self.hold(leaves, operands)
            above, below = (v.scale for v in operands)
            out = Value(leaves, None if above is None else above - below)
        else:
            out = self.unscaled(name, eqn, operands)
        return [out] * len(eqn.outvars)

    def hold(self, leaves: frozenset[int], operands: list[Value]) -> None:
        """Note the statistics and constants that multiply the data before any parameter does."""
        if not leaves and any(v.data for v in operands):
            for value in operands:
                if value.scale is not None:
                    self.held.update(map(int, np.flatnonzero(value.scale)))

    def check_rule(self, eqn, operands: list[Value]) -> None:
        """Refuse a custom derivative that is not its function's, where a parameter meets it."""
        leaves = frozenset().union(*(v.leaves for v in operands))
        if eqn.primitive.name in tables.RULED and leaves:
            agrees = rules.is_derivative(eqn)
            if not agrees:
                name = eqn.primitive.name.removesuffix("_call") + where(eqn)
                what = "could not be compared with" if agrees is None else "is not"
                self.false_rules.append(
                    f"the rule of a {name} that is applied to a value that depends on parameter "
                    f"{self.names[min(leaves)]} {what} its function's derivative"
                )

    def check_rules_inside(self, jaxpr: core.Jaxpr, operands: list[Value]) -> None:
        """``check_rule`` of every custom derivative at any depth of a loop or branch."""
        for eqn in jaxpr.eqns:
            self.check_rule(eqn, operands)
        for inner in subprograms(jaxpr):
            self.check_rules_inside(inner.jaxpr, operands)

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

    def unscaled(self, name: str, eqn, operands: list[Value]) -> Value:
        """Any other operation: no parameter may reach it, and its operands keep their scale."""
        leaves = frozenset().union(*(v.leaves for v in operands))
        if leaves:
            for inner in core.jaxprs_in_params(eqn.params):
                self.check_rules_inside(inner, operands)
            if name in tables.NONLINEAR:
                self.refuse(leaves, f"{name}{where(eqn)} is applied to a value that")
            else:
                self.refusals.append(
                    f"{name}{where(eqn)} is applied to a value that depends on parameter "
                    f"{self.names[min(leaves)]}: {name} is not read, so that the network may not "
                    "be piecewise linear in it"
                )
        self.keep_scale(operands)
        return Value(leaves, np.zeros(self.num_leaves))

    def refuse(self, leaves: frozenset[int], what: str) -> None:
        """Note that the network is not piecewise linear in ``leaves``, if there are any."""
        if leaves:
            self.refusals.append(
                f"{what} depends on parameter {self.names[min(leaves)]}: "
                "the network is not piecewise linear in it"
            )


def where(eqn) -> str:
    """Where an operation stands in the source, as ' (network.py:12)', if that is known."""
    line = source_info_util.summarize(eqn.source_info)
    found = re.search(r"([^/\\\s]+\.py):(\d+)", line)
    return f" ({found[1]}:{found[2]})" if found else ""
