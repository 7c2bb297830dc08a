"""Runs and studies, measured at their checkpoints: those of one program together."""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from jaxsharp.core.choices import counted
from jaxsharp.measures.contract import Options
from jaxsharp.measures.registry import settings_of
from jaxsharp.runs import checkpoint, claims, directory, fingerprint, measurements, reading, tables
from jaxsharp.runs.columns import epoch_of
from jaxsharp.runs.config import SHORT_NAMES, RunConfig, Settings
from jaxsharp.runs.fingerprint import Fingerprint
from jaxsharp.studies import measuring, origins
from jaxsharp.studies.checkpoints.choice import FINAL, Choice, chosen, tell_missing
from jaxsharp.studies.grid import StudyConfig, group_key
from jaxsharp.studies.measuring import Place
from jaxsharp.studies.status import read_study
from jaxsharp.studies.workbench import Workbench
from jaxsharp.studies.writing.tables import row

ADVICE = "measure it with what it was made from (--data-dir)"


class Task(NamedTuple):
    """A study, or a run by itself (its ``study`` is None), and where it is measured."""

    folder: Path
    study: StudyConfig | None
    places: list[Place]
    measures: tuple[str, ...]
    options: Options

    @property
    def measured(self) -> dict[str, str | None]:
        """The settings with which each measure is taken."""
        return {name: settings_of(name, self.options) for name in self.measures}


Asked = Callable[[StudyConfig | None], tuple[tuple[str, ...], Options]]


def tasks(
    folders: Iterable[Path], choice: Choice, asked: Asked, warn: claims.Warn = claims.print_warning
) -> list[Task]:
    """What is to be measured of runs, studies, and those in folders; nothing is changed.

    ``asked`` says measures and options of a study, or of a run by itself. A run that has none of
    the chosen checkpoints, or is damaged, is left out, and ``warn`` gets a line that names it; if
    no run is left, that line is a RunError.
    """
    found, left = [], []
    for folder in reading.runs_and_studies(folders):
        study, paths = None, [folder]
        try:
            if claims.kind(folder) != "run" and not (folder / "checkpoints").is_dir():
                study = read_study(folder)
                paths = [folder / "runs" / member.name for member in study.shard_members()]
        except claims.RunError as error:
            left.append(str(error))
            continue
        task = Task(folder, study, [], *asked(study))
        for path in paths:
            try:
                task.places.extend(here := places_of(path, choice))
                if choice.losses:
                    tell_missing(path, here[0].config.settings, warn)
            except claims.RunError as error:
                left.append(str(error))
        found += [task] * bool(task.places)
    if not found:
        raise claims.RunError(left[0])
    for line in left:
        warn(f"{line}; it is left out")
    have = [place for task in found for place in task.places]
    kept = len({place.path for place in have})
    for epoch in choice.epochs:
        absent = kept - sum(epoch == epoch_at(place) for place in have)
        if absent:
            warn(f"{absent} of {counted(kept, 'run')} have no checkpoint after epoch {epoch}")
    return found


def places_of(path: Path, choice: Choice) -> list[Place]:
    """Where a run is measured; RunError if it is nowhere."""
    if not path.is_dir():
        raise claims.RunError(f"{path} is not there; train the run first")
    config = claims.read_run_config(path)
    saved = directory.checkpoints(path)
    if not saved:
        raise claims.RunError(f"{path} has no checkpoint yet; train the run first")
    places = chosen(config, path, choice)
    if not places and choice != FINAL:
        names = ", ".join(each.name for each in saved[::-1])
        raise claims.RunError(f"{path} has no checkpoint of --epochs {choice.text}; it has {names}")
    if not places:
        raise claims.RunError(f"{path} is not trained to its end; train the run first")
    return places


def epoch_at(place: Place) -> int:
    """Epochs that a run was trained at a place."""
    if place.saved is not None:
        return epoch_of(place.saved.name)
    return len(directory.read_history(place.path))


class Group(NamedTuple):
    """Places of one program, by `group_of`."""

    places: list[Place]
    bench: Workbench
    made_from: Fingerprint
    measures: tuple[str, ...]
    options: Options


def group_of(config: RunConfig, task: Task) -> tuple:
    """What the places of one program have in common: code and shapes, no numbers."""
    usual = {name: getattr(Settings(), name) for name in SHORT_NAMES}
    shared = replace(config.settings, **usual)
    return config.dataset, config.model, shared, group_key(config), task.measures, task.options


def groups(tasks: Iterable[Task], bench_of: Callable[[RunConfig], Workbench]) -> list[Group]:
    """The places of all tasks by what one program measures.

    ``bench_of`` gives the data and network of a run. Raises RunError, so that nothing is measured,
    for a run or checkpoint that was made from something else.
    """
    found: dict[tuple, Group] = {}
    benches: dict[tuple, tuple[Workbench, dict[str, str]]] = {}
    for task in tasks:
        for place in task.places:
            config, settings = place.config, place.config.settings
            key = group_of(config, task)
            if key not in found:
                sizes = settings.train_size, settings.holdout, settings.loss
                made = config.dataset, config.model, *sizes
                if made not in benches:
                    bench = bench_of(config)
                    benches[made] = bench, origins.contents(bench)
                bench, digests = benches[made]
                made_from = origins.fingerprint(config, bench, digests)
                found[key] = Group([], bench, made_from, task.measures, task.options)
            check_origin(place, found[key].made_from)
            found[key].places.append(place)
    return list(found.values())


def check_origin(place: Place, made_from: Fingerprint) -> None:
    """Raise RunError for a run, or a checkpoint before its end, of something else."""
    if place.saved is None:
        return directory.check_origin(place.path, made_from, ADVICE)
    measurements.read_checkpoint_sharpness(place.path, lambda text: None)
    with contextlib.suppress(checkpoint.DamagedError):  # it is named when it is due
        found = fingerprint.read(place.saved, ADVICE)
        fingerprint.compare(place.saved, found, made_from, advice=ADVICE)


def measure(
    found: list[Group],
    *,
    report: Callable[[int, str], Any] = lambda done, text: None,
    warn: claims.Warn = claims.print_warning,
) -> None:
    """Take the measures of all groups; what is on disk is not repeated.

    ``report`` gets the number of measurements that are there, and what is at work. Of several
    places one that is damaged is left out, and ``warn`` gets a line; if it is the last, that is
    raised.
    """
    left, done = sum(len(group.places) for group in found), 0
    for group in found:

        def lost(place: Place, error: ValueError) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise error
            warn(f"{error}; it is left out")

        def tell(name: str, have: int, group: Group = group, before: int = done) -> None:
            label = group.places[0].config.label
            at = group.measures.index(name) * len(group.places) + have
            report(before + at, f"{name} of {label}")

        places = group.places
        measuring.measure(
            *([place.config for place in places], [place.path for place in places], group.bench),
            *(group.measures, group.options),
            saved=[place.saved for place in places],
            made_from=group.made_from,
            report=tell,
            lost=lost,
        )
        done += len(places) * len(group.measures)


def joined(tasks: Iterable[Task]) -> pd.DataFrame:
    """A row for each run and checkpoint of all tasks, by folder, with the measures asked for."""
    rows = []
    for task in tasks:
        for place in task.places:
            epoch = None if place.saved is None else epoch_of(place.saved.name)
            if task.study is None:
                found = tables.row(place.path, task.measured, epoch=epoch)
            else:
                found = row(place.path, task.study, place.config, task.measured, epoch=epoch)
            found = tables.at_checkpoint(place.path, found, epoch)
            rows.append({"run": str(place.path), **found})
    return pd.DataFrame(rows)
