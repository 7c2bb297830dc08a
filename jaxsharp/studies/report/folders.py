"""Studies and single runs of folders, as a page shows them; nothing on disk is changed."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from jaxsharp.analysis.page import Study
from jaxsharp.analysis.page.cells import numbers
from jaxsharp.analysis.page.runs import check_history, check_runs
from jaxsharp.analysis.results import RANGES, StudyResult, study_result
from jaxsharp.core.choices import counted, shown
from jaxsharp.runs import (
    checkpoint,
    claims,
    columns,
    directory,
    files,
    fingerprint,
    reading,
    tables,
)
from jaxsharp.runs.config import RunConfig, labels
from jaxsharp.studies.grid import StudyConfig, registration
from jaxsharp.studies.report.command import command_of, own_parts
from jaxsharp.studies.status import grid_of, read_study, registered_lines
from jaxsharp.studies.writing.tables import AT_LOSSES, EVALUATION, TIMES

NEEDED = (*("optimizer", "sam", "seed", *columns.ENDS), *RANGES["gap"], *RANGES["loss_gap"])


class Run(NamedTuple):
    """A single run: its row of a table, and its history."""

    path: Path
    config: RunConfig
    row: dict[str, Any]
    history: pd.DataFrame


def read(folders: Iterable[Path], warn: claims.Warn = claims.print_warning) -> list[Study]:
    """Return each study of ``folders`` or below them, and single runs together by what they train.

    What is damaged or has no table yet is left out, and ``warn`` gets a line that names it; if
    nothing is left, that line is a RunError. Raises RunError for a folder without studies and runs.
    """
    studies: dict[Path, Study] = {}
    single: dict[tuple[str, str], list[Run]] = {}
    left: list[str] = []
    for path in reading.runs_and_studies(folders):
        try:
            if claims.kind(path) == "run":
                config = claims.read_run_config(path)
                run = Run(path, config, tables.row(path), directory.read_history(path))
                single.setdefault((config.dataset, config.model), []).append(run)
            else:
                studies[path] = of_study(path)
        except ValueError as error:
            left.append(str(error))
    names = [study.name for study in studies.values()]
    found = [
        study._replace(name=printable(path)) if names.count(study.name) > 1 else study
        for path, study in studies.items()
    ]
    found += [of_runs(runs) for runs in single.values()]
    if not found:
        raise claims.RunError(left[0])
    for line in left:
        warn(f"{line}; it is left out")
    return found


def of_study(path: Path) -> Study:
    """A study from its tables."""
    config = read_study(path)
    runs, history = (read_csv(path / f"{name}.csv") for name in ("runs", "history"))
    if runs is None or runs.empty:
        raise claims.RunError(f"{path} has no table of runs yet; its first group is not finished")
    axes = config.axes()
    check_columns(path / "runs.csv", runs, [*axes, *NEEDED, *config.measures])
    with naming(path / "runs.csv"):
        check_runs(runs, axes, config.measures)
        result = study_result(runs, axes, config.measures)
    if history is not None:
        check_columns(path / "history.csv", history, [*axes, "seed", "epoch"])
        with naming(path / "history.csv"):
            check_history(history, axes)
    return summed_up(path, config, result, history)


def summed_up(
    path: Path, config: StudyConfig, result: StudyResult, history: pd.DataFrame | None
) -> Study:
    """A study from what its tables say, and what else its folder has."""
    paths = [path / "runs" / member.name for member in config.shard_members()]
    num = len(result.runs)
    missing, axes = len(paths) - num, config.axes()
    remarks = [f"{config.model} on {config.dataset}, {counted(num, 'run')}: {grid_of(config)}."]
    if missing:
        remarks += [f"{missing} of {counted(len(paths), 'run')} are not finished yet."]
    kept, more = registration.read(path), {"measures": asdict(config.options)}
    if kept is not None:
        remarks += [f"{line[0].upper()}{line[1:]}." for line in registered_lines(kept, config)]
    return Study(
        name=printable(path.resolve().name),
        result=result,
        axes=axes,
        history=history,
        evaluation=read_csv(path / EVALUATION[0]),
        at_losses=read_csv(path / AT_LOSSES[0]),
        facts=facts(config, paths, more, times(path)),
        command=command_of(config, kept.hypotheses if kept else ()),
        remarks=[*remarks, *own(config)],
    )


def of_runs(runs: list[Run]) -> Study:
    """Single runs of one network on one data set.

    Those that differ in their seeds alone are one configuration; those that differ in nothing are
    told apart by their folders.
    """
    first, *others = runs
    table, histories, taken = [], [], set()
    names = labels([run.config for run in runs], seeds=False)
    for run, name in zip(runs, names, strict=True):
        name = f"{name}, {printable(run.path)}" if (name, run.config.seed) in taken else name
        taken.add((name, run.config.seed))
        table.append(run.row | {"configuration": name})
        histories.append(run.history.assign(configuration=name, seed=run.config.seed))
    rows = pd.DataFrame(table).astype({"converged": object})
    ends = "_error_kind"
    measures = [name.removesuffix(ends) for name in rows if name.endswith(ends)]
    of_one = facts(first.config, [first.path], {}, {})
    return Study(
        name=f"{first.config.model} on {first.config.dataset}" if others else printable(first.path),
        result=study_result(rows, ["configuration"], measures),
        axes=["configuration"],
        history=pd.concat(histories, ignore_index=True),
        facts={} if others else of_one,
        command="\n".join(command_of(run.config) for run in runs),
        remarks=list(dict.fromkeys(line for run in runs for line in own(run.config))),
    )


def facts(
    config: StudyConfig | RunConfig,
    paths: list[Path],
    more: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Settings, and what is known of versions, hardware and time."""
    given = asdict(config) | asdict(config.settings) | asdict(config).get("vary", {})
    if not config.settings.judged:
        given["convergence"] = "no rule: every run ends at the last epoch"
    apart = ("settings", "options", "vary")
    settings = {k: v for k, v in given.items() if k not in apart and v is not None}
    made = {"traced by": traced_by(paths) or "not known from this folder", **seconds}
    return {"Settings": settings, **{f"Settings of {k}": v for k, v in more.items()}, "Made": made}


