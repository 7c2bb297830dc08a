"""Eigenpairs of operators with known spectra: their values, residuals, convergence and cost."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp.curvature import bottom_eigenpairs, extreme_eigenpairs, hessian, top_eigenpairs
from jaxsharp.curvature.krylov import orthogonalize
from tests.cases import make_case
from tests.eigenproblems import LOOSE, SIZE, K, assert_eigenpairs, solve, spectra, spread
from tests.references import dense_hessian, symmetric_matrix

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8, 1e-30])
@pytest.mark.parametrize("name", spectra)
def test_known_spectra(name, scale):
    """The largest algebraic values, at any scale, after any breakdown (pitfalls 11, 13, 14, 19)."""
    matrix = symmetric_matrix(scale * spectra[name])
    assert_eigenpairs(solve(matrix), matrix, scale * max(1.0, np.abs(spectra[name]).max()))


@partial(jax.jit, static_argnums=(1, 2, 3))
def solve_ends(matrix, num_top, num_bottom, basis_size):
    def matvec(vector):
        return matrix @ vector

    options = {"key": jax.random.key(0), "tol": 1e-9, "max_products": 2000}
    like = matrix[0]
    if num_top == 0:
        return bottom_eigenpairs(matvec, like, k=num_bottom, basis_size=basis_size, **options)
    numbers = {"num_top": num_top, "num_bottom": num_bottom, "basis_size": basis_size}
    return extreme_eigenpairs(matvec, like, **numbers, **options)


@pytest.mark.parametrize("name", spectra)
def test_bottom_and_both_ends_of_known_spectra(name):
    """The smallest algebraic eigenvalues, negative or not, are the largest of -H.

    The smallest of the ill-conditioned matrix cannot be told apart but with the whole space.
    """
    whole = {"condition_1e12": SIZE}
    matrix = symmetric_matrix(spectra[name])
    scale = max(1.0, np.abs(spectra[name]).max())
    bottom = solve_ends(matrix, 0, K, whole.get(name, 15))
    assert_eigenpairs(bottom._replace(values=-bottom.values), -matrix, scale)
    both = solve_ends(matrix, 3, 2, whole.get(name, 14))
    assert_eigenpairs(both.top, matrix, scale)
    assert_eigenpairs(both.bottom._replace(values=-both.bottom.values), -matrix, scale)


def test_bottom_out_of_reach_is_not_said_to_have_converged():
    pairs = solve_ends(symmetric_matrix(spectra["condition_1e12"]), 0, K, 15)
    assert pairs.num_products == 2000
    assert not np.any(pairs.converged)


@pytest.mark.slow
def test_both_ends_cost_less_than_each_alone():
    matrix = symmetric_matrix(spectra["large_negative_values"])
    both = solve_ends(matrix, 3, 3, 20)
    alone = solve(matrix, k=3, basis_size=20), solve(-matrix, k=3, basis_size=20)
    assert both.top.num_products < sum(pairs.num_products for pairs in alone)


@pytest.mark.slow
def test_what_the_recurrence_does_not_see_shows_in_the_residuals():
    """An operator that is not symmetric, and one that is not linear."""
    matrix = symmetric_matrix(spectra["spikes"])
    skew = 1e-3 * np.triu(np.ones_like(matrix), 1)
    pairs = solve(matrix + skew - skew.T)
    assert not np.any(pairs.converged)
    assert np.all(pairs.residuals > 1e-4)

    @jax.jit
    def solve_bent(matrix):
        product = lambda v: matrix @ v + 1e-3 * v**2  # noqa: E731
        return top_eigenpairs(product, matrix[0], key=jax.random.key(0), k=2, tol=1e-9)

    assert not np.any(solve_bent(matrix).converged)


@pytest.mark.slow
def test_what_lies_nearly_in_the_basis_is_orthogonalized_again():
    """One pass leaves eps ||v|| inside, which is 1e-7 of the part of v outside."""
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, 11)))[0].T
    basis, inside = jnp.asarray(rows[:10]), np.arange(1.0, 11)
    vector = jnp.asarray(inside @ rows[:10] + 1e-9 * rows[10])
    rest = orthogonalize(basis, vector, jnp.int32(9), jnp.array(1.0), lambda: jnp.zeros(SIZE))
    # What is left below is the rounding of sums over 40 entries.
    np.testing.assert_allclose(basis @ rest.vector, 0, atol=1e-14)
    np.testing.assert_allclose(rest.coefficients, inside, rtol=1e-14)
    np.testing.assert_allclose(rest.length, 1e-9, rtol=1e-5)  # eps ||v|| of it is rounding
    assert not rest.lost


def test_multiple_eigenvalues_are_found_with_all_copies():
    """The Krylov space of one vector closes after five steps, as do the next seven."""
    matrix = symmetric_matrix(np.repeat([5.0, 4, 3, 2, 1], 8))
    assert_eigenpairs(solve(matrix), matrix, 5)


@pytest.mark.slow
def test_full_depth_reproduces_the_spectrum():
    """Nothing is approximate with all rows, and no ghost copies appear (pitfall 12)."""
    matrix = symmetric_matrix(spectra["spikes"])
    pairs = solve(matrix, k=SIZE, basis_size=SIZE)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(matrix)[::-1], atol=1e-12)
    assert pairs.num_products == SIZE + 1


@pytest.mark.slow
def test_basis_of_the_whole_space_finds_all_copies():
    """Twenty double eigenvalues: one vector's Krylov space holds each of them once."""
    matrix = symmetric_matrix(np.repeat(np.arange(1.0, 21), 2))
    pairs = solve(matrix, tol=1e-4, basis_size=SIZE)
    np.testing.assert_allclose(pairs.values, [20, 20, 19, 19, 18], rtol=1e-12)
    assert pairs.num_products == SIZE + 1


