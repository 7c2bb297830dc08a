"""m-SAM, and what it shares with gradient accumulation: a batch in groups of m examples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from jaxsharp.core.chunks import num_examples
from jaxsharp.optimizers.arguments import check_count, check_rate
from jaxsharp.optimizers.sharpness_aware.ascent import Mask, ascent_step
from jaxsharp.optimizers.sharpness_aware.rule import (
    Rho,
    Rule,
    at_step,
    chosen,
    no_memory,
    sharpness_aware,
    shifted,
)


def m_sam(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    m: int = 16,
    vmapped: bool = False,
    mask: Mask = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """m-SAM: the mean of the SAM gradients of groups of m examples, each with its own ascent.

    update(grads, state, params, grad_fn=grad_fn, batch=batch) with grad_fn(params, batch) ->
    grads; `batch`, arrays with examples along the leading axis, is cut in order. `grads` is not
    looked at, so inside jit the pass that makes it is dropped, unless its loss is used. Groups that
    draw from one key draw the same numbers: with dropout let the batch hold a key for each example.

    `mask` as in `sam`. Two gradients a step. Groups one after the other, or `vmapped`: all at
    once, with weights of their own. Foret et al. 2021 (arXiv 2010.01412), section 4.1.
    """
    check_rate(rho=rho)
    check_count(m=m)

    def gradient(grad_fn, grads, params, memory, step, *, batch):
        def sharp(params, group):
            clean = chosen(grad_fn(params, group), params, mask)
            ascent = ascent_step(clean, at_step(rho, step))
            return (), grad_fn(shifted(params, ascent), group)

        return per_group(sharp, m, vmapped=vmapped)(params, batch)[1], memory

    return sharpness_aware(base, Rule(no_memory(mask), gradient, takes_batch=True), axis_name)


def per_group(value_and_grad: Callable, m: int, *, vmapped: bool = False) -> Callable:
    """Return the mean of value_and_grad(params, group, *args) over groups of m examples.

    (params, batch, *args) -> (value, grads), both means over the groups, integers apart, which
    are those of the last group; the batch is cut in order. Of a plain gradient this is the gradient
    of the batch in less memory; of `sam.sam_gradient` it is m-SAM. The mean of BatchNorm statistics
    lacks the variance between the groups; groups that draw from one key draw the same numbers.

    Raises ValueError, before tracing, if m does not divide the number of examples.
    """
    check_count(m=m)

    def grouped(params: PyTree, batch: PyTree, *args) -> tuple[PyTree, PyTree]:
        num = num_examples(batch)
        if num % m:
            raise ValueError(f"m is {m}; it must divide the {num} examples of the batch")
        groups = jax.tree.map(lambda x: x.reshape(num // m, m, *x.shape[1:]), batch)

        def one(group):
            return jax.tree.map(jnp.asarray, value_and_grad(params, group, *args))

        if vmapped:
            return jax.tree.map(_mean, jax.vmap(one)(groups))
        return _mean_in_turn(one, groups, num // m)

    return grouped


def _mean(stacked):
    return jnp.mean(stacked, 0) if jnp.issubdtype(stacked.dtype, jnp.inexact) else stacked[-1]


def _mean_in_turn(fn, groups, num):
    """The mean, of which no more than one result is held beside the sum."""

    def add(total, group):
        def one(t, x):
            return t + x.astype(t.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else x

        return jax.tree.map(one, total, fn(group)), None

    shapes = jax.eval_shape(fn, jax.tree.map(lambda x: x[0], groups))
    total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(add, total, groups)
    return jax.tree.map(lambda t: t / num if jnp.issubdtype(t.dtype, jnp.inexact) else t, total)
