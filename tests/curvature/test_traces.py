"""Averages over probes against dense references, and their errors against the spread over seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp.core.averages import MIN_PROBES
from jaxsharp.curvature import diagonal, frobenius_norm, hessian, hutchinson
from tests.cases import make_case
from tests.probing import ESTIMATORS, SIZE, estimate, probe_deviation, spectra, uniform
from tests.references import dense_hessian, symmetric_matrix

pytestmark = pytest.mark.usefixtures("double_precision")


def truth_of(estimator, matrix):
    matrix = np.asarray(matrix, np.float64)
    return {
        hutchinson: np.trace(matrix),
        diagonal: np.diag(matrix),
        frobenius_norm: np.linalg.norm(matrix),
    }[estimator]


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_pitfall_16_no_stop_by_luck_for_a_trace_near_zero():
    """The running mean changes by less than 1 % at many probes; the error is never that small."""
    matrix = symmetric_matrix(spectra["trace_zero"])
    for seed in range(3):
        result = estimate(hutchinson, matrix, seed, rtol=0.01, max_products=1000)
        assert not result.converged and result.num_products == 1000
    result = estimate(hutchinson, matrix, atol=0.5, max_products=1000)
    assert result.converged and result.num_products < 1000
    assert 0.45 < result.stderr <= 0.5
