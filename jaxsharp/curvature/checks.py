"""What a loss must be for its matrix of second derivatives to exist, checked before compilation.

Above all a fixed function. Dropout, augmentation, reshuffling with a short last batch, and
BatchNorm in training mode make every product that of another matrix, and Lanczos would return
numbers without meaning.
"""

import itertools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from jaxsharp.core.chunks import Batches, mean_over_batches, num_examples
from jaxsharp.core.programs import constants, primitives
from jaxsharp.core.trees import select

# What a compiled program may ask of Python while it runs, so that reading it proves nothing.
CALLBACKS = {"pure_callback", "io_callback"}
# Relative to the mean size of a batch's loss and gradient: another order or grouping of the
# examples changes sums by rounding alone, another draw of noise or a missing example by far more.
ROUNDING = 1000.0


def check_params(params: PyTree, batch: PyTree | Batches, mask: PyTree, chunk_size: int | None):
    """Raise ValueError for parameters, chosen by `mask`, or data that nothing can be done with."""
    dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(select(params, mask))}
    wrong = sorted(str(d) for d in dtypes if not jnp.issubdtype(d, jnp.floating))
    if wrong or not dtypes:
        found = f"hold {', '.join(wrong)}" if wrong else "are empty"
        raise ValueError(f"params {found}; derivatives need real floating-point parameters")
    if chunk_size is not None:
        num_examples(_first(batch), chunk_size)


def check_loss(loss: Callable, params: PyTree, batch: PyTree | Batches, twice: bool) -> None:
    """Raise ValueError for a loss that is no scalar or, if looked at `twice`, no fixed function."""
    out = jax.eval_shape(loss, params, _first(batch))
    if getattr(out, "shape", None) != () or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"loss returned {out}; it must return a real scalar, the mean loss")
    if twice:
        check_deterministic(loss, params, batch)


def check_outputs(apply: Callable, params: PyTree, batch: PyTree | Batches, twice: bool) -> None:
    """Raise ValueError for outputs that are no rows of reals or, looked at `twice`, not fixed."""
    first = _first(batch)
    out = jax.eval_shape(apply, params, first)
    rows = getattr(out, "shape", ())[:1] == (num_examples(first),)
    if not rows or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"apply returned {out}; it must return reals, one row for each example")
    if twice:
        check_deterministic(lambda p, b: jnp.mean(jnp.square(apply(p, b))) / 2, params, batch)


def check_deterministic(loss: Callable, params: PyTree, batch: PyTree | Batches) -> None:
    """Raise ValueError if two passes over `loss(params, batch)` differ.

    Arrays: the loss is traced twice; a compiled program is a fixed function of its arguments, so
    equal programs with equal constants are the proof, and nothing is computed. A loss that calls
    back to Python is evaluated twice instead (not inside jit, where it cannot be). `Batches`: loss,
    gradient and number of examples of two passes must agree to rounding, at the cost of both.
    """
    if isinstance(batch, Batches):
        _compare_passes(loss, params, batch)
    else:
        _compare_programs(loss, params, batch)


def _compare_programs(loss, params, batch):
    # A new function each time, as traces of the same one are remembered.
    first, second = (jax.make_jaxpr(lambda p, b: loss(p, b))(params, batch) for _ in range(2))
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


def _compare_passes(loss, params, batches):
    @jax.jit
    def of_batch(params, batch):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        return value, gradient, jnp.abs(value), optax.tree.norm(gradient)

    def one_pass():
        counted = Batches(lambda: _counted(batches, count))
        count = [0]
        return count, mean_over_batches(lambda batch: of_batch(params, batch), counted)

    (first_count, first), (second_count, second) = one_pass(), one_pass()
    if first_count != second_count:
        raise ValueError(
            f"batches gave {first_count[0]} examples in one pass and {second_count[0]} in the "
            "next; start() must begin the same pass anew"
        )
    difference = float(optax.tree.norm(optax.tree.sub(first[1], second[1])))
    allowed = ROUNDING * float(jnp.finfo(first[0].dtype).eps)
    equal_losses = abs(float(first[0] - second[0])) <= allowed * float(first[2])
    if not (equal_losses and difference <= allowed * float(first[3])):
        raise ValueError(
            f"loss is not a fixed function: two passes over the batches gave {float(first[0])} and "
            f"{float(second[0])}, gradients {difference:.3g} apart; batches must hold the same "
            "examples in every pass, without augmentation, dropout or batch statistics"
        )


def _counted(batches, count):
    for batch in batches.start():
        count[0] += num_examples(batch)
        yield batch


def _text(program):
    """Return the program as text, without the addresses of the functions it mentions."""
    return re.sub(r"0x[0-9a-f]+", "", str(program))


def _equal(a, b):
    if isinstance(a, jax.core.Tracer) or isinstance(b, jax.core.Tracer):
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    return np.array_equal(a, b, equal_nan=jnp.issubdtype(a.dtype, jnp.inexact))


def _first(batch):
    """Return the batch, or the first of `Batches`."""
    if not isinstance(batch, Batches):
        return batch
    for first in batch.start():
        return first
    raise ValueError("batches gave no examples; start() must return a new iterable of batches")
