"""What the pages of results say is what their tables have."""

import re
from pathlib import Path

import pandas as pd
import pytest

from jaxsharp.analysis import correlation, geometric_mean_interval

RESULTS = Path(__file__).parents[1] / "results"


def page(folder):
    """The text of a page, without its line breaks, and its table of runs."""
    text = (RESULTS / folder / "README.md").read_text()
    return re.sub(r"\s+", " ", text), pd.read_csv(RESULTS / folder / "runs.csv")


def printed(found):
    """A coefficient as pages have it."""
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def test_no_measure_follows_the_gap_within_a_level_of_noise():
    text, runs = page("random_labels")
    assert len(runs) == 55 and runs["converged"].all()
    for name, words in {
        "minimum_sharpness": "minimum sharpness",
        "hessian_trace": "Hessian trace",
        "top_eigenvalue": "top eigenvalue",
        "adaptive_perturbation": "adaptive perturbation",
        "parameter_norm": "parameter norm",
        "distance_from_initialization": "distance from initialization",
    }.items():
        found = correlation(runs, name, "gap", ["label_noise"])
        assert f"| {words} | {printed(found.raw)} | {printed(found.within)} |" in text
    taken = [name.removesuffix("_finished") for name in runs if name.endswith("_finished")]
    within = [correlation(runs, name, "gap", ["label_noise"]).within for name in taken]
    assert len(within) == 13 and all(each.low < 0 < each.high for each in within)
    of = runs.groupby("label_noise")["minimum_sharpness"]
    means = of.apply(lambda part: geometric_mean_interval(part).mean)
    assert means[0.0] == pytest.approx(17.9, abs=0.05)
    assert means[0.3:].between(28, 31).all()
