"""The interval that a record states, and of how many terms."""

import math

import numpy as np
import pytest
import scipy.stats

from jaxsharp.measures import MEASURES, Options, Record

ONE = Record(2.0, 0.5, True, 9, 64, 20, False)


@pytest.mark.parametrize(
    ("name", "options", "terms"),
    [
        ("random_perturbation", Options(), 10),
        ("random_perturbation", Options(antithetic=False), 20),
        ("study_b_sharpness", Options(), 20),
        ("hutchinson_trace", Options(), 20),
        ("pgd_l2", Options(group_size=8), 8),
        ("pgd_l2", Options(group_size=128), 1),
        ("pgd_l2", Options(measure_rtol=0.1, ascent_starts=2), 10),
        ("sam_sharpness", Options(measure_rtol=0.1, ascent_starts=2), 20),
        ("minimum_sharpness", Options(), 64),
    ],
)
def test_the_independent_terms_are_pairs_directions_groups_or_examples(name, options, terms):
    record = ONE._replace(directions=0 if name == "minimum_sharpness" else 20)
    of = MEASURES[name]
    assert of.terms(record, options) == terms
    if terms > 1:
        half = scipy.stats.t.ppf(0.975, terms - 1) * 0.5
        want = (2 * np.exp(-half / 2), 2 * np.exp(half / 2))
        np.testing.assert_allclose(of.interval(record, options), want, rtol=1e-12)


def test_an_interval_that_reaches_0_goes_on_from_that_of_the_logarithm():
    of, t = MEASURES["hutchinson_trace"], scipy.stats.t.ppf(0.9, 19)
    wide, near = (of.interval(ONE._replace(error=2 * f / t), Options(), 0.8) for f in (3, 0.9999))
    np.testing.assert_allclose(wide, (-4, 2 + 6 * (math.e - 1)), rtol=1e-9)
    np.testing.assert_allclose(near, (2 / math.e, 2 * math.e), rtol=1e-3)
    low, high = of.interval(ONE._replace(value=-2.0), Options())
    assert low < -2 < high < 0


def test_a_bound_is_no_quantile_and_no_error_no_interval():
    assert MEASURES["top_eigenvalue"].interval(ONE, Options()) == (1.5, 2.5)
    assert MEASURES["minimum_sharpness"].interval(ONE._replace(exact=True), Options()) == (1.5, 2.5)
    whole = ONE._replace(error=0.0, examples=100)
    assert MEASURES["pgd_l2"].interval(whole, Options()) == (2.0, 2.0)
    one_group = ONE._replace(error=math.nan, examples=128)
    assert np.isnan(MEASURES["pgd_l2"].interval(one_group, Options())).all()
    with pytest.raises(ValueError, match="it must be above 0 and below 1"):
        MEASURES["pgd_l2"].interval(ONE, Options(), 1.0)
