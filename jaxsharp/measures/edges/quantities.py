"""Curvatures that are followed along training, each beside an edge of `formulas`.

``loss(params, batch)`` returns the scalar mean over the examples of ``batch``, a pytree of arrays
with examples along the leading axis.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, ScalarLike

from jaxsharp.core.averages import Limits, average
from jaxsharp.core.chunks import num_examples
from jaxsharp.core.keys import stream
from jaxsharp.core.memory import Budget
from jaxsharp.core.programs import own_settings
from jaxsharp.core.streaming import rows
from jaxsharp.core.trees import norm
from jaxsharp.curvature.lanczos import eigenpairs_at
from jaxsharp.curvature.linearization import derivative
from jaxsharp.curvature.operators import Loops, preconditioned
from jaxsharp.curvature.products import hessian
from jaxsharp.measures.neighbourhood.crossings import ROUNDING, crossing, with_rounding
from jaxsharp.measures.spectrum.samples import sampled

# Products on a sample that turn a start towards the new eigenvector: more fit it to the sample.
TURNS = 2
COMPILED = Loops(jax.lax.while_loop, jax.lax.map)


class FollowedEigenvalue(NamedTuple):
    """The largest eigenvalue, its residual, and the unit eigenvector from which the next starts.

    ``num_products`` are those over all examples, and of a sample the share that they cost.
    """

    value: Float[Array, ""]
    residual: Float[Array, ""]
    vector: PyTree
    num_products: Int[Array, ""]
    converged: Bool[Array, ""]


class BatchSharpness(NamedTuple):
    """Mean over batches, its standard error, and whether that is as small as was asked for."""

    mean: Float[Array, ""]
    stderr: Float[Array, ""]
    num_batches: Int[Array, ""]
    converged: Bool[Array, ""]


class CriticalSharpness(NamedTuple):
    """2 / eta_c, width of its bracket with rounding, whether there is one, and the losses taken."""

    value: Float[Array, ""]
    width: Float[Array, ""]
    found: Bool[Array, ""]
    num_losses: Int[Array, ""]


@own_settings()
def followed_eigenvalue(
    loss: Callable,
    params: PyTree,
    batch: PyTree,
    *,
    key: PRNGKeyArray,
    start: PyTree | None = None,
    diagonal: PyTree | None = None,
    tol: float = 1e-2,
    sample: float = 0.0,
    max_products: int | None = None,
    recompute: bool | None = None,
    memory: Budget | None = None,
    check: bool = True,
) -> FollowedEigenvalue:
    """Return the largest eigenvalue of the Hessian H, or of D^(-1/2) H D^(-1/2), from a start.

    ``start`` is the ``vector`` of the call before; a few products are then enough. One of zeros is
    none. ``diagonal`` is D, say of `adam_preconditioner`. ``tol`` is the relative residual, the
    other arguments are those of `curvature.hessian` and `curvature.top_eigenpairs`, and so are the
    errors. Works in jit and in vmap.

    With ``sample`` above 0 the start is first turned by `TURNS` products over that share of the
    examples, drawn at random: after an epoch an old eigenvector has a cosine of 0.4 to 0.6 with the
    new one (SimpleBatch), and a cheap product mends most of that. The value and its residual are
    over all examples.

    The residual is ||H v - value v|| as the recurrence has it, with 10 eps ||H|| for its rounding;
    no product is spent on measuring that. Where the value is apart from the next eigenvalue by a
    gap, its error is at most residual^2 / gap. Raises ValueError for a ``sample`` outside [0, 1).
    """
    if not 0 <= sample < 1:
        raise ValueError(f"sample is {sample}; it must be from 0 to below 1")

    def pairs_over(examples, key, start, **limits):
        options = {"recompute": recompute, "memory": memory, "check": check}
        matvec = hessian(loss, params, examples, **options)
        if diagonal is not None:
            matvec = preconditioned(matvec, diagonal)
        own = stream(key, "followed_eigenvalue")
        found, _ = eigenpairs_at(
            matvec, params, (1, 0), own, tol, start=start, verify=False, **limits
        )
        one = jax.tree.map(lambda leaf: leaf[0], found._replace(num_products=None))
        return one, found.num_products

    spent = 0
    if sample:
        few, share = sampled(batch, sample, stream(key, "followed sample"))
        turned, products = pairs_over(few, key, start, max_products=TURNS)
        start, spent = turned.vectors, jnp.ceil(share * products).astype(products.dtype)
    pairs, products = pairs_over(batch, key, start, max_products=max_products)
    values = pairs.values, pairs.residuals, pairs.vectors
    return FollowedEigenvalue(*values, products + spent, pairs.converged)


@own_settings()
def batch_sharpness(
    loss: Callable,
    params: PyTree,
    data: PyTree,
    *,
    batch_size: int,
    key: PRNGKeyArray,
    rtol: float = 0.05,
    max_batches: int = 400,
) -> BatchSharpness:
    """Return the mean over random batches B of the curvature along their own gradients.

        E_B[g_B^T H_B g_B / |g_B|^2],    g_B, H_B of loss(params, B)

    Batch i is drawn without repetition by ``fold_in(key, i)``. Batches are taken until the standard
    error is at most ``rtol`` of the mean, from 30 on, or ``max_batches``; with rtol 0 so many.
    A mean that is not finite ends at once: a batch without a gradient has no such curvature.

    Cost: a gradient and a Hessian product of each batch, one batch after the other. Works in jit
    and in vmap. arXiv 2412.20553. Raises ValueError for a batch_size outside of 1 to the number of
    examples, max_batches below 2, an rtol that is negative.
    """

    def observe(batch, _):
        return along_gradient(lambda point: loss(point, batch), params)

    return over_batches(observe, data, batch_size, key, rtol, max_batches)


def over_batches(
    observe: Callable[[PyTree, Array], Array],
    data: PyTree,
    batch_size: int,
    key: Array,
    rtol: float,
    max_batches: int,
) -> BatchSharpness:
    """The mean of observe(batch, key) over random batches, each with a key of its own."""
    count = num_examples(data)
    if not 1 <= batch_size <= count:
        raise ValueError(f"batch_size is {batch_size}; it must be from 1 to {count}, the examples")
    if max_batches < 2:
        raise ValueError(f"max_batches is {max_batches}; a standard error needs at least 2")
    if not rtol >= 0:
        raise ValueError(f"rtol is {rtol}; it must be at least 0")

    def one(index):
        own = jax.random.fold_in(key, index)
        chosen = jax.random.choice(own, count, (batch_size,), replace=False)
        return observe(rows(data, chosen), own)

    shape = jax.eval_shape(one, jnp.int32(0))
    zero, limits = jnp.zeros(shape.shape, shape.dtype), Limits(rtol, 0.0, max_batches)
    found = average(one, zero, alone, limits, COMPILED, 1)
    return BatchSharpness(found.mean, found.stderr, found.count, found.converged)


def alone(mean: Array, stderr: Array) -> tuple[Array, Array]:
    """What decides on the end of an average of single numbers."""
    return mean, stderr


def along_gradient(loss: Callable, params: PyTree) -> Float[Array, ""]:
    """g^T H g / |g|^2 of a function of the parameters."""
    gradient = jax.grad(loss)
    g = gradient(params)
    return optax.tree.vdot(g, derivative(gradient, params)(g)) / optax.tree.vdot(g, g)


def slope_and_curvature(
    loss: Callable, params: PyTree, update: PyTree
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """s^T g and s^T H s of a function of the parameters, s the update."""
    gradient = jax.grad(loss)
    product = derivative(gradient, params)(optax.tree.cast_like(update, params))
    return optax.tree.vdot(update, gradient(params)), optax.tree.vdot(update, product)


@own_settings()
def directional_sharpness(
    loss: Callable, params: PyTree, batch: PyTree, update: PyTree, *, learning_rate: ScalarLike
) -> Float[Array, ""]:
    """Return the curvature along the update s of an optimizer, in units of 2/lr.

        d^T H d / d^T g,    s = -lr d

    On a quadratic a step s raises the loss where this is above 2/lr, whatever the optimizer. For
    gradient descent it is g^T H g / |g|^2. NaN where the loss does not fall along s at all.

    Cost: a gradient and a Hessian product. Kalra et al. 2026 (arXiv 2601.16979).
    """
    slopes = slope_and_curvature(lambda point: loss(point, batch), params, update)
    return from_slopes(*slopes, learning_rate)


def from_slopes(slope: Array, curvature: Array, learning_rate: ScalarLike) -> Float[Array, ""]:
    """d^T H d / d^T g from s^T g and s^T H s; NaN where the loss does not fall along s."""
    falls = slope < 0
    return jnp.where(falls, curvature / (-learning_rate * jnp.where(falls, slope, -1)), jnp.nan)


@own_settings()
def critical_sharpness(
    loss: Callable,
    params: PyTree,
    batch: PyTree,
    update: PyTree,
    *,
    learning_rate: ScalarLike,
    rtol: float = 0.01,
) -> CriticalSharpness:
    """Return 2 / eta_c, eta_c the smallest rate at which the update s would raise the loss.

        eta_c = lr c,    c = min {c > 0: L(params + c s) >= L(params)}

    found by doubling or halving c from 1 on, and bisection to the relative width ``rtol``, from
    losses alone; a rise between two powers of 2 that ends before the second is not seen. Above 2/lr
    the step raises the loss, whatever the optimizer. On a quadratic it is `directional_sharpness`.
    NaN, and not found, where the loss rises at all steps, or at none, from 2^-40 to 2^40 of s, or
    falls by no more than its rounding. The width of the bracket has with it what the rounding of
    loss and parameters may move eta_c by, where the loss along s is convex.

    Cost: about ten losses. Kalra et al. 2026 (arXiv 2601.16979). Raises ValueError for an rtol
    outside of (0, 1).
    """
    return critical_along(lambda point: loss(point, batch), params, update, learning_rate, rtol)


def critical_along(
    loss: Callable, params: PyTree, update: PyTree, learning_rate: ScalarLike, rtol: float
) -> CriticalSharpness:
    """`critical_sharpness` of a function of the parameters."""
    if not 0 < rtol < 1:
        raise ValueError(f"rtol is {rtol}; it must be above 0 and below 1")
    params, update = jax.tree.map(jnp.asarray, (params, update))
    before = jnp.asarray(loss(params))

    def rise(scale):
        step = optax.tree.scale(scale, update)
        return loss(optax.tree.cast_like(optax.tree.add(params, step), params)) - before

    rounding = ROUNDING * jnp.finfo(before.dtype).eps * jnp.abs(before)
    bisections = max(0, math.ceil(math.log2(math.log(2) / math.log1p(rtol))))
    found = crossing(rise, -rounding, before, bisections=bisections)
    # From half of the way on the loss rises by as much as it has fallen until there.
    fall = jnp.maximum(-rise(found.value / 2), 0)
    found = with_rounding(found, before, 2 * fall, params, norm(update))
    value = jnp.where(found.found, 2 / (learning_rate * found.value), jnp.nan)
    width = value * found.width / found.value
    return CriticalSharpness(value, width, found.found, found.calls + 2)
