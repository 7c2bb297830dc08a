"""The tables of a study on a page: means over seeds, correlations, evaluations."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from jaxsharp.analysis.looks import words
from jaxsharp.analysis.page.cells import cell, cells, interval
from jaxsharp.analysis.page.study import Study
from jaxsharp.analysis.results import StudyResult

MOST_ROWS = 1000  # of a table that is shown as it is
MEANS = (
    "Over the seeds of runs that did not diverge, with 95 % intervals where there are three values "
    "that differ; of measures geometric means. Gaps are positive where the training data look "
    "better than the test data."
)
CORRELATIONS = (
    "With 95 % intervals, or why there is none. Diverged and unconverged runs and unfinished "
    "values are left out. A coefficient that vanishes among runs of equal hyper-parameters is a "
    "difference between hyper-parameters."
)


def tables_of(study: Study) -> list[dict[str, Any]]:
    """The tables of a study, each with title, headings, rows of cells and a note."""
    shown = {
        "Evaluation": study.evaluation,
        "Evaluation at equal training losses": study.at_losses,
    }
    found = [as_it_is(title, one) for title, one in shown.items() if one is not None]
    return [means(study), correlations(study.result), *found]


def means(study: Study) -> dict[str, Any]:
    """One row a combination of hyper-parameters: how its runs ended, and means over seeds."""
    result = study.result
    test = {"gap": "test_accuracy", "loss_gap": "test_loss"}[result.gap]
    names = [test, result.gap, *result.correlations]
    counts = ["runs", *(["converged"] if result.summary["converged"].notna().any() else [])]
    counts += ["diverged"] if result.summary["diverged"].any() else []
    rows = []
    for row in result.summary.to_dict("records"):
        found = [cell(row[name]) for name in (*study.axes, *counts)]
        for name in names:
            kind = "mean" if f"{name}_mean" in row else "geomean"
            out = row.get(f"{name}_unfinished", 0)
            note = f"{out} unfinished" if out else ""
            found.append(interval(*(row[f"{name}_{k}"] for k in (kind, "low", "high")), note))
        rows.append(found)
    heads = [words(name) for name in (*study.axes, *counts, *names)]
    return table("Means over seeds", heads, rows, MEANS)


def correlations(result: StudyResult) -> dict[str, Any]:
    """One row a measure: its coefficients, and the counts of runs."""
    heads = ["measure", "runs", "Kendall's tau", "tau among equal hyper-parameters"]
    rows = []
    for name, found in result.correlations.items():
        kinds = (found.raw, found.within, found.spearman)
        out = ", ".join(f"{num} {reason}" for reason, num in found.excluded.items() if num)
        rows.append([words(name), found.num_runs, *(interval(*kind) for kind in kinds), out])
    title = f"Correlations with the {words(result.gap)}"
    return table(title, [*heads, "Spearman", "left out"], rows, CORRELATIONS)


def as_it_is(title: str, found: pd.DataFrame) -> dict[str, Any]:
    """A table as it is, up to a number of rows."""
    rows = found.head(MOST_ROWS)
    more = len(found) - len(rows)
    note = f"The first {len(rows)} rows; the file has {more} more." if more else ""
    columns = [cells(rows[name]) for name in rows]
    return table(title, [str(name) for name in rows], zip(*columns, strict=True), note)


def table(title: str, heads: Sequence[str], rows: Iterable[Iterable], note: str) -> dict[str, Any]:
    """A table as the script of the page reads it."""
    return {"title": title, "heads": heads, "rows": [list(row) for row in rows], "note": note}
