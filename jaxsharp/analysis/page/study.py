"""What a page is made of."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from jaxsharp.analysis.results import StudyResult


class Study(NamedTuple):
    """What a page shows of one study.

    ``result`` is that of `results.study_result` by the columns ``axes``. ``history`` has a row a
    run and epoch: ``axes`` and seed say of which run, all other columns but the epoch are curves.
    ``evaluation`` and ``at_losses``, that at equal training losses, are tables that are shown as
    they are, ``facts`` are titled lists of names and values, ``command`` is what made the study,
    ``remarks`` are lines on what is not as asked for.
    """

    name: str
    result: StudyResult
    axes: Sequence[str]
    history: pd.DataFrame | None = None
    evaluation: pd.DataFrame | None = None
    at_losses: pd.DataFrame | None = None
    facts: Mapping[str, Mapping[str, Any]] = {}
    command: str = ""
    remarks: Sequence[str] = ()
