"""What the figures of a page are drawn from: columns of the runs of all studies, and curves."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxsharp.analysis.comparisons import GAPS, LABELS
from jaxsharp.analysis.looks import words
from jaxsharp.analysis.page.cells import number, numbers
from jaxsharp.analysis.page.study import Study
from jaxsharp.analysis.statistics import unfinished, with_columns

# Columns of a table of runs, measures apart; of the last ones those that differ are shown.
RUN = ("dataset", "model", "optimizer", "sam", "average", "configuration")
RESULTS = (*GAPS, "test_accuracy", "train_accuracy", "train_loss", "test_loss")
SETTINGS = (
    *("rho", "momentum", "weight_decay", "decoupled_weight_decay", "learning_rate"),
    *("batch_size", "label_noise", "epochs", "seed"),
)
ALWAYS = ("optimizer", "sam", "ended", *RESULTS)
MOST_NUMBERS = 120_000  # of all curves of a page
FEWEST_EPOCHS = 10  # of a curve
DIGITS = 4  # of a curve


def all_runs(studies: Sequence[Study]) -> pd.DataFrame:
    """The runs of all studies, a row a run: what it is, how it ended, results, measures."""
    tables = [runs_of(study) for study in studies]
    runs = pd.concat(tables, ignore_index=True)
    for name in [name for name in runs if name.endswith("_unfinished")]:
        runs[name] = runs[name].eq(True)  # of a study without the measure
    return runs


def check_runs(runs: pd.DataFrame, axes: Sequence[str], measures: Sequence[str]) -> None:
    """Raise ValueError for a run that stands twice, or a column of numbers that has another."""
    keys = runs[[*axes, "seed"]]
    if keys.duplicated().any():
        twice = ", ".join(map(str, keys[keys.duplicated()].iloc[0]))
        raise ValueError(f"the run {twice} stands twice in the table")
    for name in (*SETTINGS, *RESULTS, *measures):
        if name in runs:
            numbers(runs, name)


def check_history(history: pd.DataFrame, axes: Sequence[str]) -> None:
    """Raise ValueError for epochs that are none, or a curve that has another than numbers."""
    epochs = numbers(history, "epoch")
    wrong = epochs[~(epochs % 1 == 0)]
    if len(wrong):
        raise ValueError(f"column epoch holds {wrong.iloc[0]}; it must hold whole numbers")
    for name in history:
        if name not in axes:
            numbers(history, name)


def runs_of(study: Study) -> pd.DataFrame:
    """Those of one study."""
    runs, measures = study.result.runs, list(study.result.correlations)
    check_runs(runs, study.axes, measures)
    names = [name for name in dict.fromkeys((*RUN, *study.axes)) if name in runs]
    found = {name: runs[name] for name in names if name not in SETTINGS}
    converged = runs["converged"].eq(True)
    ended = np.where(runs["converged"].isna(), "last epoch", "unconverged")
    ended = np.where(converged, "converged", ended)
    found["ended"] = np.where(runs["diverged"].eq(True), "diverged", ended)
    for name in ("seed", *measures, *RESULTS, *SETTINGS):
        if name in runs:
            found[name] = numbers(runs, name)
    for name in measures:
        found[f"{name}_unfinished"] = unfinished(runs, name)
        if f"{name}_error" in runs:
            found[f"{name}_error"] = numbers(runs, f"{name}_error")
    return pd.DataFrame({"study": study.name, **found}, index=runs.index)


def columns(
    runs: pd.DataFrame, measures: Sequence[str], axes: Iterable[str]
) -> list[dict[str, Any]]:
    """The columns that a reader may choose: those that differ between runs, and results.

    Labels, by which runs are coloured and filtered, are what is no number, ``axes``, and the seed.
    """
    own = {f"{name}_{part}" for name in measures for part in ("unfinished", "error")}
    found = []
    for name in runs:
        if name in own or not (
            name in (*ALWAYS, *measures) or runs[name].nunique(dropna=False) > 1
        ):
            continue
        kind = "measure" if name in measures else "result" if name in RESULTS else "setting"
        number = name in (*measures, *RESULTS, *SETTINGS)
        found.append(
            {
                **{"name": name, "words": words(name), "kind": kind, "number": number},
                "label": not number or name in (*axes, "seed"),
                "long": LABELS.get(name, GAPS.get(name, words(name))).replace("\n", " "),
            }
        )
    return found


def curves(studies: Sequence[Study]) -> dict[str, Any]:
    """The curves of all runs in the order of `all_runs`, None for a run without.

    With more than `MOST_NUMBERS` numbers every run keeps so many epochs, at equal distances, that
    they are about as many; ``epochs`` is how many, 0 if all are there.
    """
    found = [each for study in studies for each in histories(study)]
    drawn = [each for each in found if each is not None]
    names = list(dict.fromkeys(name for each in drawn for name in each if name != "epoch"))
    most = 0
    if sum(map(len, drawn)) * (len(names) + 1) > MOST_NUMBERS:
        most = max(MOST_NUMBERS // (len(drawn) * (len(names) + 1)), FEWEST_EPOCHS)
    runs: list[Any] = [None if each is None else curves_of(each, names, most) for each in found]
    return {"names": names, "runs": runs, "epochs": most}


def histories(study: Study) -> Iterator[pd.DataFrame | None]:
    """The history of each run of a study, epoch and what is followed; None where there is none."""
    keys = [*study.axes, "seed"]
    runs = study.result.runs[keys]
    if study.history is None:
        yield from [None] * len(runs)
        return
    check_history(study.history, study.axes)
    followed = [name for name in study.history if name not in keys]
    table = runs.assign(_run=np.arange(len(runs))).merge(study.history, on=keys)
    table = with_columns(table, {name: numbers(table, name) for name in followed})
    parts = {run: part[followed].sort_values("epoch") for run, part in table.groupby("_run")}
    yield from (parts.get(run) for run in range(len(runs)))


def curves_of(history: pd.DataFrame, names: Sequence[str], most: int) -> list[Any]:
    """Epochs of a run, and a list of values for each of ``names``, None for one that it lacks."""
    if most and len(history) > most:
        places = np.linspace(0, len(history) - 1, most).round().astype(int)
        history = history.iloc[places]
    values = [
        [number(value, DIGITS) for value in history[name]]
        if name in history and history[name].notna().any()
        else None
        for name in names
    ]
    return [history["epoch"].astype(int).tolist(), *values]
