"""Densities of eigenvalues as quadrature rules, and what follows from them with its error."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

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


class DensityEstimate(NamedTuple):
    """Mean over the probes and its standard error."""

    mean: Float[Array, "..."]
    stderr: Float[Array, "..."]


class SpectralDensity(NamedTuple):
    """One quadrature rule a probe: sum_j weights_ij f(nodes_ij) estimates (1/P) tr f(H).

    Weights are not negative and sum to 1 for each probe; `dimension` is P. The methods average
    over the probes; their standard errors speak of the choice of the probes. That of the number of
    steps, the smoothing of steps narrower than the nodes are apart, is not in them.
    """

    nodes: Float[Array, "n m"]
    weights: Float[Array, "n m"]
    num_products: Int[Array, ""]
    dimension: int

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
    nodes, weights, products, scale = compiled_around(
        _rules, matvec, like, key, vmapped=vmapped, **options
    )
    nodes = nodes * check_range(scale, matvec, like)
    return SpectralDensity(nodes, weights, products, num_entries(like))


def _rules(matvec, like, key, *, num_probes, num_steps, num_rows, vmapped):
    """Return nodes, weights, the number of products and their largest norm."""
    loops = loops_around(matvec)
    product, zeros, _, _ = packed(matvec, like)

    def rule(index):
        start = random_unit(jax.random.fold_in(key, index), zeros)
        tridiagonal = tridiagonalize(product, loops, start, num_steps, num_rows)
        rule = _gauss_rule(tridiagonal.diagonal, tridiagonal.below)
        return *rule, tridiagonal.step, tridiagonal.scale

    indices = jnp.arange(num_probes)
    rules = loops.map(rule, indices, batch_size=min(vmapped, num_probes))
    nodes, weights, products, scales = rules
    return nodes, weights, jnp.sum(products), jnp.max(scales)


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
