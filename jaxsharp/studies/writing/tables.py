"""The tables and figures of a study, written from the directories of its runs."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pandas as pd

from jaxsharp.analysis import statistics
from jaxsharp.analysis.results import StudyResult, study_result
from jaxsharp.optimizers.registry import OPTIMIZERS
from jaxsharp.runs import claims, directory, files, measurements, tables
from jaxsharp.runs.columns import epoch_of
from jaxsharp.runs.config import RunConfig
from jaxsharp.studies.grid import StudyConfig
from jaxsharp.training.trackers import columns_of

EVALUATION = ("evaluation.csv", "evaluation.md")
AT_LOSSES = ("evaluation_at_losses.csv", "evaluation_at_losses.md")
TIMES = ["group", "member_epochs", "training_s", "measuring_s"]


def is_writer() -> bool:
    """Whether this process writes the files of the study itself."""
    return jax.process_index() == 0


def note_times(out: Path, group: str, epochs: int, training: float, measuring: float) -> None:
    """Add a line to times.csv: these numbers differ from session to session."""
    table = read_times(out)
    table.loc[len(table)] = [group, epochs, round(training, 3), round(measuring, 3)]
    files.write_table(out / "times.csv", table)


def read_times(out: Path, warn: claims.Warn = claims.print_warning) -> pd.DataFrame:
    """What times.csv has so far; one that is damaged is renamed, and ``warn`` gets a line on it."""
    file = out / "times.csv"
    if not file.exists():
        return pd.DataFrame(columns=TIMES)
    try:
        table = pd.read_csv(io.BytesIO(files.read_bytes(file)))
    except ValueError:
        table = pd.DataFrame()
    if list(table) == TIMES and all(kind.kind in "if" for kind in table.dtypes[1:]):
        return table
    aside = files.set_aside(file)
    warn(f"{file} is not a table of {', '.join(TIMES)}; it is now {aside.name}, and begun anew")
    return pd.DataFrame(columns=TIMES)


def write_tables(
    out: Path,
    config: StudyConfig,
    done: set[RunConfig],
    optimizers: Mapping[str, Callable] = OPTIMIZERS,
) -> None:
    """Write runs.csv and history.csv, in the order of the grid, from the directories of runs."""
    rows, histories = [], []
    for member in config.shard_members():
        if member not in done:
            continue
        path = out / "runs" / member.name
        rows.append(row(path, config, member, config.measured, optimizers))
        labels = {name: rows[-1][name] for name in (*config.axes(), "seed")}
        histories.append(pd.DataFrame({**labels, **directory.read_history(path)}))
    files.write_table(out / "runs.csv", pd.DataFrame(rows))
    files.write_table(out / "history.csv", pd.concat(histories, ignore_index=True))
    write_checkpoints(out, config, optimizers)


def row(
    path: Path,
    config: StudyConfig,
    member: RunConfig,
    measured: Mapping[str, str | None],
    optimizers: Mapping[str, Callable] = OPTIMIZERS,
    epoch: int | None = None,
) -> dict[str, Any]:
    """A run of a study in its tables, at its end or after an epoch before."""
    found = tables.row(path, measured, optimizers, epoch=epoch)
    if "average" in config.vary or config.settings.average != "none":
        found["average"] = member.settings.average
    return found


def write_checkpoints(
    out: Path,
    config: StudyConfig,
    optimizers: Mapping[str, Callable] = OPTIMIZERS,
    warn: claims.Warn = claims.print_warning,
) -> bool:
    """Write checkpoints.csv, if any run was measured before its end; whether it is there then.

    With losses at which runs are saved there always is one. It has a row for each checkpoint at
    which a run was measured, and one for the end of each run that has come there. Of the study's
    measures they are those with its settings, of others the latest. A run that cannot be read is
    left out, and ``warn`` gets a line that names it.
    """
    rows, any_earlier = [], False
    for member in config.shard_members():
        path = out / "runs" / member.name
        if directory.latest_checkpoint(path) is None:
            continue
        try:
            earlier, final = (
                measurements.read_checkpoint_sharpness(path),
                measurements.read_sharpness(path),
            )
            both = pd.concat([earlier, final])
            measured = dict(zip(both["measure"], both["settings"], strict=True)) | config.measured
            epochs = [epoch_of(name) for name in earlier["checkpoint"].unique()]
            epochs += [None] * directory.is_trained(path, member.settings.epochs)
            found = [
                tables.at_checkpoint(
                    path, row(path, config, member, measured, optimizers, epoch), epoch
                )
                for epoch in epochs
            ]
        except claims.RunError as error:
            warn(f"{error}; {path.name} is left out of checkpoints.csv")
            continue
        any_earlier |= len(earlier) > 0
        rows += found
    file = out / "checkpoints.csv"
    wanted = bool(rows) and (any_earlier or config.settings.save_losses is not None)
    if wanted:
        files.write_table(file, pd.DataFrame(rows))
    else:
        file.unlink(missing_ok=True)
    return wanted


def summarize(config: StudyConfig, out: Path, formats: Sequence[str] = ("png",)) -> StudyResult:
    """Statistics and figures from the tables of a study; nothing else is read."""
    from jaxsharp.analysis import canvas, comparisons, effects, figures

    table, history = (
        tables.parse_csv((out / f"{name}.csv").read_bytes()) for name in ("runs", "history")
    )
    result, varied = study_result(table, config.axes(), config.measures), list(config.vary)
    _, summary, correlations, gap = result
    if is_writer():
        files.write_table(out / "summary.csv", summary)
        files.write_table(out / "correlations.csv", statistics.correlation_table(correlations, gap))
        followed = columns_of(config.settings.tracked)
        curves = figures.training_curves(history.drop(columns=list(followed)), varied)
        canvas.save_as(curves, out / "training", formats)
        if followed:
            quantities = config.settings.tracked, config.axes(), varied
            drawn = figures.tracked_curves(history, *quantities)
            canvas.save_as(drawn, out / "tracked", formats)
        pairs = table, config.measures, correlations
        drawn = comparisons.sharpness_against_gap(*pairs, varied, gap)
        canvas.save_as(drawn, out / "sharpness", formats)
        for name in varied:
            drawn = effects.against_setting(summary, name, config.measures, varied)
            canvas.save_as(drawn, out / f"vary_{name}", formats)
        for name in (*EVALUATION, *AT_LOSSES):  # of an earlier end
            (out / name).unlink(missing_ok=True)
        write_page(config, out, result)
    return result


def write_page(config: StudyConfig, out: Path, result: StudyResult) -> None:
    """Write report.html of a study; a warning says why where that cannot be."""
    from jaxsharp.analysis.page import page_of
    from jaxsharp.studies.report import summed_up

    history = tables.parse_csv((out / "history.csv").read_bytes())
    try:
        files.write_text(out / "report.html", page_of([summed_up(out, config, result, history)]))
    except ValueError as error:  # of a file that is not the study's own
        claims.print_warning(f"{out} has no new report.html: {error}")
