"""Each coefficient of an evaluation against plain loops, on tables that are hard in some way."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from jaxsharp.analysis import coefficients
from jaxsharp.analysis.evaluation import pairs, resampling
from tests.analysis.evaluation.tables import (
    HYPER,
    KINDS,
    NAN,
    close,
    naive_tau,
    runs_of,
    sampled,
    sign_x,
    sign_y,
    values_of,
)


@pytest.fixture(params=KINDS)
def runs(request):
    return runs_of(request.param)


def test_raw_and_within_tau(runs):
    rows, found = list(runs.itertuples()), sampled(runs).runs
    rng = np.random.default_rng(0)
    raw = resampling.bootstrap_tau(found, 0.95, 99, rng).value
    close(raw, naive_tau(rows))
    if not runs["error"].any():
        close(raw, stats.kendalltau(runs["x"], runs["gap"])[0])
    within = coefficients.kendall_within(found, 0.95).value
    close(within, naive_tau(rows, lambda a, b: values_of(a) == values_of(b)))


def test_the_bootstrap_draws_configurations_with_all_their_runs(runs):
    """Its variance is that of scipy's tau over tables of the drawn configurations."""
    if runs["error"].any():
        pytest.skip("scipy knows no errors")
    found = sampled(runs, seed=None).runs
    interval = resampling.bootstrap_tau(found, 0.95, 200, generator())
    if found.x.size < 16:
        assert interval.remark == "12 runs, 16 needed"
        return
    members = [np.flatnonzero(found.group == g) for g in np.unique(found.group)]
    num, taus = len(members), []
    for counts in generator().multinomial(num, np.full(num, 1 / num), size=200):
        drawn = np.concatenate([np.tile(m, n) for m, n in zip(members, counts, strict=True)])
        taus.append(stats.kendalltau(found.x[drawn], found.y[drawn])[0])
    deviation = np.std(taus, ddof=1) / math.sqrt(1 - interval.value**2)
    half = stats.t.ppf(0.975, num - 1) * deviation
    close(interval.value, stats.kendalltau(found.x, found.y)[0])
    close(interval[1:3], np.sin(math.asin(interval.value) + np.array([-half, half])))


def generator():
    return np.random.default_rng(0)


def test_shared_seeds_widen_the_interval():
    """Where a seed moves both columns alike in all configurations, there are few units."""
    rng = np.random.default_rng(3)
    group, seed = np.repeat(np.arange(24), 3), np.tile(np.arange(3), 24)
    x, y = (0.3 * rng.normal(size=72) + rng.normal(size=3)[seed] for _ in range(2))
    alone = resampling.bootstrap_tau(coefficients.Runs(x, y, group, None), 0.95, 500, rng)
    shared = resampling.bootstrap_tau(coefficients.Runs(x, y, group, seed), 0.95, 500, rng)
    assert shared.value == alone.value
    assert shared.high - shared.low > 3 * (alone.high - alone.low)


def test_the_p_value_is_that_of_all_permutations():
    """Three configurations of 3, 2 and 3 runs: all 72 permutations, one by one."""
    rng = np.random.default_rng(5)
    group = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    for _ in range(5):
        x, y = rng.integers(4, size=8).astype(float), rng.normal(size=8)
        runs = coefficients.Runs(x, y, group, None)

        def score(y, x=x):
            return sum(
                np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
                for i, j in itertools.combinations(range(8), 2)
                if group[i] == group[j]
            )

        parts = [itertools.permutations(np.flatnonzero(group == g)) for g in range(3)]
        scores = [score(y[list(itertools.chain(*each))]) for each in itertools.product(*parts)]
        exact = np.mean(np.abs(scores) >= abs(score(y)))
        found = resampling.permutation_p_value(runs, 4000, rng)
        # Five standard errors of a share of 4000 draws.
        assert abs(found - exact) < 5 * math.sqrt(exact * (1 - exact) / 4000) + 1 / 4000


def test_p_values_without_any_order_are_missing():
    single = coefficients.Runs(np.arange(4.0), np.arange(4.0), np.arange(4), None)
    assert np.isnan(resampling.permutation_p_value(single, 99, generator()))
    tied = coefficients.Runs(np.ones(4), np.arange(4.0), np.zeros(4, int), None)
    assert np.isnan(resampling.permutation_p_value(tied, 99, generator()))