@pytest.mark.slow
def test_hessian_of_a_network():
    case = make_case("tanh_mlp")
    dense = dense_hessian(case.loss, case.params, case.batch)
    truth, axes = np.linalg.eigh(dense)

    @jax.jit
    def solve_case(params, batch):
        matvec = hessian(case.loss, params, batch)
        return top_eigenpairs(matvec, params, key=jax.random.key(0), k=3, tol=1e-8)

    pairs = solve_case(case.params, case.batch)
    np.testing.assert_allclose(pairs.values, truth[::-1][:3], rtol=1e-12)
    assert jax.tree.structure(pairs.vectors) == jax.tree.structure(case.params)
    for index in range(3):
        vector = ravel_pytree(jax.tree.map(lambda leaf, i=index: leaf[i], pairs.vectors))[0]
        assert abs(vector @ axes[:, -1 - index]) == pytest.approx(1, abs=1e-10)


@pytest.mark.slow
def test_tight_memory_restarts_and_agrees():
    """Six rows for five pairs: every step but the first is a restart."""
    matrix = symmetric_matrix(spectra["spikes"])
    pairs = solve(matrix, basis_size=K + 1)
    assert_eigenpairs(pairs, matrix, 20)
    assert pairs.num_products > K + 2


@pytest.mark.slow
def test_few_products_for_a_typical_spectrum():
    """Guards the cost: the outliers stand out, twenty steps see them to seven digits."""
    matrix = symmetric_matrix(spectra["spikes"])
    assert solve(matrix, **LOOSE).num_products <= 16


def test_a_restart_keeps_more_than_what_is_wanted():
    """Guards the cost: 55 to 58 products for four seeds, 70 to 78 if only the wanted are kept."""
    matrix = symmetric_matrix(spectra["uniform"])
    assert max(solve(matrix, seed=seed).num_products for seed in range(4)) <= 62


@pytest.mark.slow
def test_residuals_certify_even_when_unconverged():
    matrix = symmetric_matrix(spread)
    truth = np.linalg.eigvalsh(matrix)
    pairs = solve(matrix, basis_size=8, max_products=14)
    assert pairs.num_products == 14
    assert not np.any(pairs.converged)
    for value, residual in zip(pairs.values, pairs.residuals, strict=True):
        assert 1e-3 < residual
        assert np.min(np.abs(truth - value)) <= residual
    assert np.all(pairs.values <= truth[::-1][:K] + 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("options", [LOOSE, {"tol": 1e-9}])
def test_converged_means_the_asked_tolerance(options):
    pairs = solve(symmetric_matrix(spread), **options)
    assert np.all(pairs.converged)
    assert np.all(pairs.residuals <= options["tol"] * np.abs(pairs.values))


def reflected(eigenvalues, normal):
    """Return the product with a matrix that is never formed: a diagonal one, reflected."""

    def reflect(vector):
        return vector - 2 * normal * (normal @ vector)

    return lambda vector: reflect(eigenvalues * reflect(vector))


@pytest.mark.slow
def test_float32_on_many_dimensions():
    """At the tightest tolerance that is accepted."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(20_000)
    normal = jnp.asarray(normal / np.linalg.norm(normal), jnp.float32)
    truth = np.sort(np.r_[[20.0, 12, 9, 8, 7], rng.exponential(0.2, 19_995)])[::-1]

    @jax.jit
    def solve32(eigenvalues, normal):
        matvec = reflected(eigenvalues, normal)
        return top_eigenpairs(matvec, normal, key=jax.random.key(0), tol=1.2e-6)

    pairs = solve32(jnp.asarray(truth, jnp.float32), normal)
    assert pairs.values.dtype == pairs.vectors.dtype == jnp.float32
    assert np.all(pairs.converged)
    np.testing.assert_allclose(pairs.values, truth[:K], rtol=1e-6)
    vectors = np.asarray(pairs.vectors, np.float64)  # a float32 sum of 20,000 squares errs by 2e-5
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(K), atol=1e-5)
