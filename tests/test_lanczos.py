"""Eigenpairs of operators with known spectra, most of them chosen to break Lanczos."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.flatten_util import ravel_pytree

from jaxsharp import trees
from jaxsharp.lanczos import bottom_eigenpairs, extreme_eigenpairs, top_eigenpairs
from jaxsharp.operators import Operator
from jaxsharp.products import hessian, preconditioned
from jaxsharp.trees import select
from tests.cases import make_case
from tests.references import dense_hessian, symmetric_matrix

SIZE = 40
K = 5
LOOSE = {"tol": 1e-4, "basis_size": 30}


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def solve(matrix, seed=0, k=K, tol=1e-9, basis_size=15, max_products=2000):
    return compiled(matrix, seed, k, tol, basis_size, max_products)


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def compiled(matrix, seed, k, tol, basis_size, max_products):
    like = jax.ShapeDtypeStruct(matrix.shape[:1], matrix.dtype)
    return top_eigenpairs(
        lambda vector: matrix @ vector,
        like,
        key=jax.random.key(seed),
        k=k,
        tol=tol,
        basis_size=basis_size,
        max_products=max_products,
    )


def assert_eigenpairs(pairs, matrix, scale):
    """The k largest eigenvalues to rounding, unit orthogonal vectors, and honest residuals."""
    truth = np.linalg.eigvalsh(matrix)[::-1]
    vectors = np.asarray(pairs.vectors)
    k = len(pairs.values)
    # Rounding of a product: 40 terms, and a few hundred steps that add it up.
    np.testing.assert_allclose(pairs.values, truth[:k], atol=1e-13 * scale, rtol=0)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(k), atol=1e-13)
    residuals = np.linalg.norm(vectors @ matrix - pairs.values[:, None] * vectors, axis=1)
    # Each is told what rounding adds to all of them together, up to 50 eps each after 300 products.
    assert np.all(pairs.residuals >= residuals * (1 - 1e-6) - 3e-15 * scale)
    assert np.all(pairs.residuals <= residuals * (1 + 1e-6) + 1e-14 * k**0.5 * scale)
    assert np.all(pairs.converged)


spread = np.random.default_rng(3).uniform(-1, 1, SIZE)
spectra = {
    "spikes": np.r_[[20.0, 15, 12, 11, 10], spread[5:]],
    "uniform": spread,
    "identity": np.ones(SIZE),
    "zero": np.zeros(SIZE),
    "rank_1": np.r_[3.0, np.zeros(SIZE - 1)],
    "rank_1_negative": np.r_[-3.0, np.zeros(SIZE - 1)],
    "rank_8_of_15_rows": np.r_[np.arange(1.0, 9), np.zeros(SIZE - 8)],
    "two_values": np.repeat([2.0, -1.0], SIZE // 2),
    "clustered": np.r_[1 + 1e-6 * np.arange(K), spread[K:] / 2],
    "condition_1e12": np.logspace(-12, 0, SIZE),
    "all_negative": -np.logspace(-1, 1, SIZE),
    "large_negative_values": np.r_[-100.0, -90, -80, spread[3:]],
}


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


def test_both_ends_cost_less_than_each_alone():
    matrix = symmetric_matrix(spectra["large_negative_values"])
    both = solve_ends(matrix, 3, 3, 20)
    alone = solve(matrix, k=3, basis_size=20), solve(-matrix, k=3, basis_size=20)
    assert both.top.num_products < sum(pairs.num_products for pairs in alone)


def test_product_on_the_host_takes_the_same_steps():
    """Restarts and a breakdown included."""
    for name, calls in (("uniform", []), ("rank_8_of_15_rows", [])):
        matrix = symmetric_matrix(spectra[name])

        def product(vector, matrix=matrix, calls=calls):
            calls.append(None)
            return jnp.asarray(matrix @ np.asarray(vector))

        host = top_eigenpairs(
            Operator(product, "test", on_host=True),
            jnp.zeros(SIZE),
            key=jax.random.key(0),
            tol=1e-9,
            basis_size=15,
            max_products=2000,
        )
        compiled = solve(matrix)
        assert host.num_products == compiled.num_products == len(calls)
        np.testing.assert_allclose(host.values, compiled.values, atol=1e-13 * 8)
        overlaps = np.abs(np.sum(host.vectors * compiled.vectors, axis=1))
        np.testing.assert_allclose(overlaps, 1, rtol=1e-12)


def test_large_leaves_stay_apart(monkeypatch):
    """Vectors are held in pieces if a leaf is large, with the same result."""
    case = make_case("tanh_mlp")

    def solve_case(params):
        matvec = hessian(case.loss, params, case.batch)
        return top_eigenpairs(matvec, params, key=jax.random.key(0), k=3, tol=1e-10)

    joined = jax.jit(lambda params: solve_case(params))(case.params)
    monkeypatch.setattr(trees, "PACKED_SIZE", 12)
    pack, unpack = trees.packing(case.params)
    assert [leaf.shape for leaf in pack(case.params)] == [(24,), (4, 5), (5, 4)]
    jax.tree.map(np.testing.assert_array_equal, unpack(pack(case.params)), case.params)
    apart = jax.jit(lambda params: solve_case(params))(case.params)
    np.testing.assert_allclose(apart.values, joined.values, rtol=1e-12)
    assert jax.tree.structure(apart.vectors) == jax.tree.structure(joined.vectors)


def test_vectors_of_some_parameters():
    """None stands where a mask leaves a parameter out."""
    case = make_case("tied")
    mask = {"w": False, "b": True}
    matvec = hessian(case.loss, case.params, case.batch, mask=mask)
    pairs = top_eigenpairs(matvec, select(case.params, mask), key=jax.random.key(0), k=3)
    assert pairs.vectors["w"] is None
    places, _ = ravel_pytree(jax.tree.map(lambda m, p: jnp.full(p.shape, m), mask, case.params))
    dense = np.asarray(dense_hessian(case.loss, case.params, case.batch))
    truth = np.linalg.eigvalsh(dense[np.ix_(places, places)])
    np.testing.assert_allclose(pairs.values, truth[::-1], rtol=1e-12, atol=1e-12)


def test_preconditioned_eigenvalues():
    """Those of D^(-1) H, by a general eigensolver."""
    matrix = jnp.asarray(symmetric_matrix(spectra["spikes"]))
    diagonal = jnp.asarray(np.random.default_rng(0).uniform(0.1, 10, SIZE))
    matvec = preconditioned(lambda v: matrix @ v, diagonal)
    pairs = top_eigenpairs(matvec, diagonal, key=jax.random.key(0), tol=1e-9)
    truth = scipy.linalg.eigh(matrix, np.diag(diagonal), eigvals_only=True)[::-1]
    np.testing.assert_allclose(pairs.values, truth[:K], rtol=1e-12)


def test_a_step_does_not_copy_the_basis(monkeypatch):
    """XLA copies what a branch reads: at ten million parameters that doubled the time of a step."""

    def solve_diagonal(diagonal):
        product = partial(jax.tree.map, jnp.multiply, diagonal)
        return top_eigenpairs(product, diagonal, key=jax.random.key(0), k=5)

    monkeypatch.setattr(trees, "PACKED_SIZE", 1000)
    diagonal = [jnp.ones((77, 100)), jnp.ones(55), jnp.ones(3)]
    program = jax.jit(solve_diagonal).lower(diagonal).compile().as_text()
    assert "f64[20,77,100]" in program
    assert not re.search(r"= f64\[20,77,100\]\S* copy\(", program)


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


def test_multiple_eigenvalues_are_found_with_all_copies():
    """The Krylov space of one vector closes after five steps, as do the next seven."""
    matrix = symmetric_matrix(np.repeat([5.0, 4, 3, 2, 1], 8))
    assert_eigenpairs(solve(matrix), matrix, 5)


def test_full_depth_reproduces_the_spectrum():
    """Nothing is approximate with all rows, and no ghost copies appear (pitfall 12)."""
    matrix = symmetric_matrix(spectra["spikes"])
    pairs = solve(matrix, k=SIZE, basis_size=SIZE)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(matrix)[::-1], atol=1e-12)
    assert pairs.num_products == SIZE + 1


def test_basis_of_the_whole_space_finds_all_copies():
    """Twenty double eigenvalues: one vector's Krylov space holds each of them once."""
    matrix = symmetric_matrix(np.repeat(np.arange(1.0, 21), 2))
    pairs = solve(matrix, tol=1e-4, basis_size=SIZE)
    np.testing.assert_allclose(pairs.values, [20, 20, 19, 19, 18], rtol=1e-12)
    assert pairs.num_products == SIZE + 1


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


