"""Summaries and controlled rank correlations of tables of runs.

Two rules decide what enters. Means: every run but the diverged ones. Correlations: `usable` runs.
A value that its measure did not finish, as NAME_finished says beside NAME, enters neither.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from jaxsharp.analysis import coefficients
from jaxsharp.analysis.coefficients import Coefficient
from jaxsharp.analysis.means import check_confidence, geometric_mean_interval, mean_interval

ACCURACIES = ("train_accuracy", "test_accuracy")
SINGLE = 2.0**-22  # that two differences of equal fractions in float32 differ by, at most
REASONS = ("diverged", "unconverged", "unfinished", "not finite")


class Usable(NamedTuple):
    """Runs that enter a correlation, and the others with the column `reason` (of `REASONS`)."""

    kept: pd.DataFrame
    excluded: pd.DataFrame

    @property
    def counts(self) -> dict[str, int]:
        """Number of excluded runs for each reason, zeros included."""
        return {reason: int((self.excluded["reason"] == reason).sum()) for reason in REASONS}


class Correlation(NamedTuple):
    """Correlations of two columns, never the raw one without that within groups.

    `raw` is Kendall's tau-b over all `num_pairs` pairs of the `num_runs` usable runs, `within` the
    one over the `num_within_pairs` pairs of the same group; `pearson` and `spearman` are raw too.
    `excluded` counts the runs that were left out, by reason; `confidence` is that of all intervals,
    and where a coefficient has none its `remark` says why.
    """

    raw: Coefficient
    within: Coefficient
    pearson: Coefficient
    spearman: Coefficient
    num_runs: int
    num_pairs: int
    num_within_pairs: int
    excluded: dict[str, int]
    confidence: float


def summarize(
    runs: pd.DataFrame,
    by: Sequence[str],
    means: Mapping[str, tuple[float | int, float | int]],
    geometric_means: Sequence[str] = (),
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return one row for each group of equal `by`, in order of first appearance.

    Columns: `by`; runs, converged, diverged (counts; converged is missing without a rule for it);
    for each of `means`, which has the range of each, the `mean_interval`: NAME_mean, NAME_low,
    NAME_high; for each of `geometric_means` the `geometric_mean_interval`: NAME_geomean, NAME_low,
    NAME_high; and, where `runs` has NAME_finished, the number NAME_unfinished of values that are
    not. Diverged runs and unfinished values are counted and enter no mean, unconverged runs do.
    Raises ValueError for a column that `runs` lacks, and for flags other than true and false.
    """
    by, names = list(by), [*means, *geometric_means]
    _check_columns(runs, [*by, *names, "converged", "diverged"])
    columns = [*by, "runs", "converged", "diverged"]
    for name in names:
        mean = f"{name}_{'mean' if name in means else 'geomean'}"
        columns += [mean, f"{name}_low", f"{name}_high"]
        columns += [f"{name}_unfinished"] if f"{name}_finished" in runs else []
    rows = []
    for key, group in runs.groupby(by, sort=False, dropna=False):
        diverged, known = flags(group, "diverged"), group["converged"].notna()
        converged = flags(group, "converged", missing=False)
        row: list = [*key, len(group), int(converged.sum()) if known.any() else pd.NA]
        row += [int(diverged.sum())]
        for name in names:
            out = unfinished(group, name)
            values = group.loc[~diverged & ~out, name]
            if name in means:
                interval = mean_interval(values, confidence, within=means[name])
            else:
                interval = geometric_mean_interval(values, confidence)
            row += interval[:3]
            row += [int(out.sum())] if f"{name}_finished" in runs else []
        rows.append(row)
    return pd.DataFrame(rows, columns=columns).astype({"converged": "Int64"})


def unfinished(runs: pd.DataFrame, name: str) -> Bool[np.ndarray, " n"]:
    """Which runs that did not diverge have a value of `name` that its measure did not finish.

    None in a table without the column NAME_finished, and none where that is missing.
    """
    if f"{name}_finished" not in runs:
        return np.zeros(len(runs), dtype=bool)
    return ~flags(runs, f"{name}_finished", missing=True) & ~flags(runs, "diverged")


