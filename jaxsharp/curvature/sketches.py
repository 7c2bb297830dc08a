"""Traces of symmetric operators whose spectrum decays: a sketch takes the large eigenvalues.

What the sketch spans, Q Q^T, counts exactly; only the rest is left to random probes:

    tr A = tr(Q^T A Q) + E[v^T A v],    v = sqrt(P - rank Q) u,
    u uniform on the unit sphere of what is orthogonal to Q.

The length of v is fixed, so that a multiple of the identity has no error; with entries that are
signs or normal it would vary. Vectors are flat here: the leaves of a pytree are joined.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jaxsharp.core.averages import Limits, average, itself
from jaxsharp.core.keys import stream
from jaxsharp.core.programs import own_settings
from jaxsharp.core.trees import norm, scaled_to_norm, without
from jaxsharp.curvature import operators
from jaxsharp.curvature.operators import Matvec, check_range, loops_around
from jaxsharp.curvature.traces import Estimate, check_arguments

# Relative to what was orthogonalized: a remainder below 10 eps is rounding.
ROUNDING = 10.0
# With fewer test vectors the error of XTrace is too uncertain to stop on.
MIN_TESTS = 10
# Variance of the mean in XTrace relative to that of independent terms; see there.
INFLATION = 2.0


@own_settings()
def hutchpp(
    matvec: Matvec,
    like: PyTree,
    *,
    key: PRNGKeyArray,
    sketch_size: int = 20,
    rtol: float = 0.01,
    atol: float = 0.0,
    max_products: int = 1000,
    vmapped: int = 1,
) -> Estimate:
    """Return the trace of a symmetric operator A by Hutch++.

        Q R = A S,    tr A = tr(Q^T A Q) + (1/n) sum_i v_i^T A v_i

    S (P x sketch_size) is normal; v_i are as in this module's formula. Given Q the second term is
    an average of independent terms without bias, and stderr is its error: the first has none.
    Where rank A <= sketch_size (cut to P) the answer is exact to rounding, which stderr does not
    count. `matvec`, `like`, `vmapped` and the stop are as in `hutchinson`; there are at least
    `averages.MIN_PROBES` v_i. NaN is noticed after the sketch.

    Cost: 2 sketch_size + n products. Memory: 3 sketch_size x P at the QR decomposition, and
    vmapped x P. Compiled loops; works in jit and in vmap over models; fixed by `key`.

    Invariances: orthogonal changes of basis, in distribution. None under rescaling of layers.

    Reference: Meyer, Musco, Musco and Woodruff (2021), SOSA, 142-155, Algorithm 1. Deviations:
    normal S, v_i of fixed length instead of signs (so that one atom of the distribution cannot hit
    an eigenvector), and n by the stop instead of a third of the products.

    Raises ValueError, before tracing: sketch_size below 1, max_products below 2 sketch_size + 2,
    and as `hutchinson`.
    """
    size = check_arguments(like, Limits(rtol, atol, max_products), vmapped)
    if sketch_size < 1:
        raise ValueError(f"sketch_size is {sketch_size}; it must be at least 1")
    limits = Limits(rtol, atol, max_products - 2 * (rank := min(sketch_size, size)))
    if limits.max_probes < 2:
        least = f"2 sketch_size + 2 = {2 * rank + 2}"
        raise ValueError(f"max_products is {max_products}; it must be at least {least}")
    keys = stream(key, "hutchpp: sketch"), stream(key, "hutchpp: probes")
    options = {"rank": rank, "limits": limits, "vmapped": vmapped}
    state, scale = operators.compiled_around(_known_and_averaged, matvec, like, keys, **options)
    within = check_range(scale, *_flat(matvec, like))
    mean, stderr = state.mean * within, state.stderr * within
    return Estimate(mean, stderr, state.count + 2 * rank, state.converged & (within == 1))


def _known_and_averaged(matvec, like, keys, *, rank, limits, vmapped):
    """Return the average of the known part and that of each probe, and the largest ||A s||."""
    loops, (sketch_key, probe_key) = loops_around(matvec), keys
    product, zero = _flat(matvec, like)

    def sketch(index):
        return product(_normal(sketch_key, index, zero))

    def observe(index):
        probe = _probe_outside(probe_key, index, basis)
        return known + jnp.vdot(probe, product(probe))

    images = loops.map(sketch, jnp.arange(rank), batch_size=vmapped)
    basis = _row_basis(images)
    forms = loops.map(lambda row: jnp.vdot(row, product(row)), basis, batch_size=vmapped)
    known = jnp.sum(forms)
    state = average(observe, jnp.zeros_like(known), itself, limits, loops, vmapped)
    return state, jnp.max(jax.vmap(norm)(images))


class _Sketch(NamedTuple):
    """A sketch of k = `count` columns; rows and columns that are not yet filled are zero."""

    basis: Float[Array, "m p"]  # Q^T
    tests: Float[Array, "m p"]  # W^T
    triangle: Float[Array, "m m"]  # R = Q^T A W
    overlaps: Float[Array, "m m"]  # Q^T W
    projected: Float[Array, "m m"]  # Q^T A Q
    count: Int[Array, ""]
    scale: Float[Array, ""]  # largest ||A w||
    mean: Float[Array, ""]
    stderr: Float[Array, ""]
    stop: Bool[Array, ""]
    converged: Bool[Array, ""]


@own_settings()
def xtrace(
    matvec: Matvec,
    like: PyTree,
    *,
    key: PRNGKeyArray,
    rtol: float = 0.01,
    atol: float = 0.0,
    max_products: int = 60,
) -> Estimate:
    """Return the trace of a symmetric operator A by XTrace, which uses each product twice.

        Q R = A W,    t_i = tr(Q_i^T A Q_i) + v_i^T A v_i,    mean = (1/k) sum_i t_i,
        stderr = sqrt(2 sum_i (t_i - mean)^2 / (k (k - 1)))

    W (P x k) are test vectors w_i; Q_i spans all columns of A W but the i-th, so that w_i is
    independent of it, and v_i is the part of w_i outside Q_i, with length sqrt(P - k + 1).
    Each t_i is without bias. They are not independent: v_i^T A v_i depends on w_i and on the
    others, and what it owes to w_i and w_j together is in t_j too, with the same sign. A sum of
    such pairs has twice the variance of independent terms, hence the 2. For spectra of seven
    shapes stderr was 0.9 to 1.5 times the spread of the mean; without the 2, 0.6 to 1 times.
    Where rank A < k, t_i is exact to rounding, which stderr does not count; with k = P the mean
    is tr(Q^T A Q).

    k grows one by one, at two products each, until stderr <= max(rtol |mean|, atol) with k at
    least MIN_TESTS, or k = P, max_products is reached, or the mean is not finite (A returned NaN
    or infinity). `converged`: the tolerance was met. The stop biases more than in `hutchinson`, as
    k is small: towards zero by up to half a stderr where the spectrum decays.

    Cost: num_products = 2 k, one after the other; per k six passes over Q and W. Memory: Q and W
    at their largest, max_products x P, whatever k will be. Compiled loops; works in jit and in
    vmap over models; fixed by `key`.

    Invariances: orthogonal changes of basis, in distribution. None under rescaling of layers.

    Reference: Epperly, Tropp and Webber (2024), SIAM J. Matrix Anal. Appl. 45, 1-23: XTrace with
    normalized test vectors. Deviations: the 2 in stderr; k grows, by Gram-Schmidt with two passes;
    a column of A W inside the span of those before brings the direction of its w_i, and 10 eps on
    the diagonal of R, where the paper's R would be singular.

    Raises ValueError, before tracing: max_products below 4 (2 if P = 1), and as `hutchinson`.
    """
    limits = Limits(rtol, atol, max_products // 2)
    size = check_arguments(like, limits._replace(max_probes=max_products), 1)
    rows = min(max_products // 2, size)
    if rows < min(2, size):
        raise ValueError(f"max_products is {max_products}; XTrace needs at least 4")
    key = stream(key, "xtrace")
    sketch = operators.compiled_around(_grown, matvec, like, key, rows=rows, limits=limits)
    within = check_range(sketch.scale, *_flat(matvec, like))
    mean, stderr = sketch.mean * within, sketch.stderr * within
    return Estimate(mean, stderr, 2 * sketch.count, sketch.converged & (within == 1))


def _grown(matvec, like, key, *, rows, limits) -> _Sketch:
    """Return the sketch with as many test vectors as the limits ask for."""
    product, zero = _flat(matvec, like)

    def body(sketch):
        sketch = _extended(sketch, test := _sphere(key, sketch.count, zero), product(test))
        return _estimated(limits, sketch, product(sketch.basis[sketch.count]))

    return loops_around(matvec).while_loop(lambda s: ~s.stop, body, _empty(rows, zero))


def _empty(rows, zero) -> _Sketch:
    tall, square = jnp.zeros((rows, zero.size), zero.dtype), jnp.zeros((rows, rows), zero.dtype)
    number, no = jnp.zeros((), zero.dtype), jnp.zeros((), bool)
    return _Sketch(tall, tall, *3 * (square,), jnp.zeros((), jnp.int32), *3 * (number,), no, no)


@jax.jit
def _extended(sketch: _Sketch, test, image) -> _Sketch:
    """Add a test vector w, and A w to the span of the basis; `count` stays for `_estimated`.

    Where A w is in the span already, so is all of A, and any direction will do: that of w.
    """
    k = sketch.count
    rest, column = _outside(sketch.basis, image)
    length, size = norm(rest), norm(image)
    lost = length <= ROUNDING * jnp.finfo(length.dtype).eps * size
    row = scaled_to_norm(jnp.where(lost, _outside(sketch.basis, test)[0], rest), 1)
    basis, tests = sketch.basis.at[k].set(row), sketch.tests.at[k].set(test)
    column = column.at[k].set(jnp.where(lost, jnp.zeros_like(length), length))
    return sketch._replace(
        scale=jnp.maximum(sketch.scale, size),
        basis=basis,
        tests=tests,
        triangle=sketch.triangle.at[:, k].set(column),
        overlaps=sketch.overlaps.at[:, k].set(basis @ test).at[k].set(tests @ row),
    )


@partial(jax.jit, static_argnames="limits")
def _estimated(limits: Limits, sketch: _Sketch, image) -> _Sketch:
    """Add the image A q of the last basis vector, and look at all t_i."""
    rows, size = sketch.basis.shape
    last, count = sketch.count, sketch.count + 1
    column = sketch.basis @ image
    projected = sketch.projected.at[last].set(column).at[:, last].set(column)
    sketch = sketch._replace(projected=projected, count=count)
    filled = jnp.arange(rows) < count
    traces = jnp.where(filled, _left_out_traces(sketch), 0)
    mean = jnp.sum(traces) / count.astype(traces.dtype)
    pairs = jnp.maximum(count * (count - 1), 1).astype(mean.dtype)
    stderr = norm(jnp.where(filled, traces - mean, 0)) * jnp.sqrt(INFLATION / pairs)
    small = stderr <= jnp.maximum(limits.rtol * jnp.abs(mean), limits.atol)
    enough = small & ((count >= MIN_TESTS) | (count == size))
    stop = enough | (count == rows) | ~jnp.isfinite(mean)
    return sketch._replace(mean=mean, stderr=stderr, stop=stop, converged=enough)


def _left_out_traces(sketch: _Sketch):
    """Return t_i in terms of small matrices: H = Q^T A Q, R and O = Q^T W.

    Q_i spans what Q does without Q s_i. The part of w_i outside Q_i is the part outside Q plus
    Q s_i <s_i, o_i>, and the former, times A Q, is (r_i - H o_i)^T.
    """
    size = sketch.basis.shape[1]
    projected, overlaps = sketch.projected, sketch.overlaps
    missing = _left_out_directions(sketch.triangle)
    lost = jnp.sum(missing * (projected @ missing), axis=0)
    along = jnp.sum(missing * overlaps, axis=0)
    outside = sketch.triangle - projected @ overlaps
    forms = jnp.sum(outside * (2 * along * missing - overlaps), axis=0) + along**2 * lost
    lengths = size - jnp.sum(overlaps**2, axis=0) + along**2
    lengths = jnp.where(lengths > 0, lengths, jnp.ones_like(lengths))
    known = jnp.trace(projected)
    traces = known - lost + (size - sketch.count + 1).astype(forms.dtype) * forms / lengths
    return jnp.where(sketch.count == size, known, traces)


def _left_out_directions(triangle):
    """Return in column i the unit vector s_i orthogonal to all columns of R but the i-th.

    Those are the columns of R^(-T). A diagonal entry of zero, as in columns not yet filled, would
    make R singular: at the size of rounding it keeps s_i finite, and as good as orthogonal.
    """
    largest = jnp.max(jnp.abs(triangle))
    scaled = triangle / jnp.where(largest > 0, largest, jnp.ones_like(largest))
    identity = jnp.eye(len(triangle), dtype=triangle.dtype)
    diagonal = jnp.maximum(jnp.diag(scaled), ROUNDING * jnp.finfo(triangle.dtype).eps)
    safe = jnp.where(identity > 0, jnp.diag(diagonal), scaled)
    inverse = jax.scipy.linalg.solve_triangular(safe, identity, trans="T")
    return inverse / jnp.linalg.norm(inverse, axis=0)


def _flat(matvec, like):
    """Return the product on flat vectors, and a flat vector of zeros."""
    on_lists, (zero,), _, _ = operators.packed(matvec, like, math.inf)
    return lambda vector: on_lists([vector])[0], zero


@jax.jit
def _normal(key, index, like):
    return jax.random.normal(jax.random.fold_in(key, index), like.shape, like.dtype)


@jax.jit
def _sphere(key, index, like):
    """Return a vector of length sqrt(P)."""
    return scaled_to_norm(_normal(key, index, like), jnp.sqrt(like.size).astype(like.dtype))


@jax.jit
def _probe_outside(key, index, basis):
    """Return a vector orthogonal to the rows of a basis, of length sqrt(P - rank)."""
    rank, size = basis.shape
    rest = _outside(basis, _normal(key, index, basis[0]))[0]
    return scaled_to_norm(rest, jnp.sqrt(size - rank).astype(rest.dtype))


_row_basis = jax.jit(lambda rows: jnp.linalg.qr(rows.T)[0].T)


def _outside(basis, vector):
    """Return the part of a vector outside the basis and its coefficients inside, in two passes."""
    vector, first = without(basis, vector)
    vector, second = without(basis, vector)
    return vector, first + second