def traced_by(paths: Iterable[Path]) -> str:
    """Versions of JAX and kinds of devices that traced the programs of runs, as far as known."""
    found = {}
    for path in paths:
        saved = directory.latest_checkpoint(path)
        if saved is not None:
            with contextlib.suppress(claims.RunError, checkpoint.DamagedError):
                made = fingerprint.read(saved)
                found[f"jax {made.jax} on {made.platform}"] = None
    return ", ".join(found)


def times(path: Path) -> dict[str, Any]:
    """How long a study was at work, from times.csv."""
    table = read_csv(path / "times.csv")
    if table is None or list(table) != TIMES:
        return {}
    with naming(path / "times.csv"):
        epochs, training, measuring = (f"{numbers(table, name).sum():.0f}" for name in TIMES[1:])
    return {"training": f"{training} s", "measuring": f"{measuring} s", "epochs of runs": epochs}


def own(config: StudyConfig | RunConfig) -> list[str]:
    """A line on what of a configuration is the user's own."""
    parts = own_parts(config)
    return [f"Of the user's own, known by name alone: {', '.join(parts)}."] if parts else []


def printable(path: Path | str) -> str:
    """A path as text; in ASCII where it has what cannot be printed."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def read_csv(file: Path) -> pd.DataFrame | None:
    """A table of a study, None if there is none; RunError for a file that is no table."""
    if not file.is_file():
        return None
    try:
        return tables.parse_csv(files.read_bytes(file))
    except ValueError as error:
        raise claims.RunError(f"{file} is not a table: {shown(str(error))}") from None


def check_columns(file: Path, table: pd.DataFrame, names: Iterable[str]) -> None:
    """Raise RunError for a table that lacks a column."""
    missing = [name for name in names if name not in table]
    if missing:
        raise claims.RunError(f"{file} has no column {', '.join(missing)}; it was not finished")


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """What is wrong with a table names its file."""
    try:
        yield
    except ValueError as error:
        raise claims.RunError(f"{file}: {error}") from None
