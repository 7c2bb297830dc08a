"""How often do the intervals of the analysis cover the truth?

    python experiments/intervals.py

Tables of runs whose population coefficients are known, many of each kind, through
`jaxsharp.analysis`: how often is the coefficient inside its interval, which says 95 %? A column is
the sum of effects of the configuration, of the seed, and of the run, all normal, and in two columns
each effect has a correlation of its own; rank coefficients of any monotone functions of such
columns are the same. With u, s, e the effects' shares of the variance of x, u', s', e' of y, and
the correlations a, b, c, runs of different configuration and seed have correlation
r = a sqrt(u u') + b sqrt(s s') + c sqrt(e e'), those of one configuration
(b sqrt(s s') + c sqrt(e e')) / sqrt((s + e)(s' + e')); tau is 2/pi arcsin r, Spearman's coefficient
6/pi arcsin(r / 2). Where no interval would be printed the rule is lifted, and the row says so.

Means: as many values as seeds, of several distributions; of positive ones the geometric mean, whose
population value is exp(E log v). Four minutes on two cores; `--smoke` takes seconds.
"""

import functools
import itertools
import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import tyro
from coverage_page import configuration, page
from scipy import stats

from jaxsharp.analysis import coefficients, geometric_mean_interval, mean_interval, means


class Relation(NamedTuple):
    """Shares of configuration, seed and run in the variances of x and y; correlations of each."""

    x: tuple[float, float, float]
    y: tuple[float, float, float]
    correlations: tuple[float, float, float]

    def truth(self, name: str) -> float:
        """Population value of a coefficient."""
        common = np.sqrt(np.multiply(self.x, self.y)) * self.correlations
        if name == "within":
            shares = sum(self.x[1:]) * sum(self.y[1:])
            return 2 / np.pi * np.arcsin(sum(common[1:]) / np.sqrt(shares))
        r = sum(common)
        return {"raw": 2 * np.arcsin(r), "spearman": 6 * np.arcsin(r / 2)}[name] / np.pi


OWN = {
    "none": Relation((0.8, 0, 0.2), (0.8, 0, 0.2), (0, 0, 0)),
    "none, configurations rule": Relation((0.98, 0, 0.02), (0.98, 0, 0.02), (0, 0, 0)),
    "of configurations": Relation((0.8, 0, 0.2), (0.8, 0, 0.2), (0.6, 0, 0)),
    "of runs": Relation((0.5, 0, 0.5), (0.5, 0, 0.5), (0.5, 0, 0.5)),
    "of runs, strong": Relation((0.5, 0, 0.5), (0.5, 0, 0.5), (0.8, 0, 0.8)),
    "opposite": Relation((0.7, 0, 0.3), (0.7, 0, 0.3), (0.8, 0, -0.5)),
}
SHARED = {
    "none": Relation((0.8, 0, 0.2), (0.8, 0, 0.2), (0, 0, 0)),
    "none, seeds in y": Relation((0.9, 0.02, 0.08), (0.1, 0.7, 0.2), (0, 0, 0)),
    "none, seeds in both": Relation((0.5, 0.25, 0.25), (0.5, 0.25, 0.25), (0, 0, 0)),
    "none, seeds rule": Relation((0.5, 0.45, 0.05), (0.5, 0.45, 0.05), (0, 0, 0)),
    "of all": Relation((0.5, 0.25, 0.25), (0.5, 0.25, 0.25), (0.5, 0.5, 0.5)),
    "of all, strong": Relation((0.5, 0.25, 0.25), (0.5, 0.25, 0.25), (0.8, 0.8, 0.8)),
    "opposite": Relation((0.6, 0.1, 0.3), (0.6, 0.1, 0.3), (0.8, 0, -0.5)),
}
RELATIONS = {"own": OWN, "shared": SHARED}
SHAPES = {
    "own": [
        *((8, 1), (12, 1), (16, 1), (8, 2), (12, 2), (24, 2)),
        *((4, 3), (6, 3), (8, 3), (12, 3), (24, 3), (4, 5), (8, 5)),
    ],
    "shared": [
        *((12, 2), (4, 3), (6, 3), (8, 3), (12, 3), (24, 3)),
        *((8, 4), (12, 4), (4, 5), (8, 5), (12, 5), (8, 10)),
    ],
}
SMOKE = {"own": [(8, 3)], "shared": [(8, 5)]}
COEFFICIENTS = {
    "raw": coefficients.kendall,
    "within": coefficients.kendall_within,
    "spearman": coefficients.spearman,
}
LEAST = [
    *((coefficients, f"MIN_{of}") for of in ("GROUPS", "RUNS", "PAIRS", "SEEDS", "SEEDS_WITHIN")),
    (means, "MIN_VALUES"),
]


def counts(mean: float, deviation: float) -> stats.rv_discrete:
    """Right answers of 360, normal but for rounding."""
    ends = stats.norm(mean, deviation).cdf(np.arange(362) - 0.5)
    return stats.rv_discrete(values=(np.arange(361), np.diff(ends)))


# Of accuracies the mean is covered, of positive quantities the geometric mean.
MEANS = {
    "mean": {
        "normal": stats.norm(0.9, 0.01),
        "uniform": stats.uniform(0.85, 0.1),
        "324 of 360, binomial": stats.binom(360, 0.9),
        "355 of 360, binomial": stats.binom(360, 355 / 360),
        **{f"324 of 360, deviation {d}": counts(324, d) for d in (1, 2)},
        "errors log-normal, 0.3": stats.lognorm(0.3),
        "errors log-normal, 0.5": stats.lognorm(0.5),
    },
    "geometric mean": {
        **{f"log-normal, {sigma:g}": stats.lognorm(sigma) for sigma in (0.3, 0.5, 1.0, 1.5)},
        **{f"normal, {d:g} of mean": stats.truncnorm(-1 / d, np.inf, 1, d) for d in (0.1, 0.3)},
        "uniform, 1 to 3": stats.uniform(1, 2),
        "gamma, shape 4": stats.gamma(4),
        "Poisson, 20": stats.poisson(20),
    },
}
INTERVALS = {"mean": mean_interval, "geometric mean": geometric_mean_interval}


