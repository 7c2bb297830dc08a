"""The sparse problem of units against the dense solver and brute force."""

import numpy as np
import pytest
import scipy.optimize

from jaxsharp.measures import chain_exponents, minimize_over_scales, minimize_over_units


def chain(widths, sigma, seed=0):
    """Log-normal traces of layers of units with biases, the units that they lead from and to."""
    rng, tails, heads, last, num = np.random.default_rng(seed), [0], [0], np.zeros(1, int), 0
    for width in widths:
        units = np.arange(num + 1, num + width + 1)
        num += width
        tails += [*np.repeat(last, width), *np.zeros(width, int)]
        heads += [*np.tile(units, len(last)), *units]
        last = units
    tails, heads = [*tails, *last], [*heads, *np.zeros(len(last), int)]
    return np.exp(sigma * rng.normal(size=len(tails))), np.array(tails), np.array(heads), num


def exponents_of(tails, heads, num):
    """The same rescalings as rows of exponents."""
    eye = np.eye(num + 1)
    return (eye[heads] - eye[tails])[:, 1:]


def value_at(traces, tails, heads, x):
    x = np.concatenate([[0.0], x])
    return np.sum(traces * np.exp(2 * (x[tails] - x[heads])))


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0, 10.0])
@pytest.mark.parametrize("widths", [(1,), (3, 2), (5, 4, 6), (1,) * 20, (8, 8, 8, 8)])
def test_the_sparse_problem_has_the_minimum_of_the_dense_solver(widths, sigma):
    """Which solves the same with exponents, by steps of its own (pitfall 24)."""
    problem = chain(widths, sigma)
    found = minimize_over_units(*problem)
    want = minimize_over_scales(problem[0], exponents_of(*problem[1:]))
    assert found.attained and want.attained
    np.testing.assert_allclose(found.value, want.value, rtol=1e-11)
    assert 0 <= found.error <= 1e-12 * found.value
    np.testing.assert_allclose(value_at(*problem[:3], found.log_scales), found.value, rtol=1e-11)
    if sigma == 1.0:
        np.testing.assert_allclose(found.log_scales, want.log_scales, atol=1e-6)
        assert found.gradient_norm < 1e-7


def test_no_other_scales_have_less():
    problem = chain((4, 3), 2.0)
    found, rng = minimize_over_units(*problem), np.random.default_rng(1)
    for _ in range(20):
        x = found.log_scales + rng.normal(size=7) * 10 ** rng.uniform(-3, 0)
        assert value_at(*problem[:3], x) > found.value
    brute = scipy.optimize.minimize(lambda x: value_at(*problem[:3], x), np.zeros(7), tol=1e-10)
    np.testing.assert_allclose(found.value, brute.fun, rtol=1e-9)


def test_at_the_minimum_every_unit_has_as_much_in_as_out():
    traces, tails, heads, num = chain((4, 3), 3.0)
    x = np.concatenate([[0.0], minimize_over_units(traces, tails, heads, num).log_scales])
    terms = traces * np.exp(2 * (x[tails] - x[heads]))
    out, into = (np.bincount(ends, terms) for ends in (tails, heads))
    np.testing.assert_allclose(out, into, rtol=1e-6)


def test_hundreds_of_units_are_solved_in_few_steps():
    traces, tails, heads, num = chain((100, 200, 100), 3.0)
    found = minimize_over_units(traces, tails, heads, num)
    assert num == 400 and found.attained and found.iterations < 10
    assert found.error <= 1e-12 * found.value
    factors = np.exp(2 * np.random.default_rng(0).normal(size=num + 1))
    moved = minimize_over_units(traces * factors[tails] / factors[heads], tails, heads, num)
    np.testing.assert_allclose(moved.value, found.value, rtol=1e-12)


@pytest.mark.parametrize("distance", [1e-3, 1e-2, 0.1])
def test_the_gap_bounds_what_is_left(monkeypatch, distance):
    """Of scales near the minimum where no step is taken from; far away there may be no bound."""
    problem = chain((4, 3), 1.0)
    best = minimize_over_units(*problem)
    away = np.concatenate([[0.0], best.log_scales])
    away += distance * np.random.default_rng(2).normal(size=8) * (np.arange(8) > 0)
    monkeypatch.setattr("jaxsharp.measures.minimum.balancing.osborne", lambda terms: away)
    monkeypatch.setattr("jaxsharp.measures.minimum.balancing.MAX_ITERATIONS", 1)
    found = minimize_over_units(*problem)
    left = found.value - best.value
    assert 1e-9 < left <= found.error * (1 + 1e-9)
    assert found.error < 3 * left


def test_units_that_lead_nowhere_leave_an_infimum():
    """Of two paths one ends at a unit without weights that live; what leads there may vanish."""
    tails, heads = np.array([0, 1, 0, 2, 0]), np.array([1, 0, 2, 0, 0])
    found = minimize_over_units(np.array([4.0, 9.0, 5.0, 0.0, 1.0]), tails, heads, 2)
    assert not found.attained
    np.testing.assert_allclose([found.value, found.error], [1 + 2 * np.sqrt(4 * 9), 0], atol=1e-12)
    np.testing.assert_allclose(found.log_scales, [np.log(4 / 9) / 4, 0])
    dense = minimize_over_scales([4.0, 9.0, 5.0, 0.0, 1.0], exponents_of(tails, heads, 2))
    assert not dense.attained
    np.testing.assert_allclose(dense.value, found.value)
    dead = minimize_over_units(np.array([4.0, 9.0, 0.0, 0.0, 1.0]), tails, heads, 2)
    assert dead.attained and dead.value == found.value


def test_width_one_is_the_chain_of_layers():
    traces = np.exp(np.random.default_rng(3).normal(size=6))
    tails, heads = np.array([0, 0, 1, 0, 2, 0]), np.array([1, 1, 2, 2, 0, 0])
    found = minimize_over_units(traces, tails, heads, 2)
    want = minimize_over_scales(traces, chain_exponents(3))
    np.testing.assert_allclose(found.value, want.value, rtol=1e-13)


def test_nothing_that_moves_is_solved_at_once():
    still = minimize_over_units(np.array([2.0, 3.0]), np.array([0, 1]), np.array([0, 1]), 1)
    assert still.value == pytest.approx(5, rel=1e-14) and still.attained and still.error == 0
    nothing = minimize_over_units(np.zeros(2), np.array([0, 1]), np.array([1, 0]), 1)
    assert (nothing.value, nothing.attained) == (0.0, True)


@pytest.mark.parametrize(
    ("traces", "tails", "message"),
    [
        ([1.0, -1.0], [0, 1], r"traces\[1\] is -1.0; traces are finite and >= 0"),
        ([1.0, np.inf], [0, 1], r"traces\[1\] is inf"),
        ([1.0], [0, 1], r"shapes \(1,\), \(2,\), \(2,\); valid is \(E,\) thrice"),
        ([1.0, 1.0], [0, 2], "tails are from 0 to 2; valid are units from 0 to 1"),
    ],
)
def test_bad_input_is_named(traces, tails, message):
    with pytest.raises(ValueError, match=message):
        minimize_over_units(np.array(traces), np.array(tails), np.array([1, 0]), 1)
