"""Minimum sharpness as a line of the catalogue."""

import jax
import jax.numpy as jnp

from jaxsharp.measures.contract import EVERY, Measure, Options, Record, Trained
from jaxsharp.measures.minimum.sampling import AGAIN, from_sample, sample
from jaxsharp.measures.minimum.scales import ScaleMinimum
from jaxsharp.measures.minimum.sharpness import from_traces, group_traces
from jaxsharp.measures.minimum.units import diagonal, from_diagonal, units_of

SOLVED = 1e-6  # duality gap of a scale problem that is solved, relative to the minimum
# Allowed for the traces, in eps of their dtype, relative: the minimum changes no more than the
# traces do. Measured against float64: 2 for networks that have learned the digits, 350 for one of
# them with its logits multiplied by 30, 260 for SimpleBatch with its weights doubled.
TRACE_ROUNDING = 1000


def _traces(network, at: Trained, batch, key, options: Options, memory):
    images = batch[0]
    if options.measure_rtol is None:
        return group_traces(network, None, memory, at.params, at.stats, images)
    rtol = options.measure_rtol
    return sample(network, rtol, memory, at.params, at.stats, images, key)


def _minimum(network, at: Trained, batch, options: Options, arrays) -> Record:
    images, outputs = batch[0], num_outputs(network, at, batch)
    if options.measure_rtol is None:
        least = from_traces(network, at.params, at.stats, images, arrays)
        error, taken, exact = least.error, len(images), True
        passes = taken * (1 + outputs)
    else:
        found = from_sample(network, at.params, at.stats, images, arrays)
        _, error, least, taken, exact = found
        passes = len(images) + 2 * (int(arrays.count) + min(AGAIN, len(images)))
        passes += bool(arrays.exact) * taken * (1 + outputs)
    if exact:
        error += rounding(arrays, least)
    return Record(least.value, error, finished(least), passes, taken, 0, exact)


def _diagonal(network, at: Trained, batch, key, options: Options, memory):
    return diagonal(network, None, memory, at.params, at.stats, batch[0])


def _minimum_units(network, at: Trained, batch, options: Options, arrays) -> Record:
    num = len(batch[0])
    least = from_diagonal(units_of(network, at.params, at.stats, batch[0]), arrays)
    error, passes = (
        least.error + rounding(arrays, least),
        num * (1 + num_outputs(network, at, batch)),
    )
    return Record(least.value, error, finished(least), passes, num, 0, True)


def num_outputs(network, at: Trained, batch) -> int:
    """How many logits a network has."""
    return jax.eval_shape(network.evaluate, at.params, at.stats, batch[0][:1]).shape[-1]


def rounding(traces, least: ScaleMinimum) -> float:
    """The allowance for the rounding of exact traces."""
    eps = float(jnp.finfo(jax.tree.leaves(traces)[0].dtype).eps)
    return TRACE_ROUNDING * eps * least.value


def finished(least: ScaleMinimum) -> bool:
    """Whether a minimum is attained, and solved."""
    return least.attained and least.error <= SOLVED * least.value


MEASURES = {
    "minimum_sharpness": Measure(
        "Hessian trace minimized over all rescalings of layers",
        "Ibayashi, Hamaguchi and Imaizumi 2021, arXiv 2106.12612",
        "nats",
        "standard error if sampled, else duality gap and rounding of the traces",
        "passes of an example",
        ("measure_rtol",),
        EVERY - {"unit_rescaling", "logit_scale"},
        _traces,
        _minimum,
    ),
    "minimum_sharpness_units": Measure(
        "the same with a scale for each hidden unit, never sampled",
        "Ibayashi, Hamaguchi and Imaizumi 2021, arXiv 2106.12612, for layers; the finer group is "
        "ours; Osborne 1960, the balancing",
        "nats",
        "duality gap and rounding of the diagonal",
        "passes of an example",
        (),
        EVERY - {"logit_scale"},
        _diagonal,
        _minimum_units,
    ),
}
