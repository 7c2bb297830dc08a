"""Densities of eigenvalues as quadrature rules, and what follows from them with its error."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsharp.curvature.krylov import orthogonalize, random_unit
from jaxsharp.curvature.operators import (
    Loops,
    Matvec,
    check_range,
    compiled_around,
    loops_around,
    num_entries,
    packed,
)

TINY = 1e-8  # of the largest coefficient: a pivot that is 0


class DensityEstimate(NamedTuple):
    """Mean over the probes and its standard error."""

    mean: Float[Array, "..."]
    stderr: Float[Array, "..."]


class SpectralDensity(NamedTuple):
    """One quadrature rule a probe: sum_j weights_ij f(nodes_ij) estimates (1/P) tr f(H).

    Weights are not negative and sum to 1 for each probe; `dimension` is P. The methods average
    over the probes; their standard errors speak of the choice of the probes. That of the number of
    steps, the smoothing of steps narrower than the nodes are apart, is not in them. `diagonal` and
    `below` are the entries of T, of which `gauss_rules` makes the rules of fewer steps.
    """

    nodes: Float[Array, "n m"]
    weights: Float[Array, "n m"]
    num_products: Int[Array, ""]
    dimension: int
    diagonal: Float[Array, "n m"] | None = None
    below: Float[Array, "n m"] | None = None

    def moment(self, power: int) -> DensityEstimate:
        """DensityEstimate tr(H^power) / P, exact but for the probes if power < 2 num_steps."""
        return _average(jnp.sum(self.weights * self.nodes**power, axis=1))

    def cumulative(self, points: Float[Array, " k"]) -> DensityEstimate:
        """DensityEstimate at each point the share of the eigenvalues that are at most as large.

        A node counts half at itself, so that the step function passes the middle of its steps.
        """
        below = jnp.sign(points[None, :, None] - self.nodes[:, None, :]) / 2 + 0.5
        return _average(jnp.sum(self.weights[:, None, :] * below, axis=2))

    def smoothed(self, points: Float[Array, " k"], width: float) -> DensityEstimate:
        """Estimate the density at each point, each eigenvalue widened to a normal distribution.

        `width` is its standard deviation, in units of the eigenvalues. For figures: a wider one is
        smoother and less true. Raises ValueError for a width that is not positive.
        """
        if not width > 0:
            raise ValueError(f"width is {width}; it must be a positive number")
        distance = (points[None, :, None] - self.nodes[:, None, :]) / width
        bumps = jnp.exp(-jnp.square(distance) / 2) / (width * jnp.sqrt(2 * jnp.pi))
        return _average(jnp.sum(self.weights[:, None, :] * bumps, axis=2))


def _average(values):
    """Return mean and standard error along the first axis."""
    return DensityEstimate(values.mean(0), values.std(0, ddof=1) / jnp.sqrt(len(values)))


def quadrature(
    matvec: Matvec,
    like: PyTree,
    key: Array,
    num_probes: int,
    num_steps: int,
    num_rows: int,
    vmapped: int,
) -> SpectralDensity:
    """Return the rules of stochastic Lanczos quadrature (`lanczos.spectral_density`)."""
    options = {"num_probes": num_probes, "num_steps": num_steps, "num_rows": num_rows}
    *rules, products, scale = compiled_around(_rules, matvec, like, key, vmapped=vmapped, **options)
    nodes, weights, diagonal, below = rules
    within = check_range(scale, matvec, like)
    coefficients = diagonal * within, below * within
    return SpectralDensity(nodes * within, weights, products, num_entries(like), *coefficients)


def _rules(matvec, like, key, *, num_probes, num_steps, num_rows, vmapped):
    """Return nodes, weights, diagonal, below, the number of products and their largest norm."""
    loops = loops_around(matvec)
    product, zeros, _, _ = packed(matvec, like)

    def rule(index):
        start = random_unit(jax.random.fold_in(key, index), zeros)
        tridiagonal = tridiagonalize(product, loops, start, num_steps, num_rows)
        coefficients = tridiagonal.diagonal, tridiagonal.below
        return *_gauss_rule(*coefficients), *coefficients, tridiagonal.step, tridiagonal.scale

    indices = jnp.arange(num_probes)
    *rules, products, scales = loops.map(rule, indices, batch_size=min(vmapped, num_probes))
    return *rules, jnp.sum(products), jnp.max(scales)


class Tridiagonal(NamedTuple):
    """State of Lanczos without restarts; entries beyond `step` are 0."""

    basis: PyTree  # the last vectors, in turn
    vector: PyTree  # next vector
    diagonal: Float[Array, " m"]
    below: Float[Array, " m"]  # below[j] couples vectors j and j + 1
    scale: Float[Array, ""]
    step: Int[Array, ""]
    closed: Array  # whether the Krylov space is invariant


def tridiagonalize(
    matvec: Matvec, loops: Loops, start: PyTree, num_steps: int, num_rows: int
) -> Tridiagonal:
    """Run `num_steps` of Lanczos from a unit vector, orthogonal to the last `num_rows` vectors."""
    dtype = jnp.result_type(*jax.tree.leaves(start))
    state = Tridiagonal(
        basis=jax.tree.map(lambda x: jnp.zeros((num_rows, *x.shape), x.dtype), start),
        vector=start,
        diagonal=jnp.zeros((num_steps,), dtype),
        below=jnp.zeros((num_steps,), dtype),
        scale=jnp.zeros((), dtype),
        step=jnp.zeros((), jnp.int32),
        closed=jnp.zeros((), bool),
    )
    return loops.while_loop(
        lambda state: (state.step < num_steps) & ~state.closed,
        lambda state: _extend(state, matvec(state.vector)),
        state,
    )


@jax.jit
def _extend(state: Tridiagonal, image) -> Tridiagonal:
    place = state.step % len(jax.tree.leaves(state.basis)[0])
    basis = jax.tree.map(lambda b, x: b.at[place].set(x), state.basis, state.vector)
    rest = orthogonalize(basis, image, place, state.scale, lambda: image)
    closed = rest.lost | ~jnp.isfinite(rest.scale)
    return Tridiagonal(
        basis=basis,
        vector=rest.vector,
        diagonal=state.diagonal.at[state.step].set(rest.coefficients[place]),
        below=state.below.at[state.step].set(jnp.where(closed, 0, rest.length)),
        scale=rest.scale,
        step=state.step + 1,
        closed=closed,
    )


def _gauss_rule(diagonal, below):
    """Return nodes and weights: eigenvalues, squared first components of their eigenvectors.

    The eigenvectors are those of a symmetric problem; coordinates that were not reached are not
    coupled to the first and so have no weight.
    """
    size = jnp.max(jnp.abs(jnp.concatenate([diagonal, below])))
    size = jnp.where(size > 0, size, jnp.ones_like(size))
    couplings = below[:-1] / size
    matrix = jnp.diag(diagonal / size) + jnp.diag(couplings, 1) + jnp.diag(couplings, -1)
    nodes, vectors = jnp.linalg.eigh(matrix)
    return size * nodes, jnp.square(vectors[0])


def gauss_rules(
    diagonal: Float[ArrayLike, "n m"], below: Float[ArrayLike, "n m"]
) -> tuple[Float[np.ndarray, "n m"], Float[np.ndarray, "n m"]]:
    """Return nodes and weights of the rules from the matrices T, in float64.

    Of the first k columns of `diagonal` and `below` they are those of k steps.
    """
    matrices, size = _bordered(diagonal, below)
    nodes, vectors = np.linalg.eigh(matrices[:, :-1, :-1])
    return size * nodes, vectors[:, 0] ** 2


def with_node_at_zero(
    diagonal: Float[ArrayLike, "n m"], below: Float[ArrayLike, "n m"]
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Return the same with one node more, at 0 (Gauss and Radau).

    T is followed by one row, of which the diagonal is below_m^2 (T^-1)_mm, so that it is singular;
    for polynomials the rule is exact to degree 2 m. Most eigenvalues of a network's Hessian are
    near 0, and rules without that node put them at some small number, or on both sides of 0. Where
    no eigenvalue is negative, the two bound u^T f(H) u from both sides for f whose derivatives
    alternate in sign, as log(1 + x).

    Reference: Golub and Meurant (2010), Matrices, Moments and Quadrature, section 6.2.1.
    """
    matrices, size = _bordered(diagonal, below)
    needed = 0.0  # of the diagonal, so that the next pivot is 0
    for step in range(matrices.shape[-1] - 1):
        pivot = matrices[:, step, step] - needed
        pivot = np.where(np.abs(pivot) < TINY, TINY, pivot)
        needed = matrices[:, step, step + 1] ** 2 / pivot
    matrices[:, -1, -1] = needed
    nodes, vectors = np.linalg.eigh(matrices)
    return size * nodes, vectors[:, 0] ** 2


def _bordered(diagonal, below):
    """Return the matrices T over their largest entry, each with a row of diagonal 0, and it."""
    diagonal, below = (np.asarray(x, np.float64) for x in (diagonal, below))
    size = max(np.abs(diagonal).max(), np.abs(below).max()) or 1.0
    number, steps = diagonal.shape
    matrices, at = np.zeros((number, steps + 1, steps + 1)), np.arange(steps)
    matrices[:, at, at] = diagonal / size
    matrices[:, at, at + 1] = matrices[:, at + 1, at] = below / size
    return matrices, size