def test_tight_memory_restarts_and_agrees():
    """Six rows for five pairs: every step but the first is a restart."""
    matrix = symmetric_matrix(spectra["spikes"])
    pairs = solve(matrix, basis_size=K + 1)
    assert_eigenpairs(pairs, matrix, 20)
    assert pairs.num_products > K + 2


def test_few_products_for_a_typical_spectrum():
    """Guards the cost: the outliers stand out, twenty steps see them to seven digits."""
    matrix = symmetric_matrix(spectra["spikes"])
    assert solve(matrix, **LOOSE).num_products <= 16


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
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(K), atol=1e-5)


def test_vmap_over_matrices_equals_one_by_one():
    """One converges at once, one breaks down, one needs restarts: none disturbs another."""
    names = ("spikes", "identity", "uniform", "zero")
    matrices = [jnp.asarray(symmetric_matrix(spectra[name])) for name in names]
    together = jax.vmap(solve)(jnp.stack(matrices))
    for index, (name, matrix) in enumerate(zip(names, matrices, strict=True)):
        one = jax.tree.map(lambda leaf, i=index: leaf[i], together)
        scale = max(1.0, np.abs(spectra[name]).max())
        assert_eigenpairs(one, matrix, scale)
        assert one.num_products == solve(matrix).num_products


