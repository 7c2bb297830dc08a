"""What a loss must be for its matrix of second derivatives to exist, checked before compilation.

Above all a fixed function, and where data are cut into chunks a mean over examples. Dropout,
augmentation, reshuffling with a short last batch make every product that of another matrix; sums,
masked means, BatchNorm in training mode and contrastive losses make it depend on the chunks.
Lanczos would return numbers without meaning. What is additive is checked by `core.additivity`.
"""

import itertools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from jaxsharp.core.additivity import MOST_EXAMPLES, Additivity, spread
from jaxsharp.core.chunks import Batches, check_data, mean_over_batches, num_examples, numbered
from jaxsharp.core.programs import CALLBACKS, constants, primitives
from jaxsharp.core.streaming import shapes
from jaxsharp.core.trees import PARTITION, check_numbers, merge, select, widen

# Relative to the mean size of a batch's loss and gradient: another order or grouping of the
# examples changes sums by rounding alone, another draw of noise or a missing example by far more.
ROUNDING = 1000.0
WHOLE = "whole"


def check_params(params: PyTree, batch: PyTree | Batches, mask: PyTree, chunk_size):
    """Raise ValueError for parameters, chosen by `mask`, or data that nothing can be done with."""
    check_numbers(params, "params", PARTITION)
    check_data(batch)
    dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(select(params, mask))}
    wrong = sorted(str(d) for d in dtypes if not jnp.issubdtype(d, jnp.floating))
    if wrong or not dtypes:
        found = f"hold {', '.join(wrong)}" if wrong else "are empty"
        raise ValueError(f"params {found}; derivatives need real floating-point parameters")
    if isinstance(chunk_size, int | np.integer):
        num_examples(_first(batch), chunk_size)
    elif chunk_size == WHOLE and isinstance(batch, Batches):
        raise ValueError("chunk_size is 'whole', but Batches are divided; give the data as arrays")
    elif chunk_size not in (None, WHOLE):
        raise ValueError(f"chunk_size is {chunk_size!r}; it must be a number, None or 'whole'")


def check_loss(
    loss: Callable,
    params: PyTree,
    batch: PyTree | Batches,
    mask: PyTree,
    chunk_size: int | str | None,
    check: bool,
    *,
    apply: Callable | None = None,
    divided: bool = False,
) -> Additivity | None:
    """Raise ValueError for a loss that is no scalar or, where `check`, no fixed function.

    Returns what is left to be checked before arrays are cut; None if nothing is. `Batches` are cut
    already, so there it is checked here. `apply`, if it returned the outputs inside `loss`, is
    checked with it. `divided`: the examples are taken one by one however large the chunks.
    """
    params = merge(widen(select(params, mask)), params)
    first = _first(batch)
    out = jax.eval_shape(loss, params, first)
    if getattr(out, "shape", None) != () or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"loss returned {out}; it must return a real scalar, the mean loss")
    if out.dtype.itemsize < 4:
        raise ValueError(
            f"loss returned {out.dtype}; its mean over examples must be taken in float32 or float64"
        )
    if apply is not None:
        _check_rows(apply, params, first)
    if not check:
        return None

    def means(params, data):
        more = () if apply is None else (_projection(apply)(params, data),)
        return loss(params, data[0]), *more

    return _checked(loss, means, params, batch, mask, chunk_size, divided)


def check_outputs(
    apply: Callable,
    params: PyTree,
    batch: PyTree | Batches,
    mask: PyTree,
    chunk_size: int | str | None,
    check: bool,
    *,
    in_order: bool = False,
) -> Additivity | None:
    """Raise ValueError for outputs that are no rows of reals or, where `check`, not fixed.

    Returns as `check_loss`. Of each example alone: a fixed random projection of the outputs, which
    knows an example by its place, is additive. Where the examples must come `in_order` it is also
    what two passes over `Batches` are compared by.
    """
    params = merge(widen(select(params, mask)), params)
    _check_rows(apply, params, _first(batch))
    if not check:
        return None
    projection = _projection(apply)
    means = lambda p, data: (projection(p, data),)  # noqa: E731
    if in_order and isinstance(batch, Batches):
        compare_passes(projection, params, numbered(batch), ", in the same order,")
    squares = lambda p, b: jnp.mean(jnp.square(widen(apply(p, b)))) / 2  # noqa: E731
    return _checked(squares, means, params, batch, mask, chunk_size, False)


def _check_rows(apply, params, first):
    out = jax.eval_shape(apply, params, first)
    rows = getattr(out, "shape", ())[:1] == (num_examples(first),)
    if not rows or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"apply returned {out}; it must return reals, one row for each example")


