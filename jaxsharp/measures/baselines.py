"""What sharpness is compared with: norms, the distance from initialization, margin, number.

All are exact but for rounding, of which the records state a measured allowance and no bound.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsharp.core.choices import known_classes
from jaxsharp.core.chunks import map_examples
from jaxsharp.core.memory import Budget, affordable_chunk
from jaxsharp.core.programs import own_settings
from jaxsharp.core.streaming import each, whole
from jaxsharp.core.trees import norm, widen
from jaxsharp.measures.contract import EVERY, Measure, Options, Record, Trained
from jaxsharp.measures.neighbourhood.losses import value_and_grad_around
from jaxsharp.networks.network import Network

# In eps of the dtype, relative to the size of what is summed. Measured against float64, on networks
# that have learned the digits: below 3.
ROUNDING = 100
# Examples that show how large gradients are of which the mean nearly cancels.
FEW = 32
# Of the examples, the share with a smaller margin (Jiang et al. 2020).
QUANTILE = 0.1
RESCALINGS = frozenset({"layer_rescaling", "unit_rescaling"})


def margins(outputs: Array, labels: ArrayLike) -> Float[Array, " predictions"]:
    """Output of the right class less the largest of the others, for each prediction.

    Raises ValueError for outputs of one class, and labels that are no classes; inside jit, where
    labels are not known, NaN for such a label.
    """
    *shape, classes = outputs.shape
    if classes < 2:
        raise ValueError(f"outputs have shape {outputs.shape}; a margin needs at least 2 classes")
    known = known_classes(labels, tuple(shape), classes)
    outputs = widen(outputs)
    right = jax.nn.one_hot(labels, classes, dtype=bool)
    of_right = jnp.max(outputs, axis=-1, where=right, initial=-jnp.inf)
    found = of_right - jnp.max(outputs, axis=-1, where=~right, initial=-jnp.inf)
    return (found if known is None else found * known.astype(found.dtype)).ravel()


def margin_quantile(
    network: Network, params: PyTree, stats: PyTree, batch: PyTree, memory: Budget
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The 10th percentile of the margins over all examples, and the largest output by magnitude.

    Between two examples it is linear, as `numpy.percentile`. Cost: one forward pass.
    """

    def of_chunk(chunk):
        outputs = network.evaluate(params, stats, chunk[0])
        return margins(outputs, chunk[1]), jnp.max(jnp.abs(widen(outputs)))

    def of_one(example):
        return of_chunk(jax.tree.map(lambda leaf: leaf[None], example))

    size = affordable_chunk(of_chunk, batch, memory)
    if size is None:
        found, largest = of_chunk(whole(batch))
    else:
        found, largest = map_examples(of_one, batch, size)
    return jnp.quantile(found.ravel(), QUANTILE), jnp.max(largest)


def exact(value: ArrayLike, scale: ArrayLike, passes: int, examples: int) -> Record:
    """Record of a number that rounding alone is in, of terms of the size of ``scale``."""
    value = np.asarray(value)
    error = ROUNDING * float(jnp.finfo(value.dtype).eps) * float(scale)
    if not (math.isfinite(value) and math.isfinite(error)):
        raise ValueError(f"its value is {value}, of terms of size {scale}: not finite")
    return Record(float(value), error, True, passes, examples, 0, True)


def _gradient_norm(network, at: Trained, batch, key, options: Options, memory):
    few, params = each(lambda leaf: leaf[:FEW], batch), widen(at.params)
    around = lambda part: value_and_grad_around(network, params, at.stats, part, memory)  # noqa: E731
    with own_settings():
        value, of_few = (norm(around(part)(params)[1]) for part in (batch, few))
    return value, jnp.maximum(value, math.sqrt(len(few[0])) * of_few)


def _parameter_norm(network, at: Trained, batch, key, options: Options, memory):
    return norm(widen(at.params))


def _distance(network, at: Trained, batch, key, options: Options, memory):
    return norm(optax.tree.sub(widen(at.params), widen(at.initial)))


def _margin(network, at: Trained, batch, key, options: Options, memory):
    with own_settings():
        return margin_quantile(network, at.params, at.stats, batch, memory)


def _number(network, at: Trained, batch, key, options: Options, memory):
    return jnp.zeros(())  # shapes alone say it


def _of_gradient(network, at: Trained, batch, options: Options, found) -> Record:
    return exact(*found, 2, len(batch[0]))


def _of_parameters(network, at: Trained, batch, options: Options, found) -> Record:
    return exact(found, found, 0, 0)


def _of_outputs(network, at: Trained, batch, options: Options, found) -> Record:
    return exact(*found, 1, len(batch[0]))


def _count(network, at: Trained, batch, options: Options, found) -> Record:
    return Record(float(optax.tree.size(at.params)), 0.0, True, 0, 0, 0, True)


KINDS = ("rounding", "passes over the data", ())
MEASURES = {
    "gradient_norm": Measure(
        "norm of the gradient of the loss over all examples",
        "Zhao, Zhang and Hu 2022, arXiv 2202.03599, who penalize it",
        "nats a unit of the parameters",
        *KINDS,
        EVERY - RESCALINGS - {"logit_scale"},
        _gradient_norm,
        _of_gradient,
    ),
    "parameter_norm": Measure(
        "norm of all parameters",
        "Jiang et al. 2020, arXiv 1912.02178, the square of it for weights",
        "units of the parameters",
        *KINDS,
        EVERY - RESCALINGS,
        _parameter_norm,
        _of_parameters,
    ),
    "distance_from_initialization": Measure(
        "norm of the way from the parameters that training began with",
        "Nagarajan and Kolter 2019, arXiv 1901.01672",
        "units of the parameters",
        *KINDS,
        EVERY - RESCALINGS,
        _distance,
        _of_parameters,
        from_initial=True,
    ),
    "margin": Measure(
        "10th percentile of the output of the right class less the largest other",
        "Jiang et al. 2020, arXiv 1912.02178, output margin",
        "units of the outputs",
        *KINDS,
        EVERY - {"logit_scale"},
        _margin,
        _of_outputs,
        per_example=True,
    ),
    "num_parameters": Measure(
        "number of parameters",
        "Jiang et al. 2020, arXiv 1912.02178",
        "numbers",
        "none",
        *KINDS[1:],
        EVERY,
        _number,
        _count,
    ),
}
