"""Tables of many columns, read from files: nothing warns, and nothing else than in narrow ones."""

import io

import numpy as np
import pandas as pd
import pytest

from jaxsharp import analysis
from jaxsharp.analysis.page.runs import runs_of
from tests.pages import MEASURES, many_runs, study_of


@pytest.fixture(scope="module")
def narrow():
    return many_runs(optimizers=("sgd", "adam"), rates=(0.1, 0.01), seeds=5)


@pytest.fixture(scope="module")
def wide(narrow):
    """The same with 60 more measures, from a file, where pandas keeps columns apart."""
    rng = np.random.default_rng(0)
    more = {f"m{i}": rng.lognormal(size=len(narrow)) for i in range(60)}
    errors = {f"{name}_error": values / 9 for name, values in more.items()}
    text = pd.concat([narrow, pd.DataFrame(more | errors)], axis=1).to_csv(index=False)
    return pd.read_csv(io.StringIO(text))


AXES = ("optimizer", "sam", "learning_rate")


def test_what_enters_a_correlation(narrow, wide):
    found = [analysis.usable(runs, ["gap"]) for runs in (narrow, wide)]
    assert found[0].counts == found[1].counts and len(found[1].kept) == len(found[0].kept)
    assert list(found[1].excluded["reason"]) == list(found[0].excluded["reason"])


@pytest.mark.slow
def test_evaluation_and_figure(narrow, wide):
    options = {"target": "gap", "hyper": AXES, "seed": "seed", "loss": "train_loss"}
    options |= {"converged": "converged", "rounds": 99}
    tables = [analysis.evaluate(t, measures=MEASURES, **options).table for t in (narrow, wide)]
    pd.testing.assert_frame_equal(*tables)
    found = {name: analysis.correlation(wide, name, "gap", AXES) for name in MEASURES}
    analysis.sharpness_against_gap(wide, MEASURES, found, AXES)


@pytest.mark.slow
def test_the_runs_of_a_page(wide):
    measures = [name for name in wide if f"{name}_error" in wide]
    table = runs_of(study_of(wide, AXES, measures, epochs=2))
    assert table.columns[0] == "study"
    assert {f"{name}_unfinished" for name in measures} <= set(table)