def test_key_fixes_the_result_and_nothing_else_matters():
    matrix = symmetric_matrix(spread)
    first, again, other = (solve(matrix, seed, **LOOSE) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.any(np.asarray(first.vectors) != np.asarray(other.vectors))
    np.testing.assert_allclose(first.values, other.values, rtol=1e-6)


@jax.jit
def solve_from(matrix, start):
    return top_eigenpairs(
        lambda v: matrix @ v, start, key=jax.random.key(0), k=1, tol=1e-6, start=start
    )


def test_warm_start_saves_products_and_cannot_mislead():
    matrix = jnp.asarray(symmetric_matrix(spread))
    truth, axes = np.linalg.eigh(matrix)
    cold = solve_from(matrix, jnp.zeros(SIZE))
    warm = solve_from(matrix, jnp.asarray(axes[:, -1]))
    assert warm.num_products < cold.num_products
    for guess in (axes[:, -2], axes[:, 0], np.zeros(SIZE), -1e-20 * axes[:, -1]):
        pairs = solve_from(matrix, jnp.asarray(guess))
        assert pairs.values[0] == pytest.approx(truth[-1], rel=1e-9)


def test_nan_stops_at_once_and_shows():
    pairs = solve(np.full((SIZE, SIZE), np.nan))
    assert np.all(np.isnan(pairs.values))
    assert not np.any(pairs.converged)
    assert pairs.num_products <= 5 + K


def test_pytrees_of_mixed_dtypes_outside_jit():
    diagonal = {"a": jnp.array([1.0, 7.0], jnp.float32), "b": [jnp.array([[2.0], [5.0]])]}
    multiply = partial(jax.tree.map, jnp.multiply, diagonal)
    pairs = top_eigenpairs(multiply, diagonal, key=jax.random.key(0), k=2)
    np.testing.assert_allclose(pairs.values, [7, 5], rtol=1e-6)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), pairs.vectors) == {
        "a": ((2, 2), "f4"),
        "b": [((2, 2, 1), "f8")],
    }
    np.testing.assert_allclose(np.abs(pairs.vectors["a"]), [[0, 1], [0, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("like", "options", "message"),
    [
        (np.ones(4), {"k": 5}, "k is 5; the operator has 4"),
        (np.ones(4), {"k": 0}, "k is 0"),
        (np.ones(9), {"basis_size": 5}, "basis_size is 5"),
        (np.ones(9), {"max_products": 5}, "max_products is 5"),
        (np.ones(9), {"tol": 1e-16}, "at best 2.2e-15"),
        (np.ones(9, np.float32), {"tol": 1e-7}, "at best 1.2e-06"),
        (np.ones(9, np.float32), {"tol": float("nan")}, "tol is nan"),
        (np.ones(9, np.int32), {}, "int32"),
        (np.ones(9, np.float16), {}, "float16"),
        ({}, {}, "0 numbers"),
    ],
)
def test_bad_arguments_are_named_before_tracing(like, options, message):
    def never(vector):
        raise AssertionError("traced")

    with pytest.raises(ValueError, match=message) as error:
        top_eigenpairs(never, like, key=jax.random.key(0), **options)
    assert "\n" not in str(error.value)
