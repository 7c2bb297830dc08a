"""What Lanczos accepts: operators, pytrees, masks, keys, starts, members and bad arguments."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.flatten_util import ravel_pytree

from jaxsharp.core import trees
from jaxsharp.core.trees import select
from jaxsharp.curvature import Operator, hessian, preconditioned, top_eigenpairs
from tests.cases import make_case
from tests.eigenproblems import LOOSE, SIZE, K, assert_eigenpairs, solve, spectra, spread
from tests.references import dense_hessian, symmetric_matrix

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_preconditioned_eigenvalues():
    """Those of D^(-1) H, by a general eigensolver."""
    matrix = jnp.asarray(symmetric_matrix(spectra["spikes"]))
    diagonal = jnp.asarray(np.random.default_rng(0).uniform(0.1, 10, SIZE))
    matvec = preconditioned(lambda v: matrix @ v, diagonal)
    pairs = top_eigenpairs(matvec, diagonal, key=jax.random.key(0), tol=1e-9)
    truth = scipy.linalg.eigh(matrix, np.diag(diagonal), eigvals_only=True)[::-1]
    np.testing.assert_allclose(pairs.values, truth[:K], rtol=1e-12)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
