"""Estimates by probes in programs: vmap, loops on the host, memory, dtypes and bad arguments."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core.averages import MIN_PROBES
from jaxsharp.curvature import Operator, hutchinson
from tests.probing import ESTIMATORS, SIZE, estimate, probe_deviation, spectra, uniform
from tests.references import dot_precisions, symmetric_matrix

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_pitfall_18_vmapped_products_do_not_matter(estimator):
    matrix = symmetric_matrix(spectra["uniform"] + 1)
    atol = np.linalg.norm(probe_deviation(estimator, matrix)) / 7
    one, seven = (estimate(estimator, matrix, atol=atol, vmapped=v) for v in (1, 7))
    assert one.num_products == seven.num_products
    assert MIN_PROBES < one.num_products < 100
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), one, seven)


def test_pitfall_18_memory_is_that_of_the_vmapped_probes():
    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (variable.aval.size for variable in equation.outvars)
            for inner in jax.tree.leaves(list(equation.params.values())):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from sizes(inner)

    trace = partial(hutchinson, lambda v: v, key=jax.random.key(0), max_products=900, vmapped=3)
    program = jax.make_jaxpr(trace)(jnp.zeros(1000))
    # The bits of a random number may be drawn in two halves.
    assert 3000 <= max(sizes(program.jaxpr)) <= 6000


@pytest.mark.slow
def test_vmap_over_models_equals_one_by_one():
    """One stops at once, one later, one never, one is NaN: none disturbs another."""
    matrices = [np.eye(SIZE), *(symmetric_matrix(spectra[n] + 1) for n in ("uniform", "rank_1"))]
    matrices = np.stack([*matrices, np.full((SIZE, SIZE), np.nan), symmetric_matrix(uniform)])
    seeds = jnp.arange(len(matrices))
    solve = partial(estimate, hutchinson, rtol=0.04, vmapped=2)
    together = jax.vmap(solve)(matrices, seeds)
    for index, (matrix, seed) in enumerate(zip(matrices, seeds, strict=True)):
        one = jax.tree.map(lambda leaf, i=index: leaf[i], together)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), one, solve(matrix, seed))
    assert list(together.converged) == [True, True, True, False, False]


def test_key_fixes_the_result_and_probes_differ():
    matrix = symmetric_matrix(uniform)
    first, again, other = (estimate(hutchinson, matrix, seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first.mean != other.mean


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_host_loops_give_the_same_numbers(estimator):
    matrix = symmetric_matrix(uniform + 1)
    probes = []

    def product(vector):
        probes.append(np.asarray(vector))
        return jnp.asarray(matrix @ probes[-1])

    options = {"rtol": 0.1, "max_products": 100}
    operator = Operator(product, "test", on_host=True)
    result = estimator(operator, jnp.zeros(SIZE), key=jax.random.key(0), **options)
    compiled = estimate(estimator, matrix, **options)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), result, compiled)
    assert len(probes) == result.num_products
    assert len({tuple(probe) for probe in probes}) == len(probes)
    assert set(np.ravel(probes)) == {-1.0, 1.0}


def test_compiles_once():
    traced = []

    @jax.jit
    def trace(matrix, key):
        def matvec(vector):
            traced.append(vector)
            return matrix @ vector

        return hutchinson(matvec, matrix[0], key=key, rtol=0.1)

    for seed in range(3):
        trace(jnp.asarray(symmetric_matrix(uniform + seed)), jax.random.key(seed))
        first = len(traced) if seed == 0 else first
    assert len(traced) == first


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_nan_stops_at_once_and_shows(estimator):
    matrix = np.eye(SIZE)
    matrix[3, 5] = np.nan
    result = estimate(estimator, matrix, rtol=0.1)
    assert np.any(np.isnan(result.mean)) and np.any(np.isnan(result.stderr))
    assert not result.converged and result.num_products == 1


@pytest.mark.slow
def test_pytrees_of_mixed_dtypes_outside_jit():
    weights = {"a": jnp.array([1.0, 7.0], jnp.float32), "b": [jnp.array([[2.0], [5.0]]), None]}
    multiply = partial(jax.tree.map, jnp.multiply, weights)
    trace, entries, norm = (e(multiply, weights, key=jax.random.key(0)) for e in ESTIMATORS)
    assert trace.mean == 15 and trace.stderr == 0 and trace.mean.dtype == "f8"
    assert trace.group_means == {"a": 8, "b": [7, None]}
    assert trace.group_means["a"].dtype == trace.group_stderrs["a"].dtype == "f4"
    jax.tree.map(np.testing.assert_array_equal, entries.mean, weights)
    assert jax.tree.map(lambda x: x.dtype, entries) == entries._replace(
        mean={"a": "f4", "b": ["f8", None]},
        stderr={"a": "f4", "b": ["f8", None]},
        num_products="i4",
        converged="bool",
    )
    assert norm.mean == pytest.approx(np.sqrt(79), rel=1e-7)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_products_run_at_highest_precision(estimator):
    matrix = jnp.ones((4, 4))
    with jax.default_matmul_precision("default"):
        trace = partial(estimator, lambda v: matrix @ v, key=jax.random.key(0))
        precisions = dot_precisions(jax.make_jaxpr(trace)(matrix[0]).jaxpr)
    assert precisions and set(precisions) == {(jax.lax.Precision.HIGHEST,) * 2}


@pytest.mark.parametrize(
    ("like", "options", "message"),
    [
        (np.ones(9), {"rtol": -0.1}, "rtol is -0.1"),
        (np.ones(9), {"rtol": float("nan")}, "rtol is nan"),
        (np.ones(9), {"atol": -1.0}, "atol is -1.0"),
        (np.ones(9), {"max_products": 1}, "max_products is 1"),
        (np.ones(9), {"vmapped": 0}, "vmapped is 0"),
        (np.ones(9, np.int32), {}, "int32"),
        ((np.ones(9), np.ones(9, np.float16)), {}, "float16"),
        ({"a": None}, {}, "0 numbers"),
    ],
)
def test_bad_arguments_are_named_before_tracing(like, options, message):
    def never(vector):
        raise AssertionError("traced")

    for estimator in ESTIMATORS:
        with pytest.raises(ValueError, match=message) as error:
            estimator(never, like, key=jax.random.key(0), **options)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("matvec", "message"),
    [
        (lambda v: v[:, None], r"float64\(4,\) into float64\(4, 1\)"),
        (lambda v: v.astype(jnp.float32), r"into float32\(4,\)"),
        (lambda v: (v,), "changed the structure"),
        (lambda v: (v, v), "changed the structure"),
    ],
)
def test_products_of_another_shape_are_refused(matvec, message):
    """A column would broadcast against the probe, and give the sum of all entries."""
    with pytest.raises(ValueError, match=message):
        hutchinson(matvec, jnp.ones(4), key=jax.random.key(0))