def test_p_values_are_uniform_where_there_is_nothing():
    rng = np.random.default_rng(0)
    group, found = np.repeat(np.arange(6), 4), []
    for _ in range(400):
        x, y = 5 * rng.normal(size=(2, 6))[:, group] + rng.normal(size=(2, 24))
        found.append(resampling.permutation_p_value(coefficients.Runs(x, y, group, None), 99, rng))
    for level in (0.05, 0.2, 0.5):
        share = np.mean(np.asarray(found) <= level)
        assert abs(share - level) < 4 * math.sqrt(level * (1 - level) / 400)


@pytest.mark.slow
def test_holm_is_statsmodels():
    p = [0.01, 0.04, 0.03, 0.005, 0.9, 0.04]
    close(resampling.holm(p), multipletests(p, method="holm")[1])
    close(resampling.holm([NAN, 0.03, 0.02, NAN]), [NAN, 0.04, 0.04, NAN])
    assert resampling.holm([]) == []


def test_granulated_psi(runs):
    psi, rows, each = pairs.granulated(sampled(runs)), list(runs.itertuples()), []
    for name in HYPER:
        rest = [h for h in HYPER if h != name]
        sets = {}
        for run in rows:
            sets.setdefault((values_of(run, rest), run.seed), []).append(run)
        taus = []
        for members in sets.values():
            scores = [
                sign_x(a, b) * sign_y(a, b)
                for a, b in itertools.combinations(members, 2)
                if values_of(a, [name]) != values_of(b, [name])
            ]
            taus += [np.mean(scores)] if scores else []
        each.append(np.mean(taus) if taus else NAN)
    close(psi.each, each)
    close(psi.value, np.nanmean(each))


@pytest.mark.parametrize("noise", [0.0, 0.8])
def test_worst_environment(runs, noise):
    found = pairs.worst_environment(sampled(runs), noise)
    rows, environments, total, noisy = list(runs.itertuples()), {}, 0, 0
    for a, b in itertools.combinations(rows, 2):
        differ = [h for h in HYPER if values_of(a, [h]) != values_of(b, [h])]
        if len(differ) != 1:
            continue
        total += 1
        if abs(a.gap - b.gap) <= noise:
            noisy += 1
            continue
        key = frozenset([values_of(a), values_of(b)])
        environments.setdefault(key, []).append((1 - sign_x(a, b) * sign_y(a, b)) / 2)
    errors = [np.mean(e) for e in environments.values() if len(e) >= pairs.LEAST_PAIRS]
    assert (found.pairs, found.noisy, found.environments) == (total, noisy, len(errors))
    close(found.error, max(errors, default=NAN))
    if errors:
        ends = frozenset(values_of(rows[run]) for run in found.runs)
        close(np.mean(environments[ends]), found.error)
        assert len({values_of(rows[run], [HYPER[found.hyper]]) for run in found.runs}) == 2


def test_conditional_information(runs):
    rows, found = list(runs.itertuples()), []
    for size in range(3):
        for given in itertools.combinations(HYPER, size):
            cells = {}
            for a, b in itertools.permutations(rows, 2):
                if sign_y(a, b):
                    key = values_of(a, given), values_of(b, given)
                    cells.setdefault(key, []).append((sign_x(a, b), sign_y(a, b)))
            total = sum(map(len, cells.values()))
            information = entropy = 0.0
            for cell in cells.values():
                for s, t in set(cell):
                    p = cell.count((s, t)) / len(cell)
                    p_s = sum(each[0] == s for each in cell) / len(cell)
                    p_t = sum(each[1] == t for each in cell) / len(cell)
                    information += len(cell) / total * p * math.log(p / (p_s * p_t))
                for t in {each[1] for each in cell}:
                    p_t = sum(each[1] == t for each in cell) / len(cell)
                    entropy -= len(cell) / total * p_t * math.log(p_t)
            found += [information / entropy] if entropy > 0 else []
    close(pairs.conditional_information(sampled(runs)), min(found))
