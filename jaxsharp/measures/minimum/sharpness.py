"""Minimum sharpness: the Hessian's trace, minimized over all rescalings of the parameters.

Ibayashi, Hamaguchi and Imaizumi, "Minimum sharpness: scale-invariant parameter-robustness of
neural networks" (2021, arXiv 2106.12612). With t_j >= 0 the trace of group j (one group per
parameter array) and a_j the exponents of its rescalings,

    MS = min_v  sum_j t_j exp(-2 <a_j, v>),     v in R^K.

The logarithm of the objective is convex in v (a geometric program). Deviation from the paper: it
descends the traces by a fixed number of small gradient steps; here the problem is solved with a
certificate (`scales`).
"""

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import numpy as np
from jaxtyping import Array, PyTree

from jaxsharp.core.chunks import check_pair
from jaxsharp.core.memory import Budget, budget
from jaxsharp.core.programs import own_settings
from jaxsharp.core.streaming import Inputs
from jaxsharp.core.trees import abstract
from jaxsharp.curvature import exact
from jaxsharp.curvature.structure import Structure, read_linear, warn_of_missed
from jaxsharp.measures.minimum.scales import ScaleMinimum, minimize_over_scales
from jaxsharp.measures.output_losses import check_known, factors_of
from jaxsharp.networks.losses import loss_of
from jaxsharp.networks.network import Network


@own_settings()
def minimum_sharpness(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    *,
    loss: str | None = None,
    chunk_size: int | None = None,
    memory: Budget | None = None,
) -> ScaleMinimum:
    """Minimum sharpness of a network over ``batch`` = (images, targets).

    Exact group traces over all examples, BatchNorm at its running statistics and part of the
    chain: scale and shift are groups of their own, the running mean scales like a bias. The
    rescalings are read off the network's program (``curvature.analyze``), so that any
    piecewise-linear network has its own exponents.

    The loss is the network's, or the one of `networks.LOSSES` that ``loss`` names, of an example
    summed over its outputs f, and averaged over examples: "cross_entropy", of softmax(f) and an
    integer class; "binary_cross_entropy", of sigmoid(f) and targets from 0 to 1; "squared_error",
    (f - y)^2. It must be the one that the network was trained with (divided by the number of
    outputs for a mean over these). The targets
    do not enter the value; they are checked to be such as the loss takes.

    Invariant to every rescaling of the parameters that leaves the function unchanged. Raises
    StructureError for a network that is not piecewise linear in each parameter, ValueError for
    outputs or targets that do not fit the loss, before anything compiles.
    """
    network, images = checked(network, params, stats, batch, loss)
    static = (network, chunk_size, memory or budget())
    traces = group_traces(*static, params, stats, images)
    return from_traces(network, params, stats, images, traces)


def checked(
    network: Network, params: PyTree, stats: PyTree, batch: PyTree, loss: str | None
) -> tuple[Network, Array | np.ndarray]:
    """The network with the loss that ``loss`` names, and the images; ValueError if none fits."""
    check_pair(batch)
    images, targets = batch
    if loss is not None:
        network = network._replace(loss=loss_of(loss))
    check_known(network, params, stats, images, targets)
    return network, images


def from_traces(
    network: Network, params: PyTree, stats: PyTree, images: Inputs, traces: PyTree
) -> ScaleMinimum:
    """Minimum sharpness from the exact trace of every parameter array's block (`group_traces`)."""
    exponents = structure_of(network, params, stats, images).exponents
    return minimize_over_scales(np.array(jax.tree.leaves(traces), np.float64), exponents)


def structure_of(network: Network, params: PyTree, stats: PyTree, images: Inputs) -> Structure:
    """The rescalings that a network admits; StructureError if it is not piecewise linear."""
    like = jax.tree.map(abstract, (params, stats))
    image = abstract(images, images.shape[1:])
    leaves, tree = jax.tree.flatten((*like, image))
    structure = _structure(network, tree, tuple(leaves), jax.config.jax_enable_x64)
    warn_of_missed(structure)
    return structure


@lru_cache(maxsize=8)
def _structure(network: Network, tree: PyTree, leaves: tuple, double: bool) -> Structure:
    """Read once for all models of a network: half a second for one with four convolutions."""
    return read_linear(example_of(network), *jax.tree.unflatten(tree, leaves))


def example_of(network: Network) -> Callable:
    """The outputs of a single example, as `curvature` takes a network."""
    return lambda params, stats, image: network.evaluate(params, stats, image[None])[0]


@partial(jax.jit, static_argnums=range(3))
def group_traces(
    network: Network,
    chunk_size: int | None,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    images: Inputs,
) -> PyTree:
    """Exact trace of every parameter array's block, compiled once for all models of a network."""
    factors = factors_of(network.loss)
    arguments = (example_of(network), params, stats, images)
    options = {"factors": factors, "chunk_size": chunk_size, "memory": memory}
    return exact.exact_traces(*arguments, **options)
