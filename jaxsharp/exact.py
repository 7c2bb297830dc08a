"""Exact traces of the diagonal blocks of the Hessian, one block a parameter array.

For softmax cross-entropy and a network that is piecewise linear in each parameter (ReLU,
max-pool, frozen BatchNorm, no shared weights; ``structure`` decides), with p = softmax(f(x))
and s_k = sqrt(p_k) (e_k - p),

    tr H_j = (1/n) sum_i sum_k || J_j(x_i)^T s_k ||^2,    sum_k s_k s_k^T = diag(p) - p p^T.

For a dense layer with input a and back-propagated d_k the norm is ||a||^2 ||d_k||^2, so that no
gradient is formed for an example; any other parameter's gradient is formed per example and class.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxsharp.chunks import mean_over_chunks
from jaxsharp.memory import affordable_chunk
from jaxsharp.structure import Structure, analyze, evaluate_tapped


def class_factors(logits: Float[Array, " classes"]) -> Float[Array, "classes classes"]:
    """Rows s_k = sqrt(p_k) (e_k - p) with sum_k s_k s_k^T the Hessian of the cross-entropy."""
    p = jax.nn.softmax(logits)
    return jnp.sqrt(p)[:, None] * (jnp.eye(p.size, dtype=p.dtype) - p)


def softmax_group_traces(
    fn: Callable, params: PyTree, stats: PyTree, images: Array, *, chunk_size: int | None = None
) -> PyTree:
    """Trace of the Hessian's diagonal block of every parameter array, exact up to rounding.

    ``fn(params, stats, image) -> logits`` maps a single example, in evaluation mode. The loss is
    the mean softmax cross-entropy; its Hessian's diagonal blocks do not depend on the labels.
    Cost: one forward and ``classes`` backward passes; memory is independent of the number of
    examples, ``chunk_size`` examples at a time (None: as memory allows).
    Raises StructureError, before anything compiles, for a network that does not qualify.

    Invariant to the order of the examples; *not* invariant to layer rescaling: a factor alpha on
    parameter j divides its trace by alpha^2.
    """
    with jax.default_matmul_precision("highest"):  # read and kept by the program when traced
        structure = analyze(fn, params, stats, images[0])

    @jax.jit
    def mean_traces(params, stats, images):
        def chunk_mean(chunk):
            traces = jax.vmap(lambda image: example_traces(structure, params, stats, image))(chunk)
            return jax.tree.map(lambda t: t.mean(0), traces)

        return mean_over_chunks(
            chunk_mean, images, chunk_size or affordable_chunk(chunk_mean, images)
        )

    with jax.default_matmul_precision("highest"):
        return mean_traces(params, stats, images)


def example_traces(structure: Structure, params: PyTree, stats: PyTree, image: Array) -> PyTree:
    """``sum_k ||J_j^T s_k||^2`` of one example for every parameter array j."""
    leaves, treedef = jax.tree.flatten(params)
    entries = {entry.leaf: entry for entry in structure.dense.values()}
    others = {j: leaf for j, leaf in enumerate(leaves) if j not in entries}
    taps = {e.leaf: jnp.zeros(e.output.shape, e.output.dtype) for e in entries.values()}

    def tapped(taps, others):
        inputs = [others.get(j, leaf) for j, leaf in enumerate(leaves)]
        inputs += [*jax.tree.leaves(stats), image]
        (logits,), activations = evaluate_tapped(structure.program, inputs, taps, structure.dense)
        return logits, activations

    logits, pullback, activations = jax.vjp(tapped, taps, others, has_aux=True)
    signals, gradients = jax.vmap(pullback)(class_factors(logits))
    traces = {j: jnp.sum(jnp.square(g)) for j, g in gradients.items()}
    for j, signal in signals.items():
        traces[j] = jnp.sum(jnp.square(activations[j])) * jnp.sum(jnp.square(signal))
    return jax.tree.unflatten(treedef, [traces[j] for j in range(len(leaves))])
