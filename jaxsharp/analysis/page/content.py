"""What the script of a page reads."""

from collections.abc import Sequence
from typing import Any

from jaxsharp.analysis import canvas
from jaxsharp.analysis.page.cells import cell, cells
from jaxsharp.analysis.page.headline import headline
from jaxsharp.analysis.page.runs import all_runs, columns, curves
from jaxsharp.analysis.page.study import Study
from jaxsharp.analysis.page.tables import tables_of


def content(studies: Sequence[Study]) -> dict[str, Any]:
    """Return studies as JSON can hold them: NaN is None, infinity a text.

    Raises ValueError for a run that stands twice in a table, and for a column of numbers that holds
    something else.
    """
    runs = all_runs(studies)
    measures = list(dict.fromkeys(m for study in studies for m in study.result.correlations))
    axes = {axis for study in studies for axis in study.axes}
    return {
        "studies": [described(study) for study in studies],
        "columns": columns(runs, measures, axes),
        "runs": {name: cells(runs[name]) for name in runs},
        "gap": studies[0].result.gap,
        "curves": curves(studies),
        "looks": len(canvas.PALETTE),
    }


def described(study: Study) -> dict[str, Any]:
    """Headline, tables and settings of a study."""
    return {
        "name": study.name,
        "headline": headline(study.result.correlations, study.result.gap),
        "remarks": list(study.remarks),
        "tables": tables_of(study),
        "facts": [
            [title, [[name, cell(value)] for name, value in each.items()]]
            for title, each in study.facts.items()
        ],
        "command": study.command,
    }
