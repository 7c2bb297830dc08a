"""Exact diagonal of the Hessian, and exact traces of its blocks, one block a parameter array.

For a loss that is a mean of convex functions of the logits f(x), and a network that is piecewise
linear in each parameter (ReLU, max-pool, frozen BatchNorm, no shared weights; ``structure``
decides), every diagonal block is that of the Gauss-Newton matrix. With rows s_k such that
sum_k s_k s_k^T is the Hessian of an example's loss in its logits,

    diag H_j = (1/n) sum_i sum_k (J_j(x_i)^T s_k)^2,    tr H_j = (1/n) sum_i sum_k ||J_j^T s_k||^2.

Where parameter j enters one matrix product or convolution, with rows A of activations, one a
position, and back-propagated rows D_k, the gradient is J_j^T s_k = A^T D_k. A dense layer has one
position, and no gradient is formed for an example:

    ||a d_k^T||^2 = ||a||^2 ||d_k||^2,    (a d_k^T)^2 = a^2 (d_k^2)^T,

so that its diagonal is one matrix product over all examples of a chunk. With few positions,
sum_k ||A^T D_k||^2 = <A A^T, sum_k D_k D_k^T> takes two small matrices. All other gradients are
formed for each example and k: A^T D_k, and those of parameters that enter any other operation.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxsharp.core.chunks import mean_over_chunks
from jaxsharp.core.memory import Budget, affordable_chunk, budget, map_few
from jaxsharp.core.programs import own_settings
from jaxsharp.core.streaming import Inputs
from jaxsharp.core.trees import abstract, widen
from jaxsharp.curvature.likelihoods import combined_softmax, softmax_factors
from jaxsharp.curvature.reductions import DIAGONAL, FLATNESS, TRACE
from jaxsharp.curvature.structure import (
    Structure,
    StructureError,
    activation_rows,
    evaluate_tapped,
    read,
    read_linear,
    signal_rows,
)


def exact_traces(
    fn: Callable,
    params: PyTree,
    stats: PyTree,
    images: Inputs,
    *,
    factors: Callable = softmax_factors,
    chunk_size: int | None = None,
    memory: Budget | None = None,
) -> PyTree:
    """Trace of the Hessian's diagonal block of every parameter array, exact up to rounding.

    ``fn(params, stats, image) -> logits`` maps a single example, in evaluation mode. The loss is
    the mean over examples of the one that ``factors(logits)`` belongs to, which gives the rows s_k;
    no labels enter. Compiled once for an ``fn``, ``factors``, ``memory`` and shapes. Derivatives
    are taken in the dtype of the network, squared and summed in float32 at least, which is what is
    returned. Cost: one forward pass and one backward pass a factor; memory is independent of the
    number of examples, ``chunk_size`` at a time (None: as ``memory`` allows, see ``products``).
    Raises StructureError, before anything compiles, for a network that does not qualify, and for
    custom derivative rules that are not the derivatives of their functions (at random points).

    Invariant to the order of the examples; *not* invariant to layer rescaling: a factor alpha on
    parameter j divides its trace by alpha^2.
    """
    return _highest(fn, factors, _qualified, TRACE, chunk_size, memory, params, stats, images)


def exact_diagonal(
    fn: Callable,
    params: PyTree,
    stats: PyTree,
    images: Inputs,
    *,
    factors: Callable = softmax_factors,
    chunk_size: int | None = None,
    memory: Budget | None = None,
) -> PyTree:
    """Diagonal of the Hessian in the shape of the parameters, exact up to rounding.

    Everything else as for ``exact_traces``, which are its sums; memory is larger by the gradients
    of a chunk's examples, except those of dense layers, which are not formed.
    """
    return _highest(fn, factors, _qualified, DIAGONAL, chunk_size, memory, params, stats, images)


def exact_ggn_traces(
    fn: Callable,
    params: PyTree,
    stats: PyTree,
    images: Inputs,
    *,
    factors: Callable = softmax_factors,
    chunk_size: int | None = None,
    memory: Budget | None = None,
) -> PyTree:
    """Traces of (1/n) sum_i J^T (sum_k s_k s_k^T) J, any network's *Gauss-Newton matrix*.

    Everything else as for ``exact_traces``.
    """
    return _highest(fn, factors, read, TRACE, chunk_size, memory, params, stats, images)


def exact_ggn_diagonal(
    fn: Callable,
    params: PyTree,
    stats: PyTree,
    images: Inputs,
    *,
    factors: Callable = softmax_factors,
    chunk_size: int | None = None,
    memory: Budget | None = None,
) -> PyTree:
    """Diagonal of the *Gauss-Newton matrix* of any network; else as ``diagonal``."""
    return _highest(fn, factors, read, DIAGONAL, chunk_size, memory, params, stats, images)


def exact_relative_flatness(
    fn: Callable,
    params: PyTree,
    stats: PyTree,
    images: Inputs,
    *,
    factors: Callable = softmax_factors,
    chunk_size: int | None = None,
    memory: Budget | None = None,
) -> PyTree:
    """Relative flatness of every weight array, exact up to rounding.

        sum_(s, s') <w_s, w_s'> tr H_(s, s') = (1/n) sum_i sum_k ||A^T D_k W||^2

    with w_s the weights of output s, a row of W (a filter of a convolution), and H_(s, s') the
    block of the Hessian between two of them. 0 for parameters that enter anything but one product,
    as biases: they have no rows. Everything else as for ``exact_traces``.

    Invariant to layer rescaling, not to rescalings of single units. Reference: Petzka et al. 2021
    (arXiv 2001.00939); the right side is that of a network that is piecewise linear in W.
    """
    return _highest(fn, factors, _qualified, FLATNESS, chunk_size, memory, params, stats, images)


def sampled_traces(
    fn: Callable,
    params: PyTree,
    stats: PyTree,
    images: Inputs,
    key: Array,
    *,
    combined: Callable = combined_softmax,
    memory: Budget | None = None,
) -> PyTree:
    """Unbiased estimates of each example's traces ``exact_traces``; leaves (n,), one an example.

        ||J_j(x_i)^T sum_k z_k s_k||^2,    E = sum_k ||J_j(x_i)^T s_k||^2

    with independent signs z_k; ``combined(logits, z)`` is sum_k z_k s_k. Cost: one forward and one
    backward pass an example, whatever the number of classes; memory of a few examples. For callers
    with a jit of their own. Refuses what ``exact_traces`` refuses.
    """
    structure = _qualified(fn, params, stats, abstract(images, images.shape[1:]))
    products = {p.leaf: p for p in structure.products.values()}
    leaves, treedef = jax.tree.flatten(params)
    (logits,) = structure.program.out_avals

    def one(example):
        key, image = example
        signs = jax.random.rademacher(key, logits.shape, logits.dtype)
        factors = lambda f: combined(f, signs.astype(f.dtype))[None]  # noqa: E731
        rows, gradients = jax.tree.map(widen, _example(structure, factors, params, stats, image))
        sums = {j: TRACE.gradient(g) for j, g in gradients.items()}
        sums |= {
            j: TRACE.product(products[j], leaves[j], a[None], d[None]) for j, (a, d) in rows.items()
        }
        return jax.tree.unflatten(treedef, [sums[j] for j in range(len(sums))])

    with own_settings():
        return map_few(one, (jax.random.split(key, len(images)), images), memory or budget())


def _qualified(fn, params, stats, image):
    try:
        return read_linear(fn, params, stats, image)
    except StructureError as error:
        instead = (
            "exact_ggn_traces and exact_ggn_diagonal, of the Gauss-Newton matrix, take any network"
        )
        raise StructureError(f"{error}; {instead}") from error


def _highest(fn, factors, reader, reduction, chunk_size, memory, *arrays):
    static = (fn, factors, reader, reduction, chunk_size, memory or budget())
    with own_settings():  # read and kept by the program when traced
        return _mean_squares(*static, *arrays)


@partial(jax.jit, static_argnums=range(6))
def _mean_squares(fn, factors, reader, reduction, chunk_size, memory, params, stats, images):
    """Sums of squares of J_j^T s_k, reduced, over all examples, divided by their number."""
    image = abstract(images, images.shape[1:])
    structure = reader(fn, params, stats, image)
    (logits,) = structure.program.out_avals
    if logits.ndim != 1:
        raise StructureError(f"fn returned {logits}; it must return the logits, one vector")
    products = {p.leaf: p for p in structure.products.values()}
    leaves, treedef = jax.tree.flatten(params)

    def chunk_mean(chunk):
        one = partial(_example, structure, factors, params, stats)
        rows, gradients = widen(jax.vmap(one)(chunk))
        sums = {j: reduction.gradient(g) for j, g in gradients.items()}
        for j, (a, d) in rows.items():
            sums[j] = reduction.product(products[j], leaves[j], a, d)
        return jax.tree.unflatten(treedef, [sums[j] / len(chunk) for j in range(len(leaves))])

    fitting = chunk_size or affordable_chunk(chunk_mean, images, memory)
    return mean_over_chunks(chunk_mean, images, fitting)


def _example(
    structure: Structure, factors: Callable, params: PyTree, stats: PyTree, image: Array
) -> tuple[dict[int, tuple[Array, Array]], dict[int, Array]]:
    """By leaf, rows (A, D) of parameters in products and gradients (k, *shape) of all others."""
    leaves = jax.tree.leaves(params)
    products = {p.leaf: p for p in structure.products.values()}
    others = {j: leaf for j, leaf in enumerate(leaves) if j not in products}
    outputs = {j: p.equation.outvars[0].aval for j, p in products.items()}
    taps = {j: jnp.zeros(out.shape, out.dtype) for j, out in outputs.items()}

    def tapped(taps, others):
        inputs = [others.get(j, leaf) for j, leaf in enumerate(leaves)]
        inputs += [*jax.tree.leaves(stats), image]
        program, places = structure.program, structure.products
        (logits,), activations = evaluate_tapped(program, inputs, taps, places)
        return logits, activations

    try:
        logits, pullback, activations = jax.vjp(tapped, taps, others, has_aux=True)
        factor_rows = factors(widen(logits)).astype(logits.dtype)
        signals, gradients = jax.vmap(pullback)(factor_rows)
    except (NotImplementedError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise StructureError(f"the network has no derivative in reverse mode: {reason}") from error
    rows = {}
    for j, product in products.items():
        d = jax.vmap(partial(signal_rows, product))(signals[j])
        rows[j] = activation_rows(product, activations[j]), d
    return rows, gradients
