"""Means over seeds: hand-computed values, scipy as the reference, ranges, and what is covered."""

import numpy as np
import pytest
from scipy import stats as reference

from experiments import intervals, lattice_intervals
from jaxsharp import analysis

NAN = float("nan")


def test_the_mean_has_students_interval():
    values = [1.0, 2.0, 4.0, 9.0]
    # Sum of squares about 4 is 9 + 4 + 0 + 25 = 38; t(0.975, 3 degrees) = 3.182446.
    half = 3.182446305 * np.sqrt(38 / 3 / 4)
    interval = analysis.mean_interval(values)
    assert interval.mean == 4.0 and interval.num == 4
    np.testing.assert_allclose(interval[1:3], [4 - half, 4 + half], rtol=1e-8)
    low, high = reference.t.interval(0.8, 3, loc=4, scale=reference.sem(values))
    np.testing.assert_allclose(analysis.mean_interval(values, 0.8)[1:3], [low, high], rtol=1e-12)


def test_an_interval_ends_where_its_range_does():
    values = [0.98, 1.0, 0.97]
    free = analysis.mean_interval(values)
    assert free.high > 1
    assert analysis.mean_interval(values, within=(0, 1)) == free._replace(high=1)
    negated = analysis.mean_interval(np.negative(values), within=(-1, 1))
    assert negated[:3] == (-free.mean, -1, -free.low)


def test_the_geometric_mean_has_students_interval_of_the_logarithm():
    values = [1.0, 10.0, 100.0, 10.0]
    found = analysis.geometric_mean_interval(values, 0.9)
    low, high = reference.t.interval(0.9, 3, loc=1, scale=reference.sem(np.log10(values)))
    np.testing.assert_allclose(found, [10, 10**low, 10**high, 4], rtol=1e-12)
    inverse = analysis.geometric_mean_interval(1 / np.array(values), 0.9)
    np.testing.assert_allclose(inverse[:3], [0.1, 10**-high, 10**-low], rtol=1e-12)


@pytest.mark.parametrize("mean", [analysis.mean_interval, analysis.geometric_mean_interval])
def test_few_or_equal_values_have_no_interval(mean):
    np.testing.assert_equal(mean([]), (NAN, NAN, NAN, 0))
    np.testing.assert_equal(mean([NAN]), (NAN, NAN, NAN, 0))
    np.testing.assert_equal(mean([3.0]), (3.0, NAN, NAN, 1))
    np.testing.assert_equal(mean([0.1] * 3), (0.1, NAN, NAN, 3))
    np.testing.assert_equal(mean([3.0, np.inf]), (np.inf, NAN, NAN, 2))
    two, three = mean([1.0, 4.0]), mean([1.0, NAN, 4.0, 2.0])
    assert two.num == 2 and np.isnan(two.low)
    assert three.num == 3 and three.low < three.mean < three.high


@pytest.mark.parametrize("value", [0.0, -1e-9, -np.inf])
def test_there_is_no_geometric_mean_of_what_is_not_positive(value):
    found = analysis.geometric_mean_interval([1.0, 2.0, 3.0, value])
    np.testing.assert_equal(found, (NAN, NAN, NAN, 4))


def test_opposite_infinities_have_no_mean():
    np.testing.assert_equal(analysis.mean_interval([-np.inf, np.inf, 1.0]), (NAN, NAN, NAN, 3))


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_outside_zero_to_one_is_refused(confidence):
    for call in (analysis.mean_interval, analysis.geometric_mean_interval):
        for values in ([1.0], [-1.0]):
            with pytest.raises(ValueError, match=f"confidence is {confidence}; it must be between"):
                call(values, confidence)


COVERED = [(kind, name) for kind, names in intervals.MEANS.items() for name in names]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), COVERED)
def test_intervals_that_are_printed_cover_90_to_98_percent(kind, name):
    """Student's t of the values themselves covered a log-normal mean (1.0) in 82 to 85 %."""
    num = 400
    for values in (2, 3, 5, 10):
        row = intervals.mean_row(kind, name, values, num, [3, values])
        assert row["printed"] == ("yes" if values >= 3 else "no")
        low, high = (p + z * np.sqrt(p * (1 - p) / num) for p, z in ((0.9, -3), (0.98, 3)))
        if values >= 3:
            assert low <= row["coverage"] <= min(high, 1.0), row


@pytest.mark.parametrize("num", [3, 10])
def test_no_rule_on_the_spread_of_accuracies_makes_their_intervals_right(num):
    """As printed they are too wide where accuracies differ by an answer, and never too narrow."""
    rng, tables, widest = np.random.default_rng(num), 8000, {}
    for deviation in lattice_intervals.DEVIATIONS:
        found = lattice_intervals.coverage(rng, num, deviation, tables)
        for rule, (covered, share) in found.items():
            if share >= 0.05:
                assert covered > 0.94, (rule, deviation)
                widest[rule] = deviation if covered > 0.98 else widest.get(rule, 0)
    usual = widest.pop("not all equal")
    assert usual == {3: 1, 10: 0}[num] and len(widest) == 5
    assert all(deviation > usual for deviation in widest.values()), widest
