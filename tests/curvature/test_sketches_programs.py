"""Hutch++ and XTrace in programs: vmap, loops on the host, keys, dtypes and bad arguments."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core.averages import MIN_PROBES
from jaxsharp.curvature import hutchpp, xtrace
from tests.probing import SIZE, uniform
from tests.references import dot_precisions, symmetric_matrix
from tests.sketching import ESTIMATORS, ROWS, decaying, estimate, recorded

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.slow
def test_vmapped_products_do_not_matter():
    matrix = symmetric_matrix(uniform)
    one, seven = (
        estimate(hutchpp, matrix, 2, atol=0.25, max_products=500, vmapped=v) for v in (1, 7)
    )
    assert 2 * ROWS + MIN_PROBES < one.num_products == seven.num_products < 500
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-11), one, seven)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_vmap_over_models_equals_one_by_one(estimator):
    """One stops early, one is singular, one goes on, one is NaN: none disturbs another."""
    spectra = (decaying, np.zeros(SIZE), uniform, np.full(SIZE, np.nan))
    matrices = np.stack([symmetric_matrix(spectrum) for spectrum in spectra])
    more = {"max_products": 70} if estimator is hutchpp else {}
    solve = partial(estimate, estimator, rtol=0.05, **more)
    together = jax.vmap(solve)(matrices, jnp.arange(4))
    for index, matrix in enumerate(matrices):
        one = jax.tree.map(lambda leaf, i=index: leaf[i], together)
        # Products are rounded in another order, where the sketch is ill-conditioned.
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-7), one, solve(matrix, index))
    assert list(together.converged) == [True, True, False, False]
    assert np.isnan(together.mean[3]) and together.num_products[3] <= 2 * ROWS + 1


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_host_loops_give_the_same_numbers(estimator):
    matrix = symmetric_matrix(uniform)
    result, vectors = recorded(estimator, matrix)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-10), result, estimate(estimator, matrix)
    )
    assert len({tuple(vector) for vector in vectors}) == len(vectors)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_key_fixes_the_result_and_programs_are_reused(estimator):
    matrix = symmetric_matrix(uniform)
    first, again, other = (estimate(estimator, matrix, seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first.mean != other.mean
    traced = []

    @jax.jit
    def trace(matrix, key):
        matvec = lambda v: traced.append(v) or matrix @ v  # noqa: E731
        return estimator(matvec, matrix[0], key=key)

    trace(jnp.asarray(matrix), jax.random.key(0))
    first = len(traced)
    trace(2 * jnp.asarray(matrix), jax.random.key(1))
    assert len(traced) == first


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_mixed_dtypes_and_missing_leaves(estimator):
    weights = {"a": jnp.array([1.0, 7.0], jnp.float32), "b": [jnp.array([[2.0], [5.0]]), None]}
    multiply = partial(jax.tree.map, jnp.multiply, weights)
    result = estimator(multiply, weights, key=jax.random.key(0))
    assert result.mean.dtype == "f8"
    assert result.mean == pytest.approx(15, rel=1e-6)  # some products are float32


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_products_run_at_highest_precision(estimator):
    with jax.default_matmul_precision("default"):
        trace = partial(estimator, lambda v: jnp.ones((4, 4)) @ v, key=jax.random.key(0))
        precisions = dot_precisions(jax.make_jaxpr(trace)(jnp.ones(4)).jaxpr)
    assert len(precisions) > 5 and set(precisions) == {(jax.lax.Precision.HIGHEST,) * 2}


@pytest.mark.parametrize(
    ("estimator", "like", "options", "message"),
    [
        (hutchpp, np.ones(9), {"sketch_size": 0}, "sketch_size is 0"),
        (hutchpp, np.ones(9), {"max_products": 19}, "at least 2 sketch_size [+] 2 = 20"),
        (hutchpp, np.ones(9), {"vmapped": 0}, "vmapped is 0"),
        (hutchpp, np.ones(9), {"rtol": -1.0}, "rtol is -1.0"),
        (hutchpp, np.ones(9, np.int32), {}, "int32"),
        (xtrace, np.ones(9), {"max_products": 3}, "max_products is 3"),
        (xtrace, np.ones(1), {"max_products": 1}, "max_products is 1"),
        (xtrace, np.ones(9), {"atol": float("nan")}, "atol is nan"),
        (xtrace, {}, {}, "0 numbers"),
    ],
)
def test_bad_arguments_are_named_before_tracing(estimator, like, options, message):
    def never(vector):
        raise AssertionError("traced")

    with pytest.raises(ValueError, match=message) as error:
        estimator(never, like, key=jax.random.key(0), **options)
    assert "\n" not in str(error.value)
