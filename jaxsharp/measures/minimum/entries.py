"""Minimum sharpness as a line of the catalogue."""

import jax
import jax.numpy as jnp

from jaxsharp.measures.contract import EVERY, Measure, Options, Record, Trained
from jaxsharp.measures.minimum.sampling import AGAIN, from_sample, sample
from jaxsharp.measures.minimum.sharpness import from_traces, group_traces

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
    return sample(network, rtol, memory, at.params, at.stats, jnp.asarray(images), key)


def _minimum(network, at: Trained, batch, options: Options, arrays) -> Record:
    images, leaf = batch[0], jax.tree.leaves(arrays)[0]
    outputs = jax.eval_shape(network.evaluate, at.params, at.stats, images[:1]).shape[-1]
    if options.measure_rtol is None:
        least = from_traces(network, at.params, at.stats, images, arrays)
        error, taken, exact = least.error, len(images), True
        passes = taken * (1 + outputs)
    else:
        found = from_sample(network, at.params, at.stats, images, arrays)
        _, error, least, taken, exact = found
        passes = len(images) + 2 * (int(arrays.count) + min(AGAIN, len(images)))
        passes += bool(arrays.exact) * taken * (1 + outputs)
    solved = least.error <= SOLVED * least.value
    if exact:
        error += TRACE_ROUNDING * float(jnp.finfo(leaf.dtype).eps) * least.value
    return Record(least.value, error, least.attained and solved, passes, taken, 0, exact)


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
}