def _projection(apply):
    """Return the mean over examples of u_i <v, f_i>, for fixed normal u and v."""

    def projection(params, data):
        examples, places = data
        outputs = widen(apply(params, examples))
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(places)
        u = jax.vmap(lambda key: jax.random.normal(key, (), outputs.dtype))(keys)
        v = jax.random.normal(jax.random.key(1), outputs.shape[1:], outputs.dtype)
        return jnp.mean(u * jnp.tensordot(outputs, v, v.ndim))

    return projection


def _checked(loss, means, params, batch, mask, chunk_size, divided):
    additivity = Additivity(means, params, mask)
    if not isinstance(batch, Batches):
        _compare_programs(loss, params, batch)
        return additivity
    sizes = compare_passes(loss, params, batch)
    cut = divided or len(sizes) > 1 or (chunk_size is not None and chunk_size < sizes[0])
    if cut and sum(sizes) > 1:
        additivity(_sample(batch, sum(sizes)))
    return None


def _compare_programs(loss, params, batch):
    """Raise ValueError if the loss, traced twice, gives two programs or constants.

    A compiled program is a fixed function of its arguments, so nothing need be computed. A loss
    that calls back to Python is evaluated twice instead (not inside jit, where it cannot be).
    """
    # A new function each time, as traces of the same one are remembered.
    known = params, shapes(batch)
    first, second = (jax.make_jaxpr(lambda p, b: loss(p, b))(*known) for _ in range(2))
    pairs = itertools.zip_longest(constants(first), constants(second))
    same = _text(first) == _text(second) and all(_equal(a, b) for a, b in pairs)
    if not same:
        raise ValueError(
            "loss is not a fixed function: traced twice, it gave two different programs (dropout "
            "or other randomness drawn in Python?); fix its keys, or switch it to evaluation mode"
        )
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((params, batch)))
    if not traced and CALLBACKS & set(primitives(first.jaxpr)):
        values = [float(loss(params, batch)) for _ in range(2)]
        if values[0] != values[1]:
            raise ValueError(
                f"loss is not a fixed function: evaluated twice, it gave {values[0]} and "
                f"{values[1]}; what it calls back to in Python must return the same every time"
            )


def compare_passes(loss: Callable, params: PyTree, batches: Batches, order: str = "") -> list[int]:
    """Return the sizes of the batches; ValueError if two passes do not agree to rounding.

    Compared are loss, gradient and number of examples; the cost is that of both.
    """

    @jax.jit
    def of_batch(params, batch):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        return value, gradient, jnp.abs(value), optax.tree.norm(gradient)

    def one_pass():
        sizes = []
        counted = Batches(lambda: _counted(batches, sizes))
        return sizes, mean_over_batches(lambda batch: of_batch(params, batch), counted)

    (first_sizes, first), (second_sizes, second) = one_pass(), one_pass()
    if sum(first_sizes) != sum(second_sizes):
        raise ValueError(
            f"batches gave {sum(first_sizes)} examples in one pass and {sum(second_sizes)} in the "
            "next; start() must begin the same pass anew"
        )
    difference = float(optax.tree.norm(optax.tree.sub(first[1], second[1])))
    allowed = ROUNDING * float(jnp.finfo(first[0].dtype).eps)
    equal_losses = abs(float(first[0] - second[0])) <= allowed * float(first[2])
    if not (equal_losses and difference <= allowed * float(first[3])):
        raise ValueError(
            f"loss is not a fixed function: two passes over the batches gave {float(first[0])} and "
            f"{float(second[0])}, gradients {difference:.3g} apart; batches must hold the same "
            f"examples{order} in every pass, without augmentation, dropout or batch statistics"
        )
    return first_sizes


def _counted(batches, sizes):
    for batch in batches.start():
        sizes.append(num_examples(batch))
        yield batch


def _sample(batches, n) -> PyTree:
    """Return examples from all over a pass, on the host."""
    rows, first, found = spread(n, MOST_EXAMPLES), 0, []
    for batch in batches.start():
        size = num_examples(batch)
        here = rows[(rows >= first) & (rows < first + size)] - first
        found.append(jax.tree.map(lambda leaf, here=here: np.asarray(leaf)[here], batch))
        first += size
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)


def _text(program):
    """Return the program as text, without the addresses of the functions it mentions."""
    return re.sub(r"0x[0-9a-f]+", "", str(program))


def _equal(a, b):
    if isinstance(a, jax.core.Tracer) or isinstance(b, jax.core.Tracer):
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    return np.array_equal(a, b, equal_nan=jnp.issubdtype(a.dtype, jnp.inexact))


def _first(batch):
    """Return the batch, or the first of `Batches`, to trace with."""
    if not isinstance(batch, Batches):
        return shapes(batch)
    for first in batch.start():
        return first
    raise ValueError("batches gave no examples; start() must return a new iterable of batches")
