"""Runs that a table has more than once, and runs that nothing but their values tells apart."""

import numpy as np
import pandas as pd
import pytest

from jaxsharp.analysis.evaluation.at_losses import evaluate_at_losses
from tests.analysis.evaluation.test_evaluation_table import NAN, evaluate, table

SHARED = "with hyper-parameters and seed of another; they count as if the seed differed"


def notes(runs, **options):
    return [note for note in evaluate(runs, measures=["x"], **options).notes if SHARED in note]


@pytest.mark.parametrize("change", [{}, {"x": lambda runs: runs["x"].mask(runs.index == 0)}])
def test_a_run_counts_once(change):
    """A folder that is named twice, say, whose pairs within configurations would all be doubled."""
    runs = table().assign(**change)
    twice = pd.concat([runs, runs.iloc[[3, 0, 7]]])
    text = r"^row 46 is row 4 once more, as 3 of 48 rows are others; each run must be there once$"
    with pytest.raises(ValueError, match=text):
        evaluate(twice)
    assert evaluate(twice, seed=None).table["runs"].max() == 48  # of runs that share nothing
    assert not notes(runs)


def test_diverged_runs_are_not_taken_for_one():
    runs = table().assign(more=np.arange(45) % 2)
    lost = runs["seed"] == 0
    runs = runs.assign(diverged=lost)
    runs.loc[lost, ["x", "z", "gap", "train_loss"]] = NAN
    found = evaluate(pd.concat([runs, runs[lost]]))
    assert found.table["diverged"].max() == 18


@pytest.mark.slow
@pytest.mark.parametrize("again", [1, 4])
def test_runs_that_share_hyper_parameters_and_seed_are_told(again):
    runs = table()
    others = runs.iloc[:again].assign(x=1.0, epochs=7)
    (note,) = notes(pd.concat([runs.assign(epochs=5), others]))
    assert note.startswith(f"{again} run{'s' * (again > 1)} {SHARED}")
    assert not notes(pd.concat([runs.assign(epochs=5), others]), hyper=["rate", "name", "epochs"])
    assert not notes(pd.concat([runs.assign(epochs=5), others]), seed=None)


@pytest.mark.parametrize("missing", [NAN, None])
def test_a_run_without_a_word_on_a_loss_did_not_come_below_it(missing):
    """As where tables of other losses were joined."""
    below = pd.Series([True] * 30 + [False] * 5 + [missing] * 10, dtype=object)
    options = {"measures": ["x"], "target": "gap", "hyper": ["rate", "name"], "seed": "seed"}
    (found,) = evaluate_at_losses(table().assign(**{"first_below_0.1": below}), **options)
    assert found.title == "Training loss below 0.1: 30 of 45 runs"
