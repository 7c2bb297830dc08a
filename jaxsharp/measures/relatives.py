"""Scale-invariant relatives of sharpness: quadratic forms of the parameters themselves.

All are exact but for rounding. Left out, as the paper's text could not be read: normalized
sharpness (Tsuzuku, Sato and Sugiyama 2020), in either of its published forms.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from jaxsharp.core.chunks import check_pair, mean_over_chunks
from jaxsharp.core.memory import Budget, affordable_chunk, budget
from jaxsharp.core.programs import own_settings
from jaxsharp.core.streaming import Inputs
from jaxsharp.core.trees import abstract, norm, widen
from jaxsharp.curvature.exact import exact_relative_flatness
from jaxsharp.curvature.linearization import linear_maps
from jaxsharp.curvature.products import hessian
from jaxsharp.curvature.structure import StructureError, read
from jaxsharp.measures.baselines import ROUNDING, exact
from jaxsharp.measures.contract import EVERY, Measure, Options, Record, Trained
from jaxsharp.measures.minimum.sharpness import example_of
from jaxsharp.measures.output_losses import check_known, factors_of
from jaxsharp.networks.losses import loss_of
from jaxsharp.networks.network import Network


def fisher_rao_norm(
    network: Network, params: PyTree, stats: PyTree, batch: PyTree, memory: Budget
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Square of the Fisher-Rao norm, and the size of the terms that rounding is relative to.

        theta^T F theta = (1/n) sum_i <theta, g_i>^2 = (1/n) sum_i <dl_i/df, J_i theta>^2,

    F = (1/n) sum_i g_i g_i^T of the gradients g_i of the examples' losses at their own targets.
    J_i theta is one derivative along theta. Where f is homogeneous of degree D in theta, as is a
    network of D layers without biases, J_i theta = D f_i, and with cross-entropy this is
    D^2 (1/n) sum_i (<p_i, f_i> - f_i[y_i])^2.

    Cost: one pass forward, with its derivative. Reference: Liang et al. 2019 (arXiv 1711.01530),
    whose L + 1 is D; their figures have the root. Raises ValueError for a loss by weights, of
    whose examples no mean over equals is taken.
    """
    if network.loss.weights is not None:
        raise ValueError(
            f"loss {network.loss.name} weighs its examples; valid are losses without weights"
        )
    params = widen(params)

    def of_chunk(chunk):
        inputs, targets = chunk
        outputs, push, _ = linear_maps(lambda p: network.evaluate(p, stats, inputs), params)
        outputs, along = widen(outputs), widen(push(params))

        def loss(output, target):
            return network.loss.mean(output[None], target[None])

        slopes = jax.vmap(jax.grad(loss))(outputs, targets)
        axes = tuple(range(1, outputs.ndim))
        products, largest = jnp.sum(slopes * along, axes), jnp.max(jnp.abs(along), axes)
        return jnp.mean(jnp.square(products)), jnp.mean(jnp.square(largest))

    size = affordable_chunk(of_chunk, batch, memory)
    value, largest = mean_over_chunks(of_chunk, batch, size)
    # Each product has an error of about eps times the largest of its terms.
    scale, eps = jnp.sqrt(largest), ROUNDING * jnp.finfo(value.dtype).eps
    return value, scale * (2 * jnp.sqrt(value) + eps * scale)