def usable(runs: pd.DataFrame, columns: Sequence[str]) -> Usable:
    """Split runs into those that may enter a correlation of `columns` and those left out.

    A run is left out as "diverged"; or else as "unconverged", for what it was measured at is no
    minimum; or else as "unfinished", if for one of `columns`, NAME, there is a column NAME_finished
    that is false: an eigenvalue that stopped at the product limit, an infimum that no rescaling
    attains; or else as "not finite", if one of `columns` is NaN or infinite. The first reason
    counts. A study in which nothing converged therefore has no correlation: `counts` says so. Where
    `converged` is missing there was no rule: all runs ended after equal epochs, and none is left
    out for that. Raises ValueError for a column that `runs` lacks, and for flags other than true
    and false.
    """
    _check_columns(runs, [*columns, "converged", "diverged"])
    finite = np.isfinite(runs[list(columns)].to_numpy(dtype=np.float64)).all(axis=1)
    diverged, unconverged = flags(runs, "diverged"), ~flags(runs, "converged", missing=True)
    stopped = np.any([unfinished(runs, name) for name in columns], axis=0)
    reason = np.select([diverged, unconverged, stopped, ~finite], REASONS, default="")
    out = reason != ""
    return Usable(runs[~out], with_columns(runs[out], {"reason": reason[out]}))


def targets(runs: pd.DataFrame, name: str) -> Float[np.ndarray, " n"]:
    """A column in float64; gaps of accuracies that differ by rounding alone are equal.

    An accuracy is a fraction in float32: 2/3 - 1/3 and 1/3 - 0 are not the same number there, and
    would be no tie. Of 60,000 and 10,000 examples those that differ do by 1.7e-5.
    """
    values = runs[name].to_numpy(dtype=np.float64)
    if name != "gap" or not set(ACCURACIES) <= set(runs) or not len(values):
        return values
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    place = np.concatenate([[0], np.cumsum(np.diff(ranked) > SINGLE)])
    equal = np.empty(len(values))
    equal[order] = ranked[np.searchsorted(place, place)]
    return equal


def with_columns(table: pd.DataFrame, columns: Mapping[str, Any]) -> pd.DataFrame:
    """The table with these columns at its end, in the place of those of their names.

    All at once: pandas warns of columns that are added to a wide table one by one.
    """
    kept = table.drop(columns=[name for name in columns if name in table])
    return pd.concat([kept, pd.DataFrame(dict(columns), index=table.index)], axis=1)


