"""Minimum sharpness: the Hessian's trace, minimized over all rescalings of the parameters.

Ibayashi, Hamaguchi and Imaizumi, "Minimum sharpness: scale-invariant parameter-robustness of
neural networks" (2021, arXiv 2106.12612). With t_j >= 0 the trace of group j (one group per
parameter array) and a_j the exponents of its rescalings,

    MS = min_v  sum_j t_j exp(-2 <a_j, v>),     v in R^K.

The logarithm of the objective is convex in v (a geometric program). Deviation from the paper: it
descends the traces by a fixed number of small gradient steps; here the problem is solved with a
certificate (`scales`).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from jaxsharp.core.chunks import check_pair
from jaxsharp.core.memory import Budget, budget
from jaxsharp.curvature import exact
from jaxsharp.curvature.structure import Structure, analyze
from jaxsharp.measures.contract import EVERY, Measure, Options, Record, Trained
from jaxsharp.measures.minimum.scales import ScaleMinimum, minimize_over_scales
from jaxsharp.measures.output_losses import check_known, factors_of
from jaxsharp.networks.losses import loss_of
from jaxsharp.networks.network import Network

SOLVED = 1e-6  # duality gap of a scale problem that is solved, relative to the minimum
# Allowed for the traces, in eps of their dtype, relative: the minimum changes no more than the
# traces do. Measured against float64: 2 for networks that have learned the digits, 350 for one of
# them with its logits multiplied by 30, 260 for SimpleBatch with its weights doubled.
TRACE_ROUNDING = 1000


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
    check_pair(batch)
    images, targets = batch
    if loss is not None:
        network = network._replace(loss=loss_of(loss))
    check_known(network, params, stats, images, targets)
    static = (network, chunk_size, memory or budget())
    traces = group_traces(*static, params, stats, images)
    return from_traces(network, params, stats, images, traces)


def from_traces(
    network: Network, params: PyTree, stats: PyTree, images: ArrayLike, traces: PyTree
) -> ScaleMinimum:
    """Minimum sharpness from the exact trace of every parameter array's block (`group_traces`)."""
    exponents = structure_of(network, params, stats, images).exponents
    return minimize_over_scales(np.array(jax.tree.leaves(traces), np.float64), exponents)


def structure_of(network: Network, params: PyTree, stats: PyTree, images: ArrayLike) -> Structure:
    """The rescalings that a network admits; StructureError if it is not piecewise linear."""
    image = jax.ShapeDtypeStruct(images.shape[1:], images.dtype)
    return analyze(_example(network), params, stats, image)


def _example(network: Network):
    return lambda params, stats, image: network.evaluate(params, stats, image[None])[0]


@partial(jax.jit, static_argnums=range(3))
def group_traces(
    network: Network,
    chunk_size: int | None,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    images: Array,
) -> PyTree:
    """Exact trace of every parameter array's block, compiled once for all models of a network."""
    factors = factors_of(network.loss)
    arguments = (_example(network), params, stats, images)
    options = {"factors": factors, "chunk_size": chunk_size, "memory": memory}
    return exact.exact_traces(*arguments, **options)


def _traces(network, at: Trained, batch, key, options, memory):
    return group_traces(network, None, memory, at.params, at.stats, batch[0])


def _minimum(network, at: Trained, batch, options: Options, traces) -> Record:
    images = batch[0]
    found = from_traces(network, at.params, at.stats, images, traces)
    outputs = jax.eval_shape(network.evaluate, at.params, at.stats, images[:1])
    eps = float(jnp.finfo(jax.tree.leaves(traces)[0].dtype).eps)
    solved = found.error <= SOLVED * found.value
    error = found.error + TRACE_ROUNDING * eps * found.value
    passes = 1 + outputs.shape[-1]
    return Record(found.value, error, found.attained and solved, passes, len(images), 0, True)


MEASURES = {
    "minimum_sharpness": Measure(
        "Hessian trace minimized over all rescalings of layers",
        "Ibayashi, Hamaguchi and Imaizumi 2021, arXiv 2106.12612",
        "nats",
        "duality gap and rounding of the traces",
        "passes over the data",
        (),
        EVERY - {"unit_rescaling", "logit_scale"},
        _traces,
        _minimum,
    ),
}
