"""Traces, diagonals and norms of a symmetric operator by random probes, each with its error.

With Rademacher probes z_i, whose entries are independent signs, E[z z^T] = I and

    x_i = x(z_i, A z_i),    mean = (1/n) sum_i x_i,
    stderr = sqrt(sum_i (x_i - mean)^2 / (n (n - 1))).

n grows from MIN_PROBES until stderr <= max(rtol |mean|, atol), or to max_products. What stops it
is an error, never a change: a trace near zero stops by `atol` or not at all. With rtol = atol = 0,
n is max_products, unless every x_i is the same. A stop on the running error biases mean and error
slightly, towards samples that look quiet; where max_products decides, there is no bias.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jaxsharp.core.averages import Average, Limits, average
from jaxsharp.core.keys import stream
from jaxsharp.core.programs import own_settings
from jaxsharp.core.trees import abstract, norm
from jaxsharp.curvature import operators
from jaxsharp.curvature.operators import Matvec, check_range, checked_like, num_entries


class Trace(NamedTuple):
    """A trace and its standard error; the same for the diagonal block of every leaf of `like`."""

    mean: Float[Array, ""]
    stderr: Float[Array, ""]
    group_means: PyTree[Float[Array, ""]]
    group_stderrs: PyTree[Float[Array, ""]]
    num_products: Int[Array, ""]
    converged: Bool[Array, ""]


class Estimate(NamedTuple):
    """A number, or a pytree of numbers, and its standard error."""

    mean: PyTree[Float[Array, "..."]]
    stderr: PyTree[Float[Array, "..."]]
    num_products: Int[Array, ""]
    converged: Bool[Array, ""]


def hutchinson(
    matvec: Matvec,
    like: PyTree,
    *,
    key: PRNGKeyArray,
    rtol: float = 0.01,
    atol: float = 0.0,
    max_products: int = 1000,
    vmapped: int = 1,
) -> Trace:
    """Return the trace of a symmetric operator A, and of its diagonal block for every leaf.

        tr A = E[z^T A z],    tr A_jj = E[z_j^T (A z)_j],    tr A = sum_j tr A_jj

    `matvec` maps a pytree like `like` (arrays or ShapeDtypeStruct, P numbers in float32 or
    float64) to another. Variance of a probe: 2 ||A - diag A||_F^2, so none where A is diagonal.
    All groups share the probes; the stop, as this module says, is by the whole trace alone, or
    at once if A returns NaN or infinity: `mean` is then not finite. `converged`: the tolerance was
    met, by at least MIN_PROBES probes.

    Cost: num_products, and up to vmapped - 1 that are thrown away. Probe i is drawn from
    fold_in(key, i), so `vmapped` changes the answer by rounding only. Memory: vmapped x P for the
    probes, and `vmapped` times what a product needs; leaves are never joined, so they may be
    sharded. Compiled loops; works in jit and in vmap over models. Around a product on the host
    the loops run there too, and `vmapped` should be 1.

    Invariances: orthogonal changes of basis keep the trace, not the error; rescaling of layers
    keeps neither.

    Reference: Hutchinson (1990), Communications in Statistics 19, 433-450. Deviations: the stop.

    Raises ValueError, before tracing: negative or NaN rtol or atol, max_products below 2, vmapped
    below 1, other dtypes; while tracing, if A z is not like z; at the end, inside jit NaN, for
    ||A z|| near the largest or smallest numbers of the dtype (float32: outside 1e-31 to 4e31).
    """
    key, limits = stream(key, "hutchinson"), Limits(rtol, atol, max_products)
    state = _average_over_signs(matvec, like, key, _quadratic_forms, _total, limits, vmapped)
    (mean, means), (stderr, stderrs) = state.mean, state.stderr
    return Trace(mean, stderr, means, stderrs, state.num_products, state.converged)


def diagonal(
    matvec: Matvec,
    like: PyTree,
    *,
    key: PRNGKeyArray,
    rtol: float = 0.05,
    atol: float = 0.0,
    max_products: int = 1000,
    vmapped: int = 1,
) -> Estimate:
    """Return the diagonal of a symmetric operator A, a pytree like `like`, with its errors.

        diag A = E[z * A z],    variance of entry k for a probe: sum_{l != k} A_kl^2

    The stop compares Euclidean norms: ||stderr|| <= max(rtol ||mean||, atol); one entry may have
    a larger relative error, and says so. Memory: three more vectors. Invariances: none but the
    order of the entries. All else is as in `hutchinson`.

    Reference: Bekas, Kokiopoulou and Saad (2007), Applied Numerical Mathematics 57, 1214-1229;
    their denominator sum_i z_i * z_i is n for signs. Deviations: the standard errors, the stop.
    """
    key, limits = stream(key, "diagonal"), Limits(rtol, atol, max_products)
    return _average_over_signs(matvec, like, key, _products, _norms, limits, vmapped)


def frobenius_norm(
    matvec: Matvec,
    like: PyTree,
    *,
    key: PRNGKeyArray,
    rtol: float = 0.01,
    atol: float = 0.0,
    max_products: int = 1000,
    vmapped: int = 1,
) -> Estimate:
    """Return the Frobenius norm of a symmetric operator A, the root of its summed squares.

        ||A||_F = sqrt(E ||A z||^2),    stderr = stderr(||A z||^2) / (2 ||A||_F)

    The error is that of the delta method, to first order; to second, the root is too small by
    stderr^2 / (2 ||A||_F). A zero operator gives 0 +- 0. ||A z|| is squared in the dtype, so in
    float32 it has to lie within 3e-16 and 6e15. Invariances: those of the spectrum of A, so none
    under rescaling of layers. All else is as in `hutchinson`.

    Reference: `hutchinson` for A^2, whose probes z^T A^2 z are ||A z||^2: one product each.
    """
    key, limits = stream(key, "frobenius_norm"), Limits(rtol, atol, max_products)
    state = _average_over_signs(matvec, like, key, _square, _root, limits, vmapped, power=2)
    mean, stderr = _root((state.mean,), (state.stderr,))
    return state._replace(mean=mean, stderr=stderr)


@own_settings()
def _average_over_signs(matvec, like, key, statistic, summary, limits, vmapped, power=1):
    """Return the average of statistic(z, A z) over Rademacher probes z."""
    check_arguments(like, limits, vmapped)
    options = dict(statistic=statistic, summary=summary, limits=limits, vmapped=vmapped)
    state = operators.compiled_around(_averaged, matvec, like, key, **options)
    within = check_range(state.mean[1], matvec, like, power)
    averages = state.mean, state.stderr
    mean, stderr = (jax.tree.map(lambda x: x * within.astype(x.dtype), a[0]) for a in averages)
    return Estimate(mean, stderr, state.count, state.converged & (within == 1))


def _averaged(matvec, like, key, *, statistic, summary, limits, vmapped) -> Average:
    """Return the average of the statistic and of ||A z||."""
    leaves, treedef = jax.tree.flatten(like)
    shapes = tuple(map(abstract, leaves))

    def observe(index):
        probe = treedef.unflatten(_signs(key, index, shapes))
        image = checked_like(probe, matvec(probe))
        return statistic(probe, image), _norm(image)

    shapes_of_both = jax.eval_shape(statistic, like, like), jax.eval_shape(norm, like)
    zeros = jax.tree.map(jnp.zeros_like, shapes_of_both)
    return average(observe, zeros, summary, limits, operators.loops_around(matvec), vmapped)


@partial(jax.jit, static_argnames="shapes")
def _signs(key, index, shapes):
    keys = jax.random.split(jax.random.fold_in(key, index), len(shapes))
    return [jax.random.rademacher(k, s.shape, s.dtype) for k, s in zip(keys, shapes, strict=True)]


@jax.jit
def _products(probe, image):
    return jax.tree.map(jnp.multiply, probe, image)


@jax.jit
def _quadratic_forms(probe, image):
    groups = jax.tree.map(jnp.sum, _products(probe, image))
    return sum(jax.tree.leaves(groups)), groups


_norm = jax.jit(norm)


@jax.jit
def _square(_probe, image):
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(image))


def _total(mean, stderr):
    return mean[0][0], stderr[0][0]


def _norms(mean, stderr):
    return norm(mean[0]), norm(stderr[0])


def _root(mean, stderr):
    root = jnp.sqrt(jnp.maximum(mean[0], 0))
    positive = jnp.where(root == 0, jnp.ones_like(root), root)
    return root, stderr[0] / (2 * positive)


def check_arguments(like: PyTree, limits: Limits, vmapped: int) -> int:
    """Return the number of entries of `like`."""
    size = num_entries(like)
    names = ("rtol", "atol", "max_products", "vmapped")
    for name, value, least in zip(names, (*limits, vmapped), (0, 0, 2, 1), strict=True):
        if not value >= least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    return size
