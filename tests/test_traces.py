"""Averages over probes against dense references, and their errors against the spread over seeds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.flatten_util import ravel_pytree

from jaxsharp.operators import Operator, loops_around
from jaxsharp.products import hessian
from jaxsharp.traces import MIN_PROBES, Limits, average, diagonal, frobenius_norm, hutchinson
from tests.cases import make_case
from tests.references import dense_hessian, dot_precisions, symmetric_matrix

SIZE = 40
ESTIMATORS = (hutchinson, diagonal, frobenius_norm)
# Run to the end of the products, whatever the error.
ALL = {"rtol": 0.0, "atol": 0.0}


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@partial(jax.jit, static_argnames=("estimator", "rtol", "atol", "max_products", "vmapped"))
def estimate(estimator, matrix, seed=0, *, rtol=0.0, atol=0.0, max_products=100, vmapped=1):
    like = jax.ShapeDtypeStruct(matrix.shape[:1], matrix.dtype)
    return estimator(
        lambda vector: matrix @ vector,
        like,
        key=jax.random.key(seed),
        rtol=rtol,
        atol=atol,
        max_products=max_products,
        vmapped=vmapped,
    )


def truth_of(estimator, matrix):
    matrix = np.asarray(matrix, np.float64)
    return {
        hutchinson: np.trace(matrix),
        diagonal: np.diag(matrix),
        frobenius_norm: np.linalg.norm(matrix),
    }[estimator]


def probe_deviation(estimator, matrix):
    """Return the standard deviation for one probe, from the off-diagonal part."""
    off = matrix - np.diag(np.diag(matrix))
    if estimator is diagonal:
        return np.linalg.norm(off, axis=0)
    if estimator is hutchinson:
        return np.sqrt(2) * np.linalg.norm(off)
    return probe_deviation(hutchinson, matrix @ matrix) / (2 * np.linalg.norm(matrix))


def itself(mean, stderr):
    return mean, stderr


def average_of(values, limits, vmapped=1):
    values = jnp.asarray(values)
    return average(
        lambda index: values[index],
        jnp.zeros_like(values[0]),
        itself,
        limits,
        loops_around(itself),
        vmapped,
    )


def test_hadamard_probes_give_the_trace():
    """They are orthogonal and of length sqrt(P), so their average is no estimate."""
    matrix = symmetric_matrix(np.random.default_rng(0).uniform(-1, 1, 32))
    probes = scipy.linalg.hadamard(32).astype(float)
    forms = np.einsum("ij,jk,ik->i", probes, matrix, probes)
    state = average_of(forms, Limits(0.0, 0.0, 32))
    assert state.mean == pytest.approx(np.trace(matrix), rel=1e-13)
    # ddof = 1, and the error of the mean, not of one.
    assert state.stderr == pytest.approx(forms.std(ddof=1) / np.sqrt(32), rel=1e-13)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e-8, 1e8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_diagonal_matrices_are_exact_with_no_error(estimator, scale, dtype):
    matrix = np.diag(scale * np.random.default_rng(0).uniform(-1, 1, SIZE)).astype(dtype)
    result = estimate(estimator, matrix)
    assert result.mean.dtype == result.stderr.dtype == dtype
    tol = 10 * np.finfo(dtype).eps * SIZE * scale
    np.testing.assert_allclose(result.mean, truth_of(estimator, matrix), atol=tol, rtol=0)
    np.testing.assert_array_equal(result.stderr, 0)
    assert result.converged and result.num_products == MIN_PROBES


uniform = np.random.default_rng(3).uniform(-1, 1, SIZE)
spectra = {
    "rank_1": np.r_[3.0, np.zeros(SIZE - 1)],
    "uniform": uniform,
    "trace_zero": uniform - uniform.mean(),
    "decaying": 0.7 ** np.arange(SIZE),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
@pytest.mark.parametrize("name", spectra)
def test_known_spectra(estimator, name, scale):
    """The error is the one that theory gives, and covers the truth."""
    matrix = symmetric_matrix(scale * spectra[name])
    result = estimate(estimator, matrix)
    assert np.all(np.abs(result.mean - truth_of(estimator, matrix)) < 5 * result.stderr)
    expected = probe_deviation(estimator, matrix) / np.sqrt(100)
    # The deviation of a hundred, with kurtosis up to 15 (rank 1): 20 %, so three of these.
    np.testing.assert_allclose(
        np.linalg.norm(result.stderr), np.linalg.norm(expected), rtol=0.6, atol=0
    )
    assert result.num_products == 100 and not result.converged


@pytest.mark.parametrize("name", ["tanh_mlp", "cnn", "equinox"])
def test_hessians_of_networks(name):
    """`equinox` holds None where the module holds functions."""
    case = make_case(name)
    dense = np.asarray(dense_hessian(case.loss, case.params, case.batch))

    @jax.jit
    def all_three(params, batch):
        matvec, key = hessian(case.loss, params, batch), jax.random.key(1)
        options = {"key": key, "max_products": 300, "rtol": 0.0, "vmapped": 10}
        return [estimator(matvec, params, **options) for estimator in ESTIMATORS]

    trace, entries, norm = all_three(case.params, case.batch)
    assert abs(trace.mean - np.trace(dense)) < 4 * trace.stderr
    assert abs(norm.mean - np.linalg.norm(dense)) < 4 * norm.stderr
    _, unflatten = ravel_pytree(case.params)
    blocks = jax.tree.map(jnp.sum, unflatten(np.diag(dense)))
    assert jax.tree.structure(trace.group_means) == jax.tree.structure(case.params)
    for mean, stderr, block in zip(
        *map(jax.tree.leaves, (trace.group_means, trace.group_stderrs, blocks)), strict=True
    ):
        # Blocks may be zero or diagonal, as that of the last bias: exact, up to rounding.
        assert abs(mean - block) < 5 * stderr + 1e-13
    total = sum(jax.tree.leaves(trace.group_means))
    assert total == pytest.approx(float(trace.mean), rel=1e-12)
    errors = np.abs(ravel_pytree(entries.mean)[0] - np.diag(dense))
    stderrs = np.asarray(ravel_pytree(entries.stderr)[0])
    assert np.all(errors <= 5 * stderrs)
    # On average of that size; dead units have neither.
    assert 0.5 < np.sqrt(np.mean((errors[stderrs > 0] / stderrs[stderrs > 0]) ** 2)) < 1.5


@jax.jit
def over_seeds(matrix, keys):
    """Forty probes, for blocks of 10 and 30 entries."""
    like = (jnp.zeros(10), jnp.zeros((3, 10)))
    unflatten = ravel_pytree(like)[1]

    def matvec(tree):
        return unflatten(matrix @ ravel_pytree(tree)[0])

    options = {"rtol": 0.0, "max_products": 40}
    return jax.vmap(lambda k: [e(matvec, like, key=k, **options) for e in ESTIMATORS])(keys)


def test_errors_match_the_spread_over_seeds():
    """No bias, five standard errors suffice, and the errors reported are those made."""
    matrix = symmetric_matrix(spectra["decaying"] + 0.1 * uniform)
    results = over_seeds(matrix, jax.random.split(jax.random.key(5), 200))
    trace, entries, norm = jax.tree.map(np.asarray, results)
    entries = [np.concatenate([x[0], x[1].reshape(200, 30)], axis=1) for x in entries[:2]]
    whole = np.diag(matrix)
    bias = norm.stderr**2 / (2 * norm.mean)
    for mean, stderr, truth in [
        (trace.mean, trace.stderr, whole.sum()),
        (trace.group_means[0], trace.group_stderrs[0], whole[:10].sum()),
        (trace.group_means[1], trace.group_stderrs[1], whole[10:].sum()),
        (norm.mean + bias, norm.stderr, np.linalg.norm(matrix)),
        *zip(entries[0].T, entries[1].T, whole, strict=True),
    ]:
        spread = np.std(mean, ddof=1)
        assert abs(np.mean(mean) - truth) < 4 * spread / np.sqrt(200)
        assert np.max(np.abs(mean - truth) / stderr) < 5
        # A spread of 200 is known to 5 %; four of these, as there are 44.
        assert np.sqrt(np.mean(np.square(stderr))) == pytest.approx(spread, rel=0.2)


def first_stop(values, rtol, atol):
    """Return after how many values the error meets the tolerance, by NumPy."""
    for n in range(MIN_PROBES, len(values)):
        error = np.std(values[:n], ddof=1) / np.sqrt(n)
        if error <= max(rtol * abs(np.mean(values[:n])), atol):
            return n
    return len(values)


@pytest.mark.parametrize("vmapped", [1, 7])
@pytest.mark.parametrize(("rtol", "atol"), [(0.05, 0.0), (0.0, 0.2), (0.02, 0.3), (1e-3, 1e-3)])
def test_stops_on_the_error_at_the_first_probe_that_meets_it(rtol, atol, vmapped):
    values = np.random.default_rng(1).normal(-3, 2, 300)
    state = average_of(values, Limits(rtol, atol, 300), vmapped)
    n = first_stop(values, rtol, atol)
    assert state.count == n and bool(state.converged) == (n < 300)
    assert state.mean == pytest.approx(values[:n].mean(), rel=1e-12)
    assert state.stderr == pytest.approx(values[:n].std(ddof=1) / np.sqrt(n), rel=1e-12)


def test_pitfall_16_no_stop_by_luck_for_a_trace_near_zero():
    """The running mean changes by less than 1 % at many probes; the error is never that small."""
    matrix = symmetric_matrix(spectra["trace_zero"])
    for seed in range(3):
        result = estimate(hutchinson, matrix, seed, rtol=0.01, max_products=1000)
        assert not result.converged and result.num_products == 1000
    result = estimate(hutchinson, matrix, atol=0.5, max_products=1000)
    assert result.converged and result.num_products < 1000
    assert 0.45 < result.stderr <= 0.5


def test_a_few_equal_probes_are_no_reason_to_stop():
    """Of 2^11 averages of signs one begins like this: an error of 0, and wrong."""
    values = np.r_[np.ones(12), -1.0, np.ones(87)]
    state = average_of(values, Limits(0.01, 0.0, 100))
    assert state.count == 100 and state.stderr > 0.01


def test_float32_where_the_mean_is_large_and_the_spread_small():
    """Sums of squares lose all digits here, and running means stall before the step."""
    step = np.where(np.arange(5000) < 500, 0, 0.05)
    values = (1e4 + step + np.random.default_rng(0).normal(0, 0.01, 5000)).astype(np.float32)
    state = average_of(values, Limits(0.0, 0.0, 5000), vmapped=50)
    exact = values.astype(np.float64)
    assert state.mean.dtype == np.float32
    # To the spacing of floats at 1e4; five thousand roundings of the deviations.
    assert state.mean == pytest.approx(exact.mean(), abs=1e-3)
    assert state.stderr == pytest.approx(exact.std(ddof=1) / np.sqrt(5000), rel=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_float32_squares_do_not_under_or_overflow(scale):
    values = (scale * np.random.default_rng(0).normal(1, 1, 100)).astype(np.float32)
    state = average_of(values, Limits(0.01, 0.0, 100))
    assert state.count == 100
    expected = values.astype(np.float64).std(ddof=1) / 10
    assert state.stderr == pytest.approx(expected, rel=1e-5)


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