def hessian_form(
    network: Network, params: PyTree, stats: PyTree, batch: PyTree, memory: Budget
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """theta^T H theta, and ||theta|| ||H theta||, which rounding is relative to.

    The Fisher-Rao norm's square with the Hessian in the place of F. Cost: one Hessian product.
    """
    params = widen(params)
    product = hessian(network.frozen_loss(stats, batch[1]), params, batch, memory=memory)(params)
    return optax.tree.vdot(params, product), norm(params) * norm(product)


@own_settings()
def relative_flatness(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    *,
    loss: str | None = None,
    chunk_size: int | None = None,
    memory: Budget | None = None,
) -> Float[Array, " layers"]:
    """Relative flatness of every layer, in the order in which the network uses them.

        kappa = sum_(s, s') <w_s, w_s'> tr H_(s, s')

    with w_s the weights of the layer's output s (of a convolution, the filter) and H_(s, s') the
    Hessian's block between two of them; the smaller the flatter. ``batch`` is (inputs, targets),
    the loss the network's or the one that ``loss`` names, as for `minimum_sharpness`. Exact up to
    rounding: the sum of squares of `curvature.exact_relative_flatness`.

    Reference: Petzka et al. 2021 (arXiv 2001.00939), who take the last layer, of features that are
    first rescaled to a standard deviation of 1 each (here as they are: a rescaling of units changes
    it). Invariant to rescalings of whole layers.

    Raises StructureError for a network that is not piecewise linear in each parameter, or has
    matrices that do not enter one product each; ValueError for a loss that is not known.
    """
    check_pair(batch)
    if loss is not None:
        network = network._replace(loss=loss_of(loss))
    check_known(network, params, stats, *batch)
    return _flatness(network, chunk_size, memory or budget(), params, stats, batch[0])


@partial(jax.jit, static_argnums=range(3))
def _flatness(network, chunk_size, memory, params, stats, images):
    """Relative flatness of every layer, compiled once for all models of one network."""
    fn = example_of(network)
    places = weight_places(fn, params, stats, abstract(images, images.shape[1:]))
    options = {"factors": factors_of(network.loss), "chunk_size": chunk_size, "memory": memory}
    by_leaf = jax.tree.leaves(exact_relative_flatness(fn, params, stats, images, **options))
    return jnp.stack([by_leaf[place] for place in places])


def flatness_of_last(
    network: Network, params: PyTree, stats: PyTree, images: Inputs, memory: Budget
) -> Float[Array, ""]:
    """Relative flatness of the layer that the network uses last, any if linear in it."""
    fn = example_of(network)
    image = abstract(images, images.shape[1:])
    last = weight_places(fn, params, stats, image)[-1]
    leaves, treedef = jax.tree.flatten(params)

    def at_last(leaf, others, image):
        held, stats = others
        return fn(treedef.unflatten([*held[:last], leaf, *held[last:]]), stats, image)

    others = (leaves[:last] + leaves[last + 1 :], stats)
    options = {"factors": factors_of(network.loss), "memory": memory}
    return exact_relative_flatness(at_last, leaves[last], others, images, **options)


def weight_places(fn, params: PyTree, stats: PyTree, image: Any) -> list[int]:
    """Places among the leaves of the weight arrays, in the order in which ``fn`` uses them.

    Raises StructureError for an array of two axes or more, no vector, that does not enter one
    matrix product or convolution and nothing else.
    """
    products = read(fn, params, stats, image).products
    places = [products[at].leaf for at in sorted(products)]
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(params)):
        if i not in places and max(leaf.shape, default=1) < leaf.size:
            raise StructureError(
                f"parameter {jax.tree_util.keystr(path)} does not enter one matrix product or "
                "convolution alone, so that it has no rows; valid are networks whose weights do"
            )
    if not places:
        raise StructureError("no parameter enters a matrix product or convolution")
    return places


def _fisher_rao(network, at: Trained, batch, key, options: Options, memory):
    with own_settings():
        return fisher_rao_norm(network, at.params, at.stats, batch, memory)


def _frn(network, at: Trained, batch, key, options: Options, memory):
    return hessian_form(network, at.params, at.stats, batch, memory)


def _last(network, at: Trained, batch, key, options: Options, memory):
    return (flatness_of_last(network, at.params, at.stats, batch[0], memory),) * 2


def _sum(network, at: Trained, batch, key, options: Options, memory):
    return (jnp.sum(_flatness(network, None, memory, at.params, at.stats, batch[0])),) * 2


def _of_data(cost: int, network, at: Trained, batch, options: Options, found) -> Record:
    return exact(*found, cost, len(batch[0]))


def _of_factors(network, at: Trained, batch, options: Options, found) -> Record:
    outputs = jax.eval_shape(network.evaluate, at.params, at.stats, batch[0][:1])
    value, scale = found
    # What comes back of the outputs may nearly cancel over them.
    return exact(value, 10 * scale, 1 + math.prod(outputs.shape[1:]), len(batch[0]))


LIANG = "Liang et al. 2019, arXiv 1711.01530"
PETZKA = "Petzka et al. 2021, arXiv 2001.00939"
MEASURES = {
    "fisher_rao_norm": Measure(
        "theta^T F theta, F of the gradients of single examples: the norm's square",
        LIANG,
        "squared nats",
        "rounding",
        "passes over the data",
        (),
        EVERY - {"logit_scale"},
        _fisher_rao,
        partial(_of_data, 2),
        per_example=True,
    ),
    "frn": Measure(
        "theta^T H theta, the Hessian in the place of F",
        f"{LIANG}, with H for F",
        "nats",
        "rounding",
        "Hessian products",
        (),
        EVERY - {"logit_scale"},
        _frn,
        partial(_of_data, 1),
    ),
    "relative_flatness": Measure(
        "traces of the last layer's Hessian between outputs, times products of their weights",
        PETZKA,
        "nats",
        "rounding",
        "passes over the data",
        (),
        EVERY - {"unit_rescaling", "logit_scale"},
        _last,
        _of_factors,
    ),
    "relative_flatness_sum": Measure(
        "the same, summed over all layers",
        PETZKA,
        "nats",
        "rounding",
        "passes over the data",
        (),
        EVERY - {"unit_rescaling", "logit_scale"},
        _sum,
        _of_factors,
    ),
}
