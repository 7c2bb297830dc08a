"""Each coefficient of an evaluation against plain loops, on tables that are hard in some way."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.multitest import multipletests

from jaxsharp.analysis import coefficients
from jaxsharp.analysis.evaluation import pairs, partial, regressions, resampling
from jaxsharp.analysis.evaluation.samples import covariates, sample

NAN = float("nan")


def runs_of(kind):
    """A table with two numeric hyper-parameters and one of texts, 5 seeds, or what `kind` says."""
    rng = np.random.default_rng(7)
    grid = itertools.product([0.1, 0.01, 0.001], [32, 64], ["a", "b"], range(5))
    runs = pd.DataFrame(list(grid), columns=["rate", "size", "name", "seed"])
    runs["train_loss"] = np.exp(rng.normal(size=len(runs)) + 0.3 * runs["size"] / 32)
    runs["x"] = np.exp(rng.normal(size=len(runs)) + np.log10(runs["rate"]))
    runs["gap"] = np.log(runs["x"]) + runs["train_loss"] + rng.normal(size=len(runs))
    runs["error"] = 0.0
    if kind == "ties":
        runs["x"], runs["gap"] = np.ceil(3 * runs["x"]), np.round(runs["gap"] / 2)
        runs["train_loss"] = np.round(runs["train_loss"])
    elif kind == "errors":
        runs["error"] = 0.3 * runs["x"] * rng.uniform(size=len(runs))
    elif kind == "missing hyper":
        runs.loc[runs["name"] == "a", "rate"] = NAN
    elif kind == "one seed":
        runs = runs[runs["seed"] == 0]
    elif kind == "unequal":
        runs = runs[rng.uniform(size=len(runs)) < 0.6]
    return runs.reset_index(drop=True)


KINDS = ["plain", "ties", "errors", "missing hyper", "one seed", "unequal"]
HYPER = ["rate", "size", "name"]


@pytest.fixture(params=KINDS)
def runs(request):
    return runs_of(request.param)


def sampled(runs, **options):
    usual = {"error": "error", "loss": "train_loss", "hyper": HYPER, "seed": "seed"}
    return sample(runs, "x", "gap", **{**usual, **options})


def sign_x(a, b):
    within = abs(a.x - b.x) < 2 * math.hypot(a.error, b.error)
    return 0 if within else np.sign(a.x - b.x)


def sign_y(a, b):
    return np.sign(a.gap - b.gap)


def values_of(run, names=HYPER):
    """Hyper-parameters that compare equal where both are missing."""
    return tuple(str(getattr(run, name)) for name in names)


def naive_tau(rows, keep=lambda a, b: True):
    both = in_x = in_y = 0
    for a, b in itertools.combinations(rows, 2):
        if keep(a, b):
            both += sign_x(a, b) * sign_y(a, b)
            in_x, in_y = in_x + sign_x(a, b) ** 2, in_y + sign_y(a, b) ** 2
    return both / math.sqrt(in_x * in_y) if in_x * in_y else NAN


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


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


def test_partial_tau_given_the_loss(runs):
    rows = list(runs.itertuples())
    other = [row._replace(x=row.train_loss, error=0.0) for row in rows]
    swapped = [row._replace(gap=row.train_loss) for row in rows]
    xy, zy, xz = naive_tau(rows), naive_tau(other), naive_tau(swapped)
    expected = (xy - xz * zy) / math.sqrt((1 - xz**2) * (1 - zy**2))
    found = sampled(runs)
    close(partial.partial_tau(found.runs, found.loss), expected)
    assert np.isnan(partial.partial_tau(found.runs, found.runs.x)) or runs["error"].any()


def test_the_partial_coefficient_of_independent_columns_is_not_zero():
    """As its docstring says; what is left of the ranks has nearly none."""
    z, e, f = np.random.default_rng(0).normal(size=(3, 900))
    runs = coefficients.Runs(0.8 * z + 0.6 * e, 0.8 * z + 0.6 * f, np.arange(900) // 90, None)
    assert abs(partial.partial_tau(runs, z) - 0.144) < 0.04
    assert abs(partial.residual_tau(runs, [z], 0.95).value) < 0.04


def naive_residual_tau(runs, given):
    def ranks(values):
        order = np.sign(values[:, None] - values[None, :])
        return np.nan_to_num(order).sum(axis=1)

    rows = list(runs.itertuples())
    x = np.array([sum(sign_x(a, b) for b in rows if b is not a) for a in rows], float)
    columns = [np.ones(len(rows))]
    for name in given:
        values = runs[name].to_numpy(float)
        columns += [ranks(values), np.isnan(values).astype(float)]
    design = np.stack(columns, 1)
    left = [v - design @ np.linalg.lstsq(design, v)[0] for v in (x, ranks(runs["gap"].to_numpy()))]
    if min(np.ptp(each) for each in left) < 1e-6:
        return NAN
    return stats.kendalltau(*(np.round(each, 6) for each in left))[0]


@pytest.mark.parametrize("given", [["train_loss"], ["train_loss", "rate", "size"]], ids=len)
def test_tau_of_what_is_left_of_ranks(runs, given):
    found = partial.residual_tau(sampled(runs).runs, [runs[name] for name in given], 0.95)
    expected = naive_residual_tau(runs, given)
    close(found.value, expected)
    if found.remark:
        assert found.remark == "12 runs, 16 needed"
        return
    groups = runs.groupby(HYPER, dropna=False).ngroup()
    units = {"group": groups, "seed": runs["seed"], "run": runs.index.to_series()}
    variances = {}
    for unit, labels in units.items():
        left = [naive_residual_tau(runs[labels != label], given) for label in labels.unique()]
        variances[unit] = (len(left) - 1) * np.var(left)
    parts = [(variances["group"], groups.nunique() - 1)]
    if variances["seed"] > variances["run"]:
        parts.append((variances["seed"] - variances["run"], runs["seed"].nunique() - 1))
    total = sum(v for v, _ in parts)
    degrees = total**2 / sum(v**2 / d for v, d in parts)
    half = stats.t.ppf(0.975, degrees) * math.sqrt(total / (1 - expected**2))
    expected_ends = np.sin(
        np.clip(np.arcsin(expected) + np.array([-half, half]), *(-1.5708, 1.5708))
    )
    np.testing.assert_allclose([found.low, found.high], expected_ends, rtol=1e-6)


def test_nothing_is_left_of_a_column_given_itself():
    runs = runs_of("plain")
    found = partial.residual_tau(sampled(runs).runs, [runs["x"]], 0.95)
    assert np.isnan(found.value) and found.remark == "undefined"


def test_only_numbers_that_vary_are_covariates():
    frame = pd.DataFrame(
        {"a": [1, 2], "b": ["x", "y"], "c": [3, 3], "d": [NAN, 1.0], "e": [True, False]}
    )
    assert [column.name for column in covariates(frame)] == ["a", "d"]


def scaled(values):
    values = np.log(values) if (values > 0).all() else values
    return (values - np.mean(values)) / np.std(values)


def test_the_increment_is_of_predictions_of_configurations_left_out(runs):
    found = regressions.increment(sampled(runs))
    given = runs["rate"].notna().to_numpy()
    rate = np.zeros(len(runs))
    rate[given] = scaled(runs["rate"].to_numpy()[given])
    base = [np.ones(len(runs)), scaled(runs["train_loss"]), rate, scaled(runs["size"])]
    base += [1.0 * (runs["name"] == "b"), *([1.0 * ~given] if not given.all() else [])]
    groups, y = runs.groupby(HYPER, dropna=False).ngroup(), runs["gap"].to_numpy()

    def r2(columns):
        design, missed, total = np.stack(columns, 1), 0.0, 0.0
        for group in groups.unique():
            out = (groups == group).to_numpy()
            fit = np.linalg.pinv(design[~out]) @ y[~out]
            missed += ((y[out] - design[out] @ fit) ** 2).sum()
            total += ((y[out] - y[~out].mean()) ** 2).sum()
        return 1 - missed / total

    close(found.without, r2(base))
    close(found.included, r2([*base, scaled(runs["x"])]))
    assert found.value == found.included - found.without


def dense_slope(x, y, group):
    """Restricted likelihood over the ratio of variances, with dense matrices."""
    design, same = np.stack([np.ones(len(x)), scaled(x)], 1), group[:, None] == group[None, :]

    def parts(ratio):
        inverse = np.linalg.inv(np.eye(len(x)) + ratio * same)
        information = design.T @ inverse @ design
        slope = np.linalg.solve(information, design.T @ inverse @ y)
        rest = y - design @ slope
        variance = rest @ inverse @ rest / (len(x) - 2)
        cost = (len(x) - 2) * np.log(variance) - np.linalg.slogdet(inverse)[1]
        return cost + np.linalg.slogdet(information)[1], slope[1], variance, information

    ratios = np.concatenate([[0.0], np.geomspace(1e-4, 1e3, 200)])
    start = ratios[np.argmin([parts(ratio)[0] for ratio in ratios])]
    ends = (start / 1.1, start * 1.1 + 1e-4)
    best = optimize.minimize_scalar(lambda r: parts(r)[0], bounds=ends, method="bounded").x
    _, slope, variance, information = parts(best)
    degrees = len(np.unique(group)) - 2
    return slope, stats.t.ppf(0.975, degrees) * math.sqrt(
        variance * np.linalg.inv(information)[1, 1]
    )


def test_the_slope_of_the_mixed_model(runs):
    found, arrays = regressions.mixed_slope(sampled(runs), 0.95), sampled(runs).runs
    if arrays.x.size == 12:
        assert np.isnan(found.value) and found.remark == "no two runs of a configuration"
        return
    slope, half = dense_slope(arrays.x, arrays.y, arrays.group)
    np.testing.assert_allclose(found[:3], [slope, slope - half, slope + half], rtol=1e-3)


def test_the_slope_is_that_of_statsmodels_where_configurations_differ():
    runs = runs_of("plain")
    group = runs.groupby(HYPER).ngroup().to_numpy()
    runs["gap"] += 3 * np.random.default_rng(1).normal(size=12)[group]
    design = np.stack([np.ones(len(runs)), scaled(runs["x"])], 1)
    fit = MixedLM(runs["gap"].to_numpy(), design, groups=group).fit(reml=True)
    found = regressions.mixed_slope(sampled(runs), 0.95)
    np.testing.assert_allclose(found.value, fit.fe_params[1], rtol=1e-3)
    error = (found.high - found.low) / 2 / stats.t.ppf(0.975, 10)
    # Its errors are from the second derivatives by all parameters, the variances too.
    np.testing.assert_allclose(error, fit.bse_fe[1], rtol=5e-2)


def test_a_mixed_model_without_variance_between_configurations():
    """At the boundary gradient searches fail, and least squares is the answer."""
    rng = np.random.default_rng(0)
    runs = pd.DataFrame({"rate": np.repeat(np.arange(9.0), 3), "seed": np.tile(range(3), 9)})
    runs["gap"] = np.tile([-1.0, 0.0, 1.0], 9)  # equal means
    runs["x"] = runs["gap"] + rng.normal(size=27)
    found = regressions.mixed_slope(
        sample(runs, "x", "gap", error=None, loss=None, hyper=["rate"], seed="seed"), 0.95
    )
    expected = stats.linregress(scaled(runs["x"]), runs["gap"])
    np.testing.assert_allclose(found.value, expected.slope, rtol=1e-3)
    half = (found.high - found.low) / 2
    np.testing.assert_allclose(half, stats.t.ppf(0.975, 7) * expected.stderr, rtol=1e-3)
    few = runs[runs["rate"] < 7].reset_index(drop=True)
    arrays = sample(few, "x", "gap", error=None, loss=None, hyper=["rate"], seed="seed")
    assert regressions.mixed_slope(arrays, 0.95).remark == "7 groups, 8 needed"


def test_constant_columns_have_no_regressions():
    runs = runs_of("plain").assign(x=1.0)
    assert np.isnan(regressions.increment(sampled(runs))).all()
    assert regressions.mixed_slope(sampled(runs), 0.95).remark == "undefined"
