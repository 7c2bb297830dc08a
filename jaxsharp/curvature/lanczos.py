"""Extreme eigenvalues and spectral density of a symmetric operator known only by its products."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jaxsharp.core.keys import stream
from jaxsharp.core.programs import own_settings
from jaxsharp.core.trees import combine, norm
from jaxsharp.curvature import krylov
from jaxsharp.curvature.density import SpectralDensity, quadrature
from jaxsharp.curvature.operators import (
    LARGE,
    check_range,
    compiled_around,
    loops_around,
    num_entries,
    packed,
)


class EigenPairs(NamedTuple):
    """Eigenvalues, the outermost first, unit eigenvectors along a new leading axis, their errors.

    `residuals` are ||H v - value v||: some true eigenvalue is at most that far from the value. What
    the recurrence does not know, as rounding, is measured for all pairs at once, and told to each.
    They are what the recurrence leaves, beta |y_m|, joined (root of the summed squares) with what
    it misses of H s, found by one more product with s, the sum of all k vectors with random signs,
    and shared among them, / sqrt(k). That is rounding, unless H is not the fixed symmetric
    operator that it should be.
    """

    values: Float[Array, " k"]
    vectors: PyTree
    residuals: Float[Array, " k"]
    converged: Bool[Array, " k"]
    num_products: Int[Array, ""]


class BothEnds(NamedTuple):
    """The largest eigenvalues in descending and the smallest in ascending order.

    `num_products` of each counts all products, those for the other end too.
    """

    top: EigenPairs
    bottom: EigenPairs


@own_settings()
def top_eigenpairs(
    matvec: Callable[[PyTree], PyTree],
    like: PyTree,
    *,
    key: PRNGKeyArray,
    k: int = 5,
    tol: float = 1e-4,
    max_products: int | None = None,
    basis_size: int | None = None,
    start: PyTree | None = None,
) -> EigenPairs:
    """Return the k largest (algebraic, not by magnitude) eigenvalues of a symmetric operator H.

        H V^T = V^T B + beta q e_m^T,    B y = theta y,    v = V^T y,
        ||H v - theta v|| = beta |y_m| <= tol |theta|    for the first k

    Thick-restart Lanczos: V (basis_size x P) grows by one product a step; when full it shrinks to
    its best Ritz vectors and goes on from q. `matvec` maps a pytree with the structure, shapes and
    dtypes of `like` (arrays or ShapeDtypeStruct, P numbers) to another. `start`, a guess like
    `like`, may be a previous eigenvector or the sum of several; a little noise is mixed in.

    Stops at `tol`, at `max_products` (default 15 basis_size + 1), if H returns NaN (then so does
    this), or when V spans the whole space: with basis_size >= P it always goes that far and the
    answer is exact. A pair has `converged` if its residual is at most tol |theta|, or at most
    10 eps ||H||: below that products are rounding, and so zero eigenvalues converge too.

    Cost: num_products, one of them at the end for the residuals; per step two passes over V, and
    four where the first orthogonalization was not exact enough.
    Memory: basis_size x P (default: 2 k + 10, at least 20), half more at a restart, and the
    result, k x P.
    Runs as compiled loops; pure, so it works in jit and in vmap over models; fixed by `key`.
    Around a product that streams from the host (`Operator.on_host`) the loops are Python's.

    Multiplicity: where H has so few distinct eigenvalues that the Krylov space closes before the
    pairs converge (identity, low rank), random vectors go on until one brings nothing new.
    Otherwise further copies of an eigenvalue show only by rounding, and smaller eigenvalues may
    stand in their place: the residuals vouch for each pair, not for none being missed.

    Invariances: those of the spectrum of H, so none under rescaling of layers. Values scale with H,
    vectors stay: nothing is compared with an absolute number.

    References: Wu and Simon (2000), SIAM J. Matrix Anal. Appl. 22, 602-616; Stewart (2002), 23,
    601-614. Deviations: B is filled from the coefficients of the full orthogonalization, arrow and
    tridiagonal alike (Rayleigh-Ritz form); no locking, converged pairs stay in V; k and half of
    the other Ritz vectors are kept; breakdowns continue with a random vector.

    Raises ValueError, before tracing: k not in 1..P, basis_size not above k (unless P),
    max_products not above k, tol below 10 eps, `like` neither float32 nor float64; while tracing,
    if H v is not like v. For norms ||H v|| near the largest or smallest numbers of the dtype
    (float32: outside 1e-31 to 4e31), ValueError at the end, inside jit values of NaN; so also where
    all products are zero because they, or numbers that H holds, are flushed to zero.
    """
    options = (stream(key, "top_eigenpairs"), tol, max_products, basis_size, start)
    return eigenpairs_at(matvec, like, (k, 0), *options)[0]


@own_settings()
def bottom_eigenpairs(
    matvec: Callable[[PyTree], PyTree],
    like: PyTree,
    *,
    key: PRNGKeyArray,
    k: int = 5,
    tol: float = 1e-4,
    max_products: int | None = None,
    basis_size: int | None = None,
    start: PyTree | None = None,
) -> EigenPairs:
    """Return the k smallest (algebraic) eigenvalues, in ascending order.

    All as in `top_eigenpairs`, whose values for -H these are, with the other sign.
    """
    options = (stream(key, "bottom_eigenpairs"), tol, max_products, basis_size, start)
    return eigenpairs_at(matvec, like, (0, k), *options)[1]


@own_settings()
def extreme_eigenpairs(
    matvec: Callable[[PyTree], PyTree],
    like: PyTree,
    *,
    key: PRNGKeyArray,
    num_top: int = 5,
    num_bottom: int = 5,
    tol: float = 1e-4,
    max_products: int | None = None,
    basis_size: int | None = None,
    start: PyTree | None = None,
) -> BothEnds:
    """Return the largest and the smallest (algebraic) eigenvalues, from one basis.

    Fewer products than `top_eigenpairs` and `bottom_eigenpairs` together, as each step serves both
    ends. Arguments, cost and errors as there, with k = num_top + num_bottom; each at least 1.
    """
    for name, number in (("num_top", num_top), ("num_bottom", num_bottom)):
        if number < 1:
            raise ValueError(f"{name} is {number}; it must be at least 1")
    options = (stream(key, "extreme_eigenpairs"), tol, max_products, basis_size, start)
    return BothEnds(*eigenpairs_at(matvec, like, (num_top, num_bottom), *options))


@own_settings()
def spectral_density(
    matvec: Callable[[PyTree], PyTree],
    like: PyTree,
    *,
    key: PRNGKeyArray,
    num_probes: int = 10,
    num_steps: int = 60,
    basis_size: int | None = None,
    vmapped: int = 1,
) -> SpectralDensity:
    """Return the density of the eigenvalues of H by stochastic Lanczos quadrature.

        (1/P) tr f(H) = E[u^T f(H) u]  ~  mean_i sum_j w_ij f(theta_ij),    u uniform, ||u|| = 1,
        T_i = U diag(theta_i) U^T,    w_ij = U_1j^2

    T_i (num_steps x num_steps) is the tridiagonal matrix of Lanczos from probe u_i. The rule is
    exact for polynomials f of degree below 2 num_steps, for each probe, and its weights sum to 1;
    what is random is the choice of the probes, and the result's functions give its standard error.

    `basis_size` bounds the memory: each new vector is orthogonalized against the last
    basis_size ones (default: all). With fewer than num_steps an eigenvalue may appear in copies
    that share its weight, which moves moments and cumulative distribution little.

    Cost: num_probes x num_steps products. Memory: vmapped x basis_size x P, `vmapped` the number
    of probes at a time. Where a Krylov space closes early (identity, low rank) the rule ends
    there, exact, and the rest of its weights is 0. NaN from H gives NaN.
    Invariances: those of the spectrum, so none under rescaling of layers.

    References: Golub and Meurant (2010), Matrices, Moments and Quadrature; Ubaru,
    Chen, Saad (2017), SIAM J. Matrix Anal. Appl. 38. Deviation: probes uniform on the
    sphere.

    Raises ValueError, before tracing: num_probes below 2 (no standard error), num_steps below 1,
    basis_size below 2, vmapped below 1, `like` neither float32 nor float64; at the end for norms
    as in `top_eigenpairs`.
    """
    size = num_entries(like)
    for name, number, least in (
        ("num_probes", num_probes, 2),
        ("num_steps", num_steps, 1),
        ("basis_size", 2 if basis_size is None else basis_size, 2),
        ("vmapped", vmapped, 1),
    ):
        if number < least:
            raise ValueError(f"{name} is {number}; it must be at least {least}")
    steps = min(num_steps, size)
    rows = steps if basis_size is None else min(basis_size, steps)
    key = stream(key, "spectral_density")
    return quadrature(matvec, like, key, num_probes, steps, rows, vmapped)


def eigenpairs_at(
    matvec, like, ends, key, tol, max_products=None, basis_size=None, start=None, *, verify=True
) -> tuple[EigenPairs, EigenPairs]:
    """Return `ends` = (number, number) pairs at the top and the bottom, as `extreme_eigenpairs`.

    `key` is the stream of the function that calls: the start is drawn from it as it is. Without
    `verify` the product at the end is left out, and residuals are those of the recurrence with an
    allowance of 10 eps ||H|| for rounding: for few steps, of a fixed symmetric operator.
    """
    k = sum(ends)
    size = _check_arguments(like, k, tol, basis_size, max_products)
    rows = min(max(20, 2 * k + 10) if basis_size is None else basis_size, size)
    budget = 15 * rows + 1 if max_products is None else max_products
    limits = krylov.Limits(*ends, tol, budget - verify, thrifty=not verify)
    how = {"limits": limits, "rows": rows}
    found, scale = compiled_around(_solved, matvec, like, key, start, **how)
    within = check_range(scale, matvec, like, probed=verify)
    values, residuals = found.values * within, found.residuals * within
    converged = residuals <= krylov.allowed(values, tol, scale)
    return tuple(
        EigenPairs(
            *jax.tree.map(lambda x, p=part: x[p], (values, found.vectors, residuals, converged)),
            found.num_products,
        )
        for part in (slice(ends[0]), slice(ends[0], k))
    )


def _solved(matvec, like, key, start, *, limits, rows) -> tuple[EigenPairs, Array]:
    """Return all pairs, from the top down, and the largest norm of a product."""
    product, zeros, pack, unpack = packed(matvec, like)
    start, k = None if start is None else pack(start), limits.top + limits.bottom
    state = krylov.initial_state(key, zeros, start, rows, k)
    going_on = stream(key, "breakdowns")
    state = krylov.solve(product, loops_around(matvec), going_on, limits, state)
    values, coefficients = krylov.wanted_pairs(limits, state)
    vectors = combine(coefficients.T, state.basis)
    leaving = state.beta * coefficients[state.filled - 1]
    scale, missed = state.scale, krylov.rounding(state.scale)
    if not limits.thrifty:
        missed, hidden = _missed(product, key, state, values, vectors, leaving)
        scale = jnp.where(hidden, jnp.finfo(values.dtype).tiny, scale)
    residuals = jnp.hypot(leaving, missed)
    converged = residuals <= krylov.allowed(values, limits.tol, state.scale)
    vectors = jax.vmap(unpack)(vectors)
    products = state.products + (0 if limits.thrifty else 1)
    return EigenPairs(values, vectors, residuals, converged, products), scale


def _missed(product, key, state, values, vectors, leaving) -> tuple[Array, Array]:
    """Norm of what the recurrence misses of H s, and whether products of zero were too small."""
    k = len(values)
    signs = jax.random.rademacher(stream(key, "signs"), (k,), values.dtype)
    # H (V s) as the recurrence has it, and as it is.
    expected = optax.tree.add(
        combine(signs * values, vectors), optax.tree.scale(signs @ leaving, state.vector)
    )
    # Where all products were zero, so is what is expected; of a vector so large none underflows.
    times = jnp.where(state.scale == 0, jnp.asarray(LARGE, values.dtype), 1)
    image = product(combine(signs * times, vectors))
    missed = norm(optax.tree.sub(image, expected)) / times
    return missed, (state.scale == 0) & (norm(image) > 0)


def _check_arguments(like, k, tol, basis_size, max_products):
    """Return the number of entries of `like`."""
    size = num_entries(like)
    if not 1 <= k <= size:
        raise ValueError(f"k is {k}; the operator has {size} eigenvalues, so k is 1 to {size}")
    if basis_size is not None and basis_size <= k and basis_size < size:
        raise ValueError(f"basis_size is {basis_size}; it must be above k = {k}, or {size} (P)")
    if max_products is not None and max_products <= k:
        raise ValueError(f"max_products is {max_products}; it must be above k = {k}")
    dtype = jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(like)))
    reachable = krylov.ROUNDING * float(jnp.finfo(dtype).eps)
    if not tol >= reachable:
        raise ValueError(f"tol is {tol}; at best {reachable:.1e} can be reached in {dtype}")
    return size
