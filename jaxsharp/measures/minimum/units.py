"""Minimum sharpness over the rescalings of single hidden units.

A neuron, or a channel, may be scaled by a factor of its own and its outgoing weights divided by it,
as Ibayashi et al. (2021, arXiv 2106.12612) do with layers. With d_e >= 0 the diagonal of the
Hessian, and an entry e of a parameter that leads from unit u_e to unit v_e,

    MS = min_x  sum_e d_e exp(2 (x_(u_e) - x_(v_e))),     x_0 = 0 of inputs and outputs.

Entries between the same two units are summed, and the sparse problem is solved with a certificate
(`balancing`). Layers are a special case, all units of a layer with one scale, so that this minimum
is no larger than `minimum_sharpness`.
"""

from functools import partial

import jax
import numpy as np
from jaxtyping import PyTree

from jaxsharp.core.memory import Budget, budget
from jaxsharp.core.programs import own_settings
from jaxsharp.core.streaming import Inputs
from jaxsharp.core.trees import abstract
from jaxsharp.curvature import exact
from jaxsharp.curvature.structure import Units, read_units
from jaxsharp.measures.minimum.balancing import minimize_over_units
from jaxsharp.measures.minimum.scales import ScaleMinimum
from jaxsharp.measures.minimum.sharpness import checked, example_of, structure_of
from jaxsharp.measures.output_losses import factors_of
from jaxsharp.networks.network import Network


@own_settings()
def minimum_sharpness_units(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    *,
    loss: str | None = None,
    chunk_size: int | None = None,
    memory: Budget | None = None,
) -> ScaleMinimum:
    """Hessian trace of a network over ``batch``, minimized over a scale for each hidden unit.

    Units are read off the network's program (``curvature.analyze_units``): a neuron, a channel of a
    convolution with its running mean, a channel behind the scale of a BatchNorm. What is added, as
    by a shortcut, is one unit. ``log_scales`` has one number a unit. Not attained where all that
    leads to a unit has a trace of 0 and something that leads from it has not, or the other way.

    The loss and the data are as for `minimum_sharpness`; the traces are exact, of single entries
    (``curvature.exact_diagonal``). Cost: a forward pass an example and a backward one a factor;
    gradients of single examples are formed, but not of dense layers; memory of a few times the
    parameters.

    Invariant to every such rescaling, and so to those of layers. Raises as `minimum_sharpness`, and
    StructureError where the rescalings of units cannot be read off the program.
    """
    network, images = checked(network, params, stats, batch, loss)
    units = units_of(network, params, stats, images)
    static = (network, chunk_size, memory or budget())
    return from_diagonal(units, diagonal(*static, params, stats, images))


def from_diagonal(units: Units, diagonal: PyTree) -> ScaleMinimum:
    """Minimum sharpness from the exact diagonal of the Hessian, in the shape of the parameters."""
    tails, heads = (_flat(tree) for tree in (units.tails, units.heads))
    return minimize_over_units(_flat(diagonal), tails, heads, units.num)


def _flat(tree: PyTree) -> np.ndarray:
    """All numbers of a tree in a row."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def units_of(network: Network, params: PyTree, stats: PyTree, images: Inputs) -> Units:
    """The rescalings of single units that a network admits; StructureError where not known."""
    image = abstract(images, images.shape[1:])
    return read_units(structure_of(network, params, stats, images), params, stats, image)


@partial(jax.jit, static_argnums=range(3))
def diagonal(
    network: Network,
    chunk_size: int | None,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    images: Inputs,
) -> PyTree:
    """Exact diagonal of the Hessian, compiled once for all models of a network."""
    arguments = (example_of(network), params, stats, images)
    options = {"factors": factors_of(network.loss), "chunk_size": chunk_size, "memory": memory}
    return exact.exact_diagonal(*arguments, **options)
