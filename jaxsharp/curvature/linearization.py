"""Derivatives of functions of the parameters as linear maps, and their means over a data set."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial
from jaxtyping import Array, PyTree

from jaxsharp.core.chunks import Batches, mean_over_batches, mean_over_chunks, num_examples
from jaxsharp.core.fingerprints import of_known_program
from jaxsharp.core.memory import Budget, affordable_chunk, budget, bytes_per_example
from jaxsharp.core.programs import compiled, own_settings, primitives
from jaxsharp.core.streaming import whole
from jaxsharp.core.trees import merge, select, widen
from jaxsharp.curvature.operators import Operator

# Maps the parameters, a point that moves, and some examples to a vector like the point; a mean
# over the examples. The point is the chosen part of the parameters.
Field = Callable[[PyTree, PyTree, PyTree], PyTree]


class Plan(NamedTuple):
    """How a product goes over the data: examples at a time (None: all), linearized once or not."""

    chunk_size: int | None
    keep: bool

    def describe(self, n: int | None) -> str:
        """Return the plan in words."""
        how = "linearized once" if self.keep else "recomputed in every product"
        if n is None:
            return f"{how}, whole batch"
        return f"{how}, {n} examples, {min(n, self.chunk_size or n)} at a time"


def jacobian_operator(
    field: Field,
    params: PyTree,
    batch: PyTree | Batches,
    mask: PyTree | None,
    chunk_size: int | str | None,
    recompute: bool | None,
    memory: Budget | None,
    additivity: Callable[[PyTree, Budget], bool | Array] | None,
    divided: bool = False,
) -> Operator:
    """Return the Jacobian of the mean field in its point, at the parameters, which is symmetric.

        v -> d/dt mean_c field(params, params + t v, chunk_c) at t = 0

    Parameters and data reach compiled functions as arguments, so that no program holds them.
    Parameters in 16 bits are widened, so that means over examples are taken in float32; products
    are rounded to the dtypes of the parameters. `additivity` is asked before data are cut into
    chunks, and also where the field itself takes examples one by one, `divided`; where it can say
    so only when the program runs, the product becomes NaN.
    """
    given = select(params, mask)
    params = merge(widen(given), params)

    def at_chunk(params, chunk):
        return derivative(lambda point: field(params, point, chunk), select(params, mask))

    if isinstance(batch, Batches):
        return _on_host(at_chunk, params, batch, chunk_size, given)
    if chunk_size == "whole":
        chunk_size = _length(batch)
    plan = _plan(field, at_chunk, params, batch, mask, chunk_size, recompute, memory or budget())

    def linearized(params, batch):
        # Kept by linearizing the loop over chunks, which stores what does not change only once.
        def mean_field(point):
            part = lambda chunk: field(params, point, chunk)  # noqa: E731
            return _mean(part, batch, plan.chunk_size)

        return derivative(mean_field, select(params, mask))

    def recomputed(params, batch, vector):
        part = lambda chunk: at_chunk(params, chunk)(vector)  # noqa: E731
        return _mean(part, batch, plan.chunk_size)

    # What is linearized once is no less that program, which says all that is computed.
    program = of_known_program(recomputed, params, batch, select(params, mask))
    call = compiled(linearized if plan.keep else recomputed, program and (program, plan.keep))
    cut = divided or plan.chunk_size is not None
    additive = additivity(batch, memory) if cut and additivity is not None else True
    with own_settings():
        if plan.keep:
            product = Partial(_call, call(params, batch))
        else:
            product = Partial(call, params, batch)
    if additive is not True:
        product = Partial(_if_additive, additive, product)
    return Operator(_precise(product, given), plan.describe(_length(batch)))


def derivative(fn: Callable[[PyTree], PyTree], point: PyTree) -> Partial:
    """Return the derivative at `point` of a function whose derivative is symmetric.

    Forward mode; where a custom_vjp has none, the transpose (reverse mode) serves, as it is equal.
    A pytree of what it keeps, so that it can be an argument and a result of compiled functions.
    """
    _, push = jax.linearize(fn, point)
    if _has_forward_mode(push, point):
        return push
    _, pull = jax.vjp(fn, point)
    return Partial(_only, pull)


def linear_maps(fn: Callable, point: PyTree) -> tuple[PyTree, Callable, Callable]:
    """Return fn(point), the derivative J there, v -> J v, and its transpose, w -> J^T w.

    One linearization and its transpose, so that what both keep is kept once.
    """
    outputs, push = jax.linearize(fn, point)
    if _has_forward_mode(push, point):
        return outputs, push, Partial(_only, jax.linear_transpose(push, point))
    outputs, pull = jax.vjp(fn, point)
    pull = Partial(_only, pull)
    return outputs, Partial(_only, jax.linear_transpose(pull, outputs)), pull


def gauss_newton_field(apply: Callable, respond: Callable, mask: PyTree | None) -> Field:
    """Return the field x -> J^T B J x, where B = respond(outputs, chunk) is linear.

    B acts in at least float32. It has the 1/n of a mean, which float16 may not hold: on the way
    back such cotangents are larger by a power of two.
    """

    def field(params, point, chunk):
        at = lambda x: apply(merge(x, params), chunk)  # noqa: E731
        outputs, push, pull = linear_maps(at, select(params, mask))
        response = respond(widen(outputs), chunk)(widen(push(point)))
        if outputs.dtype.itemsize >= 4:
            return pull(response)
        scale = 2.0 ** len(outputs).bit_length()
        product = pull((response * scale).astype(outputs.dtype))
        return jax.tree.map(lambda leaf: leaf / scale, product)

    return field


def _has_forward_mode(push, point):
    """Return whether a linearization can be computed: the tangent of a custom_vjp cannot.

    Looked for, not caught: the TypeError comes from lowering, in the caller's jit or loop.
    """
    return "custom_lin" not in primitives(jax.make_jaxpr(push)(point).jaxpr)


def _on_host(at_chunk, params, batches: Batches, chunk_size, given) -> Operator:
    """Return the product as a loop over batches, each a mean over chunks, recomputed."""

    @jax.jit
    def of_batch(params, batch, vector):
        part = lambda chunk: at_chunk(params, chunk)(vector)  # noqa: E731
        return _mean(part, batch, chunk_size)

    def product(vector):
        return mean_over_batches(lambda batch: of_batch(params, batch, vector), batches)

    at_a_time = "a batch" if chunk_size is None else f"{chunk_size} examples"
    words = f"streamed from the host, recomputed in every product, {at_a_time} at a time"
    return Operator(_precise(product, given), words, on_host=True)


def _plan(field, at_chunk, params, batch, mask, chunk_size, recompute, memory) -> Plan:
    """Choose what was left open by the bytes that the programs write and keep."""
    n = _length(batch, chunk_size)
    if n is None:
        return Plan(None, not recompute)
    if chunk_size is None:
        base = select(params, mask)
        chunk_size = affordable_chunk(lambda chunk: field(params, base, chunk), batch, memory)
    elif chunk_size >= n:
        chunk_size = None
    if recompute is None:
        kept = lambda few: _bytes(jax.eval_shape(at_chunk, params, few))  # noqa: E731
        recompute = n * bytes_per_example(kept, batch) > memory.kept_bytes
    return Plan(chunk_size, not recompute)


def _mean(fn, batch, chunk_size):
    """Return the mean over chunks; what is taken whole need have no examples."""
    return fn(whole(batch)) if chunk_size is None else mean_over_chunks(fn, batch, chunk_size)


def _length(batch, chunk_size=None) -> int | None:
    """Return the number of examples, None for a batch without a common leading axis.

    Such a batch (no data at all, say) is taken whole; asking for its chunks is an error.
    """
    try:
        return num_examples(batch, chunk_size)
    except ValueError:
        if chunk_size is not None:
            raise
        return None


def _bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _precise(product, like):
    """Return the product at the highest precision, for vectors in the dtypes of `like`."""
    leaves, structure = jax.tree.flatten(like)
    return Partial(_Precise(structure, tuple(jnp.result_type(leaf) for leaf in leaves)), product)


@dataclass(frozen=True)
class _Precise:
    structure: Any
    dtypes: tuple

    def __call__(self, product, vector):
        if jax.tree.structure(vector) != self.structure:
            raise ValueError(
                f"vector has the structure {jax.tree.structure(vector)}; it must be that of the "
                f"chosen parameters, {self.structure}, with None where a mask leaves out"
            )
        like = self.structure.unflatten(jax.ShapeDtypeStruct((), dtype) for dtype in self.dtypes)
        with own_settings():
            return optax.tree.cast_like(product(widen(vector)), like)


def _if_additive(additive, product, vector):
    return jax.tree.map(lambda x: jnp.where(additive, x, jnp.nan), product(vector))


@jax.jit
def _call(fn, vector):
    return fn(vector)


def _only(fn, vector):
    """Return the single result of a function that returns a tuple of one."""
    return fn(vector)[0]
