"""Averages of values that are known: their errors, when they stop, and rounding in float32."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxsharp.core.averages import MIN_PROBES, Limits, average, itself
from jaxsharp.curvature.operators import loops_around
from tests.references import symmetric_matrix

pytestmark = pytest.mark.usefixtures("double_precision")


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
