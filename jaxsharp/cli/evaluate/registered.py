"""What the studies of tables of runs registered before their first runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool

from jaxsharp.analysis.hypotheses import written
from jaxsharp.cli.evaluate.tables import CHECKPOINTS
from jaxsharp.core.choices import counted
from jaxsharp.runs import claims
from jaxsharp.studies import status
from jaxsharp.studies.grid import registration
from jaxsharp.studies.grid.registration import Registration
from jaxsharp.studies.writing import joined


class Registered(NamedTuple):
    """Hypotheses that all studies of some tables registered, and a line on each registration.

    ``studies`` has the folders that each table is of, ``kept`` what those register that do.
    """

    studies: dict[Path, list[Path]]
    kept: dict[Path, Registration]
    hypotheses: tuple[str, ...]
    notes: tuple[str, ...]

    def rows(self, table: Path, runs: pd.DataFrame) -> Bool[np.ndarray, " n"]:
        """Which rows of a table are of the grid that its study registered."""
        grids = [self.kept[path].grid for path in self.studies[table] if path in self.kept]
        found = [registration.of_grid(runs, grid) for grid in grids]
        return np.any(found, axis=0) if found else np.zeros(len(runs), dtype=bool)


def registered(tables: Sequence[Path]) -> Registered:
    """What the studies of tables registered; RunError for what was tampered with.

    A hypothesis counts if all of them have it, and no table is of no study.
    """
    homes = {table: studies_of(table) for table in tables}
    studies = dict.fromkeys(path for found in homes.values() for path in found)
    read = {path: registration.read(path) for path in studies}
    kept = {path: found for path, found in read.items() if found is not None}
    every = [set(found.hypotheses) for found in kept.values()]
    shared = set.intersection(*every) if every else set()
    without = [str(path) for path in (*studies, *(t for t in tables if not homes[t]))]
    without = [path for path in without if Path(path) not in kept]
    hypotheses = () if without else tuple(map(str, sorted(shared)))
    notes = []
    for path, found in kept.items():
        notes.append(f"{path} registered {found.text}")
        if after := registration.later(found, status.read_study(path)):
            notes.append(f"{path} since then: {after}; --registered-only leaves such runs out")
    lost = sorted(set().union(*every) - (set() if without else shared))
    if lost:
        where = f"{', '.join(without)} registered none" if without else "not all studies have them"
        notes.append(f"Exploratory all the same, as {where}: {written(lost)}")
    return Registered(homes, kept, hypotheses, tuple(notes))


def studies_of(table: Path) -> list[Path]:
    """The studies that a table is of: a folder's, or of its runs.csv or checkpoints.csv."""
    home = table if table.is_dir() else table.parent
    if table != home and table.name not in ("runs.csv", CHECKPOINTS):
        return []
    if (home / "config.json").exists():
        found = claims.parse_config(home / "config.json")
        return [home] if "seeds" in found and set(claims.SHARED) <= set(found) else []
    return joined.studies_in(home)


def hypotheses_of(
    given: str | None, found: Registered, options: Mapping[str, object]
) -> tuple[str | tuple[str, ...], tuple[str, ...]]:
    """The hypotheses of an evaluation, and remarks on where they are from.

    Those ``given`` are of tables of the user's own; a study has its own, ValueError. With any of
    the ``options`` other rows count than were registered, and all is exploratory.
    """
    if given is not None:
        studies = [str(path) for paths in found.studies.values() for path in paths]
        if studies:
            raise ValueError(
                f"hypotheses is given for {studies[0]}, a study, which has those that it "
                "registered before its first run; it is for tables of your own"
            )
        return given, ("The hypotheses are those of --hypotheses; no table says since when",)
    other = [f"--{name}" for name, value in options.items() if value]
    if found.kept and other:
        remark = f"With {' and '.join(other)} other rows count than were registered: exploratory"
        return (), (*found.notes, remark)
    return found.hypotheses, found.notes


def only_registered(
    found: Registered, tables: Mapping[Path, pd.DataFrame]
) -> tuple[dict[Path, pd.DataFrame], str]:
    """The rows of tables that are of a registered grid, and a line on how many; ValueError if none
    are."""
    if not found.kept:
        names = ", ".join(map(str, tables))
        raise ValueError(f"registered_only is given, and {names} registers nothing")
    rows = {path: table[found.rows(path, table)] for path, table in tables.items()}
    num, total = (sum(map(len, each.values())) for each in (rows, tables))
    if not num:
        raise ValueError(f"registered_only leaves none of {counted(total, 'row')}")
    return rows, f"{num} of {counted(total, 'row')} are of the registered grid, and count"
