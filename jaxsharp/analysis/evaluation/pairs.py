"""Coefficients of pairs that differ in one hyper-parameter, and of signs given hyper-parameters."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxsharp.analysis.evaluation.samples import Sample

LEAST_PAIRS = 9
"""Pairs that an environment has at least: three seeds with three."""
NAN = float("nan")


class Granulated(NamedTuple):
    """The mean over hyper-parameters, and the coefficient of each; NaN where it has no pair."""

    value: float
    each: tuple[float, ...]


class Worst(NamedTuple):
    """The largest sign error of an environment, which one that is, and what it is chosen from.

    `hyper` is the place of the hyper-parameter that differs, `runs` one run of each configuration;
    `environments` have pairs enough, `noisy` pairs were left out of `pairs`.
    """

    error: float
    hyper: int
    runs: tuple[int, int]
    environments: int
    pairs: int
    noisy: int


def granulated(sample: Sample) -> Granulated:
    """Return the granulated coefficient Psi.

        psi_h = mean over sets of  sum_ij s_ij t_ij / number of pairs,    Psi = mean_h psi_h

    with the signs s and t of the differences of measure and target, 0 for ties. A set of h has the
    runs that agree in the seed and in all hyper-parameters but h; its pairs differ in h.

    Reference: Jiang et al. (2020), Fantastic generalization measures and where to find them, ICLR,
    equations 4 and 5 (without seeds).
    """
    s, t = sample.runs.signs
    upper = np.triu(np.ones(s.shape, dtype=bool), 1)
    if sample.runs.seed is not None:
        upper &= sample.runs.seed[:, None] == sample.runs.seed[None, :]
    each = []
    for i in range(len(sample.settings)):
        pairs = sample.pairs(i) & upper
        rows, columns = np.nonzero(pairs)
        sets = sample.others[i][rows]
        if sample.runs.seed is not None:
            sets = sets * len(sample.runs.x) + sample.runs.seed[rows]
        agree = s[rows, columns] * t[rows, columns]
        each.append(float(np.mean(_means(agree, sets)[0])) if len(rows) else NAN)
    known = [value for value in each if value == value]
    return Granulated(float(np.mean(known)) if known else NAN, tuple(each))


def worst_environment(sample: Sample, noise: float) -> Worst:
    """Return the largest sign error over environments.

        1/2 (1 - mean of s_ij t_ij)

    An environment is two configurations that differ in one hyper-parameter; its pairs are all runs
    of the one with all runs of the other. Pairs whose targets differ by `noise` or less are left
    out, and so are environments with fewer than `LEAST_PAIRS` pairs then. A constant measure has
    0.5, a coin tossed for each environment nearly 1: compare with the control.

    Reference: Dziugaite et al. (2020), In search of robust measures of generalization, NeurIPS.
    There pairs have weights by Hoeffding's bound on the noise, and 12 effective pairs are needed.
    """
    (s, t), y, group = sample.runs.signs, sample.runs.y, sample.runs.group
    upper = np.triu(np.ones(s.shape, dtype=bool), 1)
    quiet = np.abs(y[:, None] - y[None, :]) > noise
    found = Worst(NAN, -1, (-1, -1), 0, 0, 0)
    for i in range(len(sample.settings)):
        pairs = sample.pairs(i) & upper
        rows, columns = np.nonzero(pairs & quiet)
        total = int(pairs.sum())
        found = found._replace(pairs=found.pairs + total, noisy=found.noisy + total - len(rows))
        low, high = np.sort([group[rows], group[columns]], axis=0)
        means, counts, first = _means(s[rows, columns] * t[rows, columns], low * len(y) + high)
        errors = np.where(counts >= LEAST_PAIRS, (1 - means) / 2, -np.inf)
        found = found._replace(environments=found.environments + int((counts >= LEAST_PAIRS).sum()))
        if len(errors) and errors.max() > (found.error if found.hyper >= 0 else -np.inf):
            at = first[errors.argmax()]
            ends = (int(rows[at]), int(columns[at]))
            found = found._replace(error=float(errors.max()), hyper=i, runs=ends)
    return found


def conditional_information(sample: Sample) -> float:
    """Return the smallest normalized information of the signs of measure and target.

        min over S of  I(s; t | U_S) / H(t | U_S),    S: at most two hyper-parameters

    over all ordered pairs of runs whose targets differ; U_S are the values of S in both runs, s has
    the third value 0 for ties. Conditional means weigh each U_S by its pairs. Sets with H = 0 are
    passed over. Where a U_S has few pairs it is biased upwards, for any measure: compare with the
    random control.

    Reference: Jiang et al. (2020), section 2.2.3.
    """
    s, t = sample.runs.signs
    rows, columns = np.nonzero(t)
    joint = ((s + 1) * 2 + (t > 0)).astype(np.int64)[rows, columns]
    hyper = range(len(sample.settings))
    found = []
    for size in range(min(len(hyper), 2) + 1):
        for chosen in itertools.combinations(hyper, size):
            given = np.zeros(len(rows), dtype=np.int64)
            for code in sample.settings[list(chosen)]:
                given = (given * len(code) + code[rows]) * len(code) + code[columns]
            found.append(_normalized_information(given, joint))
    return min((value for value in found if value == value), default=NAN)


def _normalized_information(given: Int[np.ndarray, " p"], joint: Int[np.ndarray, " p"]) -> float:
    """I(s; t | U) / H(t | U) of pairs; `joint` numbers s (3 values) and t (2 values)."""
    names, cell = np.unique(given, return_inverse=True)
    counts = np.bincount(cell * 6 + joint, minlength=6 * len(names)).reshape(-1, 3, 2)
    of_both, of_s, of_t, of_none = (
        _negative_entropy(counts),
        _negative_entropy(counts.sum(axis=2)),
        _negative_entropy(counts.sum(axis=1)),
        _negative_entropy(counts.sum(axis=(1, 2))),
    )
    entropy = of_none - of_t
    return (of_both - of_s - of_t + of_none) / entropy if entropy > 1e-9 * len(given) else NAN


def _negative_entropy(counts: Int[np.ndarray, "..."]) -> float:
    """Sum of n log n."""
    return float((counts * np.log(np.maximum(counts, 1))).sum())


def _means(
    values: Float[np.ndarray, " p"], labels: Int[np.ndarray, " p"]
) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Mean of the values of each label, their number, and where the label first stands."""
    _, first, place, counts = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    return np.bincount(place, values, minlength=len(counts)) / counts, counts, first