def intervals(
    *, out: Path = Path("runs/intervals"), tables: int = 2000, seed: int = 0, smoke: bool = False
) -> None:
    """Simulate, and write coverage.csv, config.json and README.md.

    Args:
        out: Folder of the tables.
        tables: Tables of each kind.
        seed: Seed of all draws.
        smoke: Two shapes and 200 tables of each kind.
    """
    begin = time.monotonic()
    shapes, tables = (SMOKE, 200) if smoke else (SHAPES, tables)
    kinds = [
        (seeds, shape, relation)
        for seeds in shapes
        for shape, relation in itertools.product(shapes[seeds], RELATIONS[seeds])
    ]
    with ProcessPoolExecutor(2) as pool:
        jobs = [
            pool.submit(correlation_rows, *kind, tables, [seed, i]) for i, kind in enumerate(kinds)
        ]
        rows = [row for job in jobs for row in job.result()]
    averages = [(kind, name) for kind, names in MEANS.items() for name in names]
    for i, (mean, num) in enumerate(itertools.product(averages, (2, 3, 5, 10))):
        rows.append(mean_row(*mean, num, tables, [seed, len(kinds) + i]))
    table = pd.DataFrame(rows)
    command = f"python experiments/intervals.py --tables {tables} --seed {seed}{' --smoke' * smoke}"
    config = configuration(command, time.monotonic() - begin)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "coverage.csv", index=False)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "README.md").write_text(page(table, config, tuple(COEFFICIENTS)))
    print((out / "README.md").read_text())


def correlation_rows(
    seeds: str, shape: tuple[int, int], relation: str, tables: int, key: list[int]
) -> list[dict]:
    """Coverage of every coefficient in tables of one shape and relation, a row each."""
    rng, kind = np.random.default_rng(key), RELATIONS[seeds][relation]
    group = np.repeat(np.arange(shape[0]), shape[1])
    seed = np.tile(np.arange(shape[1]), shape[0]) if seeds == "shared" else None
    xs, ys = draw(rng, kind, tables, *shape)
    rows = []
    for name, coefficient in COEFFICIENTS.items():
        if name == "within" and shape[1] == 1:
            continue
        needed = coefficient(coefficients.Runs(xs[0], ys[0], group, seed), 0.95).remark
        with lifted():
            found = [
                coefficient(coefficients.Runs(x, y, group, seed), 0.95)
                for x, y in zip(xs, ys, strict=True)
            ]
        found = [c for c in found if not c.remark]
        truth = kind.truth(name)
        rows.append(
            {
                "statistic": name,
                "groups": shape[0],
                "runs_per_group": shape[1],
                "seeds": seeds,
                "relation": relation,
                "truth": truth,
                "tables": tables,
                "with_interval": len(found),
                "coverage": np.mean([c.low <= truth <= c.high for c in found]) if found else None,
                "printed": "no" if needed.endswith("needed") or not found else "yes",
            }
        )
    return rows


def draw(
    rng: np.random.Generator, relation: Relation, tables: int, groups: int, runs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Columns x and y of tables: shape (tables, groups x runs), the runs of a group together."""
    x = y = np.zeros((tables, groups, runs))
    shapes = ((tables, groups, 1), (tables, 1, runs), (tables, groups, runs))
    for u, v, r, shape in zip(*relation, shapes, strict=True):
        first, second = rng.normal(size=(2, *shape))
        x = x + np.sqrt(u) * first
        y = y + np.sqrt(v) * (r * first + np.sqrt(1 - r**2) * second)
    return x.reshape(tables, -1), y.reshape(tables, -1)


class lifted:
    """A block in which intervals are given however few runs there are."""

    def __enter__(self):
        self.least = {(at, name): getattr(at, name) for at, name in LEAST}
        for at, name in LEAST:
            setattr(at, name, 2)

    def __exit__(self, *_):
        for (at, name), least in self.least.items():
            setattr(at, name, least)


@functools.cache
def population(kind: str, name: str) -> float:
    """What the interval of a mean should cover."""
    distribution = MEANS[kind][name]
    if kind == "mean":
        return distribution.mean()
    quantiles = distribution.ppf((np.arange(1_000_000) + 0.5) / 1_000_000)
    return np.exp(np.mean(np.log(quantiles)))


def mean_row(kind: str, name: str, num: int, tables: int, key: list[int]) -> dict:
    """Coverage of the interval of a mean of a number of values of a distribution."""
    interval, truth = INTERVALS[kind], population(kind, name)
    draws = MEANS[kind][name].rvs(size=(tables, num), random_state=np.random.default_rng(key))
    printed = not np.isnan(interval(np.arange(num) + 1.0).low)
    with lifted():
        found = [interval(values) for values in draws]
    found = [each for each in found if each.low < each.high]
    return {
        "statistic": kind,
        "runs_per_group": num,
        "relation": name,
        "truth": truth,
        "tables": tables,
        "with_interval": len(found),
        "coverage": np.mean([each.low <= truth <= each.high for each in found]),
        "printed": "yes" if printed else "no",
    }


if __name__ == "__main__":
    tyro.cli(intervals)
