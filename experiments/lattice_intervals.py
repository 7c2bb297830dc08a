"""Would a rule on the spread of accuracies make their intervals cover as often as they say?

    python experiments/lattice_intervals.py

Accuracies are whole numbers of right answers over the number of answers. Here their deviations are
0.3 to 30 answers and their means lie anywhere between two whole numbers: how often does Student's
interval (`analysis.mean_interval`) cover the mean, of the tables in which a rule would print it?
Rules: the values are not all equal; their range is more than 1, 2 or 4 answers; their deviation is
more than 1 or 2. Prints a table in Markdown, coverage in % and in brackets the share of tables with
an interval; nothing where that is less than 5 %. Ten seconds on one core.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tyro
from scipy import special

DEVIATIONS = (0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
RULES: dict[str, Callable] = {
    "not all equal": lambda values: np.ptp(values, 1) > 0,
    "range > 1": lambda values: np.ptp(values, 1) > 1,
    "range > 2": lambda values: np.ptp(values, 1) > 2,
    "range > 4": lambda values: np.ptp(values, 1) > 4,
    "deviation > 1": lambda values: np.std(values, 1, ddof=1) > 1,
    "deviation > 2": lambda values: np.std(values, 1, ddof=1) > 2,
}


def intervals(
    *, seeds: Sequence[int] = (3, 4, 5, 7, 10), tables: int = 40_000, seed: int = 0
) -> None:
    """Print the table.

    Args:
        seeds: Numbers of values.
        tables: Tables of each kind.
        seed: Seed of all draws.
    """
    rng = np.random.default_rng(seed)
    print(f"| seeds | printed if | {' | '.join(f'{d:g}' for d in DEVIATIONS)} |")
    print(f"|---|---|{'---|' * len(DEVIATIONS)}")
    for num in seeds:
        found = [coverage(rng, num, deviation, tables) for deviation in DEVIATIONS]
        for rule in RULES:
            cells = [
                f"{100 * covered:.1f} ({100 * share:.0f})" if share >= 0.05 else "-"
                for covered, share in (each[rule] for each in found)
            ]
            print(f"| {num} | {rule} | {' | '.join(cells)} |")


def coverage(
    rng: np.random.Generator, num: int, deviation: float, tables: int
) -> dict[str, tuple[float, float]]:
    """Of each rule: the share of its printed intervals that cover, and of tables with one."""
    center = rng.uniform(-0.5, 0.5, (tables, 1))
    values = np.rint(center + deviation * rng.normal(size=(tables, num)))
    whole = np.arange(-int(6 * deviation) - 2, int(6 * deviation) + 3)
    ends = [special.ndtr((whole + end - center) / deviation) for end in (-0.5, 0.5)]
    truth = (ends[1] - ends[0]) @ whole
    half = special.stdtrit(num - 1, 0.975) * np.std(values, 1, ddof=1) / np.sqrt(num)
    covered = np.abs(values.mean(1) - truth) <= half
    printed = {name: rule(values) for name, rule in RULES.items()}
    return {
        name: (float(covered[kept].mean()) if kept.any() else 0.0, float(kept.mean()))
        for name, kept in printed.items()
    }


if __name__ == "__main__":
    tyro.cli(intervals)
