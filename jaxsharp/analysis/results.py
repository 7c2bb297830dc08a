"""What the table of a study's runs says: means over seeds, and correlations with the gap."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from jaxsharp.analysis.statistics import Correlation, correlation, summarize

# What means are taken of, and their ranges, by the gap that measures are compared with.
ANY = (-math.inf, math.inf)
RANGES = {
    "gap": {"train_accuracy": (0.0, 1.0), "test_accuracy": (0.0, 1.0), "gap": (-1.0, 1.0)},
    "loss_gap": {"train_loss": ANY, "test_loss": ANY, "loss_gap": ANY},
}


class StudyResult(NamedTuple):
    """Tables of a finished study; ``gap`` is the column that measures are compared with."""

    runs: pd.DataFrame
    summary: pd.DataFrame
    correlations: dict[str, Correlation]
    gap: str = "gap"


def study_result(runs: pd.DataFrame, axes: Sequence[str], measures: Sequence[str]) -> StudyResult:
    """Return `summarize` by the columns ``axes``, and the `correlation` of each measure.

    The gap is that of the accuracy, or of the loss where no run has an accuracy. Raises ValueError
    as those two do.
    """
    gap = "gap" if runs["gap"].notna().any() or runs["diverged"].all() else "loss_gap"
    summary = summarize(runs, axes, RANGES[gap], measures)
    correlations = {name: correlation(runs, name, gap, axes) for name in measures}
    return StudyResult(runs, summary, correlations, gap)
