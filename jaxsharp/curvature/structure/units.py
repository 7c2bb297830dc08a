"""One scale for each hidden unit: the rescalings of single units that a program admits.

Give unit u the scale exp(x_u): what it puts out is multiplied by that; inputs and logits keep
theirs, x_0 = 0. An entry of a parameter that leads from unit u to unit v, as one of a kernel does,
takes the factor exp(x_v - x_u); one that is added to unit v, as of a bias, takes exp(x_v). So every
entry has two units, its tail u and its head v.

They are read off the program of one example. Each number of it has a label, its unit; operations
that put numbers in other places put their labels there. What is added, or compared by a maximum,
is tied: it is one unit. So is what one entry of a parameter meets at several places, as the
positions of a channel; a product with a parameter makes new units. All labels of an array may be
tied where nothing finer is known of an operation: the group is smaller then, but each of its
rescalings leaves the function unchanged, and those of whole layers are always among them.

Parameters that have met nothing but constants are no activations yet: their entries are labelled by
slots. A slot has its tail and its head from the product, or the sum, in which it meets others.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, PyTree

from jaxsharp.curvature.structure import layouts, tables
from jaxsharp.curvature.structure.analysis import Structure, analyze
from jaxsharp.curvature.structure.arranging import arranged
from jaxsharp.curvature.structure.meetings import Meetings, Value, constant
from jaxsharp.curvature.structure.reading import StructureError, where
from jaxsharp.curvature.structure.tables import kind, subprogram
from jaxsharp.curvature.structure.ties import ANY, FIXED, Labels, Ties


class Units(NamedTuple):
    """Units of the entries of parameters and statistics, by number; unit 0 keeps its scale.

    For every x in R^(num + 1) with x[0] = 0, multiplying each entry of the parameters by
    exp(x[heads] - x[tails]), and of the statistics by exp(x[statistics]), leaves the function
    unchanged. ``heads``, ``tails`` and ``statistics`` are trees of arrays of their shapes.
    """

    num: int
    tails: PyTree
    heads: PyTree
    statistics: PyTree


def analyze_units(
    fn: Callable, params: PyTree, stats: PyTree, image: Array | np.ndarray | jax.ShapeDtypeStruct
) -> Units:
    """The rescalings of single hidden units of ``fn(params, stats, image) -> logits``.

    Raises and warns as ``analyze``, whose rescalings are among these; StructureError too for
    parameters that enter several products, and for products of two values that both have units.
    """
    return read_units(analyze(fn, params, stats, image), params, stats, image)


def read_units(
    structure: Structure,
    params: PyTree,
    stats: PyTree,
    image: Array | np.ndarray | jax.ShapeDtypeStruct,
) -> Units:
    """What ``analyze_units`` returns, of a program that was read before."""
    leaves, treedef = jax.tree.flatten(params)
    of_stats, stats_treedef = jax.tree.flatten(stats)
    names = [jax.tree_util.keystr(p) or "params" for p, _ in jax.tree.leaves_with_path(params)]
    meetings = Meetings(names, [np.shape(leaf) for leaf in leaves])
    labels = [
        meetings.labels.new(*np.shape(leaf))
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        else np.full(np.shape(leaf), FIXED)
        for leaf in of_stats
    ]
    inputs = [Value(slots, slots=True, params=True) for slots in meetings.entries]
    inputs += [Value(each) for each in labels]
    inputs += [Value(np.full(image.shape, FIXED), data=True)]
    (logits,) = UnitReader(meetings).read(structure.program, inputs)
    meetings.fix(logits)
    num, tails, heads, numbers = meetings.units()
    return Units(
        num,
        treedef.unflatten([tails[slots] for slots in meetings.entries]),
        treedef.unflatten([heads[slots] for slots in meetings.entries]),
        stats_treedef.unflatten([numbers[each] for each in labels]),
    )


class UnitReader:
    """Reads a program equation by equation and ties what has to be of one scale."""

    def __init__(self, meetings: Meetings):
        self.meetings, self.labels = meetings, meetings.labels

    def read(self, closed: core.ClosedJaxpr, inputs: list[Value]) -> list[Value]:
        """Labels of the outputs of a program."""
        jaxpr = closed.jaxpr
        env = dict(zip(jaxpr.constvars, map(constant, closed.consts), strict=True))
        env.update(zip(jaxpr.invars, inputs, strict=True))

        def lookup(atom):
            return constant(atom.val) if isinstance(atom, core.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            operands = [lookup(atom) for atom in eqn.invars]
            inner = subprogram(eqn)
            outputs = self.read(inner, operands) if inner else self.equation(eqn, operands)
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [lookup(atom) for atom in jaxpr.outvars]

    def equation(self, eqn, operands: list[Value]) -> list[Value]:
        """Labels of the outputs of a single operation, as far as they are numbers with a scale."""
        name, data = kind(eqn), any(v.data for v in operands)
        shapes = [getattr(v.aval, "shape", ()) for v in eqn.outvars]
        unscaled = [Value(np.full(shape, FIXED), data=data) for shape in shapes]
        kept = tables.scaled_operands(name, operands)
        if name in tables.PRODUCTS:
            found = [self.product(name, eqn, *operands)]
        elif name == "div" and not operands[1].params:
            self.meetings.fix(operands[1])
            found = [operands[0]._replace(labels=np.broadcast_to(operands[0].labels, shapes[0]))]
        elif kept is None:
            for value in operands:
                self.meetings.fix(value)
            return unscaled
        else:
            for value in operands:
                if value.labels.size and not any(value is each for each in kept):
                    self.meetings.fix(value)
            if name in tables.SEPARATE:
                pairs = zip(kept, shapes, strict=True)
                found = [self.tied(name, eqn, [v], [shape], data)[0] for v, shape in pairs]
            else:
                found = self.tied(name, eqn, kept, shapes, data)
        if name in tables.COMPARISONS | tables.DIRECTIONS:
            return unscaled
        return [
            each._replace(data=data) if jnp.issubdtype(v.aval.dtype, jnp.floating) else none
            for v, each, none in zip(eqn.outvars, found, unscaled, strict=True)
        ]

    def tied(self, name: str, eqn, kept: list[Value], shapes: list, data: bool) -> list[Value]:
        """Outputs of an operation on values that have one scale where they meet."""
        kept, ties = self.meetings.alike(kept, data)
        labels = [v.labels for v in kept]
        found = arranged(name, labels, eqn.params)
        if found is None and name in tables.ELEMENTWISE:
            least = labels[0]
            for other in labels[1:]:
                least = ties.tie(least, other)
            found = [np.broadcast_to(least, shape) for shape in shapes]
        elif found is None:
            found = [self.mixed(name, eqn, labels, ties, shape) for shape in shapes]
        params = any(v.params for v in kept)
        return [Value(each, kept[0].slots, params) for each in found]

    def mixed(self, name: str, eqn, labels: list[Labels], ties: Ties, shape) -> Labels:
        """Labels of an operation that mixes its operands along axes, or as a whole."""
        axes = tables.mixed_axes(name, eqn)
        if axes is None or len(labels) > 1:
            flat = np.concatenate([each.ravel() for each in labels])
            return np.broadcast_to(ties.tie_along(flat, (0,)).reshape(()), shape)
        least = ties.tie_along(labels[0], axes)
        return np.broadcast_to(least if least.ndim == len(shape) else least.squeeze(axes), shape)

    def product(self, name: str, eqn, a: Value, b: Value) -> Value:
        """Labels of a product; new units where one factor is of parameters alone."""
        shape, params = eqn.outvars[0].aval.shape, a.params or b.params
        if a.slots and b.slots:
            self.refuse(name, eqn, "two parameters")
        if a.slots or b.slots:
            return self.parameter_product(name, eqn, a, b, shape)
        position = int(not self.meetings.varies(a))
        if not position and self.meetings.varies(b):
            self.refuse(name, eqn, "two values that both have hidden units")
        labels = (a, b)[position].labels
        if name == "mul":
            return Value(np.broadcast_to(labels, shape), params=params)
        if name == "dot_general":
            of = layouts.mixed_in_product(eqn, position, self.labels, labels)
            return Value(of, params=params)
        return Value(self.mixed(name, eqn, [labels], self.labels, shape), params=params)

    def parameter_product(self, name: str, eqn, a: Value, b: Value, shape) -> Value:
        """A product of parameters in slots and another value."""
        (own, other), position = ((a, b), 0) if a.slots else ((b, a), 1)
        if name == "mul" and not other.data and not self.meetings.varies(other):
            return own._replace(labels=np.broadcast_to(own.labels, shape))
        if name == "mul":
            slots, tails = np.broadcast_arrays(own.labels, other.labels)
            known, places = np.unique(slots, return_inverse=True)
            heads = self.labels.new(len(known))[places].reshape(slots.shape)
            labels = np.where(np.minimum(slots, tails) < 0, ANY, heads)
            met = slots, tails, heads
        elif name == "dot_general":
            arrays = self.labels, own.labels, other.labels
            labels, met = layouts.parameter_in_product(eqn, position, *arrays)
        elif position == 1 and eqn.params["batch_group_count"] == 1:
            arrays = self.labels, own.labels, other.labels
            labels, met = layouts.parameter_in_convolution(eqn, *arrays)
        else:
            self.refuse(name, eqn, "a parameter that is no kernel")
        self.meetings.meet(*met)
        return Value(labels, params=True)

    def refuse(self, name: str, eqn, what: str) -> None:
        """Raise StructureError for a product that is not read."""
        raise StructureError(
            f"{name}{where(eqn)} multiplies {what}: the rescalings of single hidden units are not "
            "read from such a product"
        )
