"""Trace and Frobenius norm of the Hessian of the training loss."""

import math
from collections.abc import Callable
from functools import partial

import jax
from jaxtyping import PyTree

from jaxsharp.core.chunks import check_pair
from jaxsharp.core.memory import Budget, budget
from jaxsharp.core.programs import own_settings
from jaxsharp.curvature.products import hessian
from jaxsharp.curvature.traces import Estimate, Trace, frobenius_norm, hutchinson
from jaxsharp.measures.baselines import exact
from jaxsharp.measures.contract import Measure, Options, Record, Trained
from jaxsharp.measures.minimum.sharpness import group_traces
from jaxsharp.measures.output_losses import check_known
from jaxsharp.measures.spectrum.eigenvalues import OF_SPECTRUM, UNIT
from jaxsharp.networks.losses import loss_of
from jaxsharp.networks.network import Network

MOST_PROBES = 10_000  # after which it stops without the stated error


@own_settings()
def layer_traces(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    *,
    loss: str | None = None,
    chunk_size: int | None = None,
    memory: Budget | None = None,
) -> PyTree:
    """Trace of the Hessian's block of every parameter array, a pytree like ``params``.

    ``batch`` is (inputs, targets), the loss the network's or the one that ``loss`` names. Exact up
    to rounding (`curvature.exact_traces`); their sum is the trace of the Hessian. A rescaling of a
    layer by c divides its trace by c^2. Raises StructureError for a network that is not piecewise
    linear in each parameter (`curvature.hutchinson` takes any, with a standard error), ValueError
    for a loss that is not known.
    """
    check_pair(batch)
    if loss is not None:
        network = network._replace(loss=loss_of(loss))
    check_known(network, params, stats, *batch)
    return group_traces(network, chunk_size, memory or budget(), params, stats, batch[0])


def _exact(network, at: Trained, batch, key, options: Options, memory):
    traces = group_traces(network, None, memory, at.params, at.stats, batch[0])
    return sum(jax.tree.leaves(traces))


def _all(network, at: Trained, batch, options: Options, found) -> Record:
    outputs = jax.eval_shape(network.evaluate, at.params, at.stats, batch[0][:1])
    # The allowance of minimum sharpness, which is made of the same traces.
    return exact(found, 10 * found, 1 + math.prod(outputs.shape[1:]), len(batch[0]))


def probed(method: Callable, network, at: Trained, batch, key, options: Options, memory):
    """The mean by ``method``, by as many probes as the options say, or as reach their error."""
    matvec = hessian(network.frozen_loss(at.stats, batch[1]), at.params, batch, memory=memory)
    rtol = options.measure_rtol
    limits = {"rtol": 0.0, "max_products": options.num_probes}
    if rtol is not None:
        limits = {"rtol": rtol, "max_products": MOST_PROBES}
    found: Trace | Estimate = method(matvec, at.params, key=key, **limits)
    return found.mean, found.stderr, found.num_products, found.converged


def _mean(network, at: Trained, batch, options: Options, found) -> Record:
    mean, error, products, reached = (float(x) for x in found)
    if not (math.isfinite(mean) and math.isfinite(error)):
        raise ValueError("the second derivatives of the loss are not finite at the parameters")
    finished = options.measure_rtol is None or bool(reached)
    return Record(mean, error, finished, int(products), len(batch[0]), int(products), False)


KINDS = ("standard error", "Hessian products", ("num_probes", "measure_rtol"), OF_SPECTRUM)
MEASURES = {
    "hessian_trace": Measure(
        "trace of the Hessian of a piecewise-linear network",
        "Ibayashi, Hamaguchi and Imaizumi 2021, arXiv 2106.12612, the exact traces",
        UNIT,
        "rounding",
        "passes over the data",
        (),
        OF_SPECTRUM,
        _exact,
        _all,
    ),
    "hutchinson_trace": Measure(
        "trace of the Hessian of any network, by random probes",
        "Hutchinson 1990",
        UNIT,
        *KINDS,
        partial(probed, hutchinson),
        _mean,
    ),
    "frobenius_norm": Measure(
        "root of the sum of the squared eigenvalues of the Hessian, by random probes",
        "Hutchinson 1990, for the square of the Hessian",
        UNIT,
        *KINDS,
        partial(probed, frobenius_norm),
        _mean,
    ),
}
