"""The parameters at the minimum over all rescalings."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxsharp.core.memory import Budget
from jaxsharp.core.programs import own_settings
from jaxsharp.measures.minimum.scales import ScaleMinimum
from jaxsharp.measures.minimum.sharpness import minimum_sharpness, structure_of
from jaxsharp.measures.minimum.units import minimum_sharpness_units, units_of
from jaxsharp.networks.network import Network


class Rescaled(NamedTuple):
    """Parameters and statistics at the minimum, and the `ScaleMinimum` that they are of."""

    params: PyTree
    stats: PyTree
    minimum: ScaleMinimum


@own_settings()
def rescaled(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    *,
    loss: str | None = None,
    chunk_size: int | None = None,
    memory: Budget | None = None,
) -> Rescaled:
    """The rescaling of a network whose Hessian has the least trace over ``batch``.

        params_j exp(<a_j, v>),    stats_m exp(<b_m, v>)

    with v the minimizing log scales, a_j the exponents of the parameters and b_m those of the
    statistics that move with them, such as running means. The outputs are those of the network
    to rounding, and the trace of the Hessian is the minimum sharpness. Dtypes are kept.

    Cost and errors as of `minimum_sharpness`. Raises ValueError where no rescaling attains the
    infimum, or where a factor is beyond the parameters' dtype.
    """
    options = {"loss": loss, "chunk_size": chunk_size, "memory": memory}
    found = minimum_sharpness(network, params, stats, batch, **options)
    check_attained(found, "a parameter array has a trace of 0, others may be scaled without end")
    structure = structure_of(network, params, stats, batch[0])
    moved = (
        scaled(params, structure.exponents @ found.log_scales),
        scaled(stats, structure.statistics @ found.log_scales),
    )
    return Rescaled(*moved, found)


@own_settings()
def rescaled_units(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    *,
    loss: str | None = None,
    chunk_size: int | None = None,
    memory: Budget | None = None,
) -> Rescaled:
    """The same over the rescalings of single hidden units, those of `minimum_sharpness_units`.

    Each entry of a parameter that leads from unit u to unit v is multiplied by exp(x_v - x_u), each
    of a statistic of unit u by exp(x_u), with x the minimizing log scales.
    """
    options = {"loss": loss, "chunk_size": chunk_size, "memory": memory}
    found = minimum_sharpness_units(network, params, stats, batch, **options)
    check_attained(
        found,
        "all that leads to a unit, or from it, has a trace of 0, it may be scaled without end",
    )
    units = units_of(network, params, stats, batch[0])
    x = np.concatenate([[0.0], found.log_scales])
    tails, heads, of_stats = map(jax.tree.leaves, units[1:])
    factors = [x[head] - x[tail] for head, tail in zip(heads, tails, strict=True)]
    moved = scaled(params, factors), scaled(stats, [x[each] for each in of_stats])
    return Rescaled(*moved, found)


def check_attained(found: ScaleMinimum, why: str) -> None:
    """Raise ValueError where no rescaling has the least trace, with where that may be."""
    if not found.attained:
        raise ValueError(
            f"no rescaling attains the infimum {found.value:.3g} of the trace; where {why}"
        )


def scaled(tree: PyTree, log_factors: Sequence[float | np.ndarray] | np.ndarray) -> PyTree:
    """Each array of a tree times a factor of its own, or a factor for each entry.

    Those that stay are the same arrays.
    """
    leaves, treedef = jax.tree.flatten(tree)
    for leaf, power in zip(leaves, log_factors, strict=True):
        largest = np.abs(power).max(initial=0.0)
        if largest and largest > 0.9 * np.log(float(jnp.finfo(leaf.dtype).max)):
            raise ValueError(f"a factor of exp({largest:.0f}) is beyond {leaf.dtype}")
    moved = [
        (leaf * np.exp(power)).astype(leaf.dtype) if np.any(power) else leaf
        for leaf, power in zip(leaves, log_factors, strict=True)
    ]
    return jax.tree.unflatten(treedef, moved)