def correlation(
    runs: pd.DataFrame,
    x: str,
    y: str,
    groups: Sequence[str],
    *,
    seeds: str | None = "seed",
    confidence: float = 0.95,
) -> Correlation:
    """Return rank correlations of two columns over the usable runs, raw and within groups.

        tau_b = sum_ij s_ij t_ij / sqrt(sum_ij s_ij^2  sum_ij t_ij^2),
        s_ij = sign(x_i - x_j),    t_ij = sign(y_i - y_j)

    Raw: over all pairs. Within: the same three sums over the pairs whose runs agree in all columns
    of `groups` (the hyper-parameters: all that varies but the seed), so groups count by their
    pairs. A raw coefficient that vanishes within groups is a difference between hyper-parameters,
    and says nothing about runs that differ by the seed alone. Spearman is the Pearson coefficient
    of mid-ranks. NaN where one column is constant (within groups: in each group) or pairs are
    fewer than two.

    Intervals: jackknife, with the group (one configuration with all its seeds) as the unit, for
    runs of one group are not independent. Runs of equal `seeds` share initial weights and order of
    the data in every group, so the seed is a unit too (two-way clusters):

        V = V_groups + max(V_seeds - V_runs, 0),    V_u = (n_u - 1)/n_u sum_i (c_-i - mean c_-)^2,
        sin(arcsin c +- t sqrt(V / (1 - c^2))),     t of Satterthwaite's degrees of freedom

    with c_-i the coefficient without the i-th of n_u units. `seeds` is the column that tells them,
    None if runs of different groups share nothing. There is no interval, and `remark` says why,
    with fewer than 8 groups, 16 runs, 24 pairs within groups, or, where groups share seeds, 3 seeds
    (within groups: 5; with a single seed for all, a raw interval speaks of that seed); and for
    coefficients of +-1 or without spread. Pearson's has none: with a log-normal column, intervals
    made in this way covered it in as few as 79 % of 500 tables.

    Coverage of 95 % intervals, simulated (`experiments/intervals.py`), smallest to largest over
    relations from none, with strong effects of configurations and seeds, to a tau of 0.59; in
    brackets what is not printed:

        seeds  groups x runs         raw              within             Spearman
        own     12 x 1         (95.7 to 98.0)                           (94.0 to 96.5)
        own     16 x 1          95.2 to 96.7                             94.2 to 95.9
        own      8 x 2          94.8 to 96.3       (99.8 to 100.0)       93.0 to 95.7
        own     24 x 2          94.5 to 96.2         96.8 to 98.0        94.2 to 95.9
        own      6 x 3         (93.8 to 95.9)       (96.8 to 99.0)      (90.8 to 94.6)
        own      8 x 3          95.1 to 96.0         95.0 to 96.5        93.2 to 95.3
        own     12 x 3          94.7 to 95.5         93.4 to 95.5        94.2 to 94.8
        own      8 x 5          94.0 to 95.5         94.8 to 95.7        93.3 to 95.5
        shared  12 x 2         (83.9 to 95.9)       (61.5 to 97.4)      (82.2 to 95.5)
        shared   8 x 3          93.8 to 96.1        (94.8 to 99.3)       92.8 to 95.2
        shared  12 x 3          93.7 to 96.0        (94.6 to 97.6)       93.5 to 95.7
        shared  24 x 3          93.7 to 95.2        (95.3 to 98.2)       93.3 to 95.2
        shared  12 x 4          93.1 to 95.1        (91.8 to 97.5)       92.7 to 95.0
        shared   8 x 5          92.8 to 95.0         91.8 to 97.6        91.9 to 94.7
        shared  12 x 5          92.5 to 94.8         92.2 to 97.0        91.9 to 94.8
        shared  8 x 10          93.2 to 94.8         92.1 to 96.5        92.8 to 94.7

    Cost: (groups + seeds + runs) x runs^2 multiplications for each of eight sums. Raises ValueError
    for a column that `runs` lacks, and no `groups`.

    References: Arvesen (1969), Ann. Math. Stat. 40, 2076-2100; Cameron, Gelbach and Miller (2011),
    J. Bus. Econ. Stat. 29, 238-249; Satterthwaite (1946), Biometrics Bull. 2, 110-114.
    """
    if not groups:
        raise ValueError("groups is empty; name the columns of the hyper-parameters")
    _check_columns(runs, [x, y, *groups])
    if seeds is not None and seeds not in runs.columns:
        raise ValueError(
            f"no column {seeds!r} of seeds in the table; name it by `seeds`, or pass None if runs "
            "of different groups share nothing"
        )
    check_confidence(confidence)
    split = usable(runs, [x, y])
    xs, ys = split.kept[x].to_numpy(dtype=np.float64), targets(split.kept, y)
    group, seed = (_labels(split.kept, names) for names in (groups, seeds and [seeds]))
    kept = coefficients.Runs(xs, ys, group, seed)
    return Correlation(
        raw=coefficients.kendall(kept, confidence),
        within=coefficients.kendall_within(kept, confidence),
        pearson=coefficients.pearson(kept),
        spearman=coefficients.spearman(kept, confidence),
        num_runs=len(xs),
        num_pairs=len(xs) * (len(xs) - 1) // 2,
        num_within_pairs=coefficients.num_pairs(coefficients.same_group(group)),
        excluded=split.counts,
        confidence=confidence,
    )


def correlation_table(correlations: dict[str, Correlation], target: str) -> pd.DataFrame:
    """One row a measure: coefficients, their intervals or why there is none, and counts of runs."""
    rows = []
    for name, found in correlations.items():
        row: dict[str, Any] = {"measure": name, "target": target, "runs": found.num_runs}
        for kind in ("raw", "within", "pearson", "spearman"):
            value, low, high, remark = getattr(found, kind)
            row |= {kind: value, f"{kind}_low": low, f"{kind}_high": high}
            row[f"{kind}_remark"] = remark
        rows.append(row | {f"excluded {reason}": n for reason, n in found.excluded.items()})
    return pd.DataFrame(rows)


def _labels(runs: pd.DataFrame, names: Sequence[str] | None) -> Int[np.ndarray, " n"] | None:
    """Numbers that are equal where all columns of `names` are, NaN included."""
    if names is None:
        return None
    return runs.groupby(list(names), sort=False, dropna=False).ngroup().to_numpy()


def flags(runs: pd.DataFrame, name: str, missing: bool | None = None) -> Bool[np.ndarray, " n"]:
    """A column of true and false, or 1 and 0; ValueError for another, as every text is true."""
    found = runs[name].astype(object)
    if missing is not None:
        found = found.where(found.notna(), missing)
    numbers = (bool, int, float, np.bool_, np.number)
    for flag in found:
        if not (isinstance(flag, numbers) and flag in (0, 1)):
            raise ValueError(f"column {name!r} holds {flag!r}; it must be True or False")
    return found.to_numpy(dtype=bool)


def _check_columns(table: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise ValueError(f"no column {missing} in the table; it has {list(table.columns)}")
