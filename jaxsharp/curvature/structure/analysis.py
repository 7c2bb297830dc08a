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
running variance passes through a square root of (var + eps) and so must keep its scale (`scales`).
Constants that the network closes over keep theirs, and those that hold a rescaling back are named.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Float, PyTree

from jaxsharp.core.programs import constants
from jaxsharp.core.trees import abstract
from jaxsharp.curvature.structure import scales
from jaxsharp.curvature.structure.reading import Place, Product, Reader, StructureError, Value


class Structure(NamedTuple):
    """The program of one example, its products by place, and the exponents.

    ``products`` has an entry for each parameter that enters nothing but one product;
    ``exponents`` (J, K), one row a parameter leaf: for every v in R^K, multiplying leaf j by
    exp(<exponents[j], v>), and statistic m by exp(<statistics[m], v>), leaves the function
    unchanged;
    ``refusals``: why the network is not piecewise linear in each parameter, empty if it is;
    ``missed``: the constants without which there would be more rescalings, described.
    """

    program: core.ClosedJaxpr
    products: dict[Place, Product]
    exponents: Float[np.ndarray, "J K"]
    refusals: list[str]
    missed: list[str]
    statistics: Float[np.ndarray, "M K"]


def analyze(
    fn: Callable, params: PyTree, stats: PyTree, image: Array | np.ndarray | jax.ShapeDtypeStruct
) -> Structure:
    """``read``, or StructureError if the network is not piecewise linear in each parameter.

    Warns of constants that the network closes over and that a rescaling would have to move, such as
    a running mean: it is no rescaling of this network, while with the constant in ``stats`` it is.
    """
    structure = read_linear(fn, params, stats, image)
    warn_of_missed(structure)
    return structure


def warn_of_missed(structure: Structure) -> None:
    """Warn of constants that a rescaling would have to move."""
    if structure.missed:
        warnings.warn(
            "the network closes over constants that a rescaling of its parameters would have to "
            f"move, so that fewer rescalings are seen: {'; '.join(structure.missed)}; if these are "
            "statistics, pass them as stats",
            stacklevel=3,
        )


def read_linear(fn: Callable, params: PyTree, stats: PyTree, image: Any) -> Structure:
    """``read``, or StructureError if the network is not piecewise linear in each parameter."""
    structure = read(fn, params, stats, image)
    if structure.refusals:
        raise StructureError(structure.refusals[0])
    return structure


def read(
    fn: Callable, params: PyTree, stats: PyTree, image: Array | np.ndarray | jax.ShapeDtypeStruct
) -> Structure:
    """What the program of ``fn(params, stats, image) -> logits``, of a single example, says.

    Raises StructureError for an output that is no array of reals, and for a custom derivative rule
    that parameters reach and that is not its function's derivative (compared at random points, see
    ``rules``), or that cannot be compared.
    """
    params, stats, image = jax.tree.map(abstract, (params, stats, image))
    program, out = jax.make_jaxpr(fn, return_shape=True)(params, stats, image)
    one = isinstance(out, jax.ShapeDtypeStruct)
    if not one or not jnp.issubdtype(out.dtype, jnp.floating):
        raise StructureError(f"fn returned {out}; it must return one array of real logits")
    paths = [jax.tree_util.keystr(p) or "params" for p, _ in jax.tree.leaves_with_path(params)]
    stats = jax.tree.leaves(stats)
    captured = list({id(c): c for c in constants(program)}.values())
    reader = Reader(paths, len(stats), captured)
    unit = np.eye(reader.num_leaves)
    inputs = [Value(frozenset({j}), unit[j], j) for j in range(len(paths))]
    for j, leaf in enumerate(stats, len(paths)):
        inputs.append(Value(frozenset(), unit[j] * jnp.issubdtype(leaf.dtype, jnp.floating)))
    inputs.append(Value(frozenset(), np.zeros(reader.num_leaves), data=True))
    (logits,) = reader.read(program, inputs)
    if reader.false_rules:
        raise StructureError(reader.false_rules[0])
    if logits.source is not None:
        reader.uses[logits.source] += 1
    products = {at: p for at, p in reader.products.items() if reader.uses[p.leaf] == 1}
    last = [] if logits.scale is None else [logits.scale]
    counts = len(paths), len(stats), len(captured)
    found = scales.rescalings(reader.constraints, last, reader.held, *counts)
    described = [
        f"{c.dtype}[{','.join(map(str, c.shape))}]{reader.first_use.get(id(c), '')}"
        for c in (captured[i] for i in found.missed)
    ]
    of_program = program, products, found.exponents, reader.refusals, described
    return Structure(*of_program, found.statistics)
