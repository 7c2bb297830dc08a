"""How far a study is: a file that it keeps up to date, and what its folder shows without it."""

import contextlib
import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from jaxsharp.core.choices import checked, construct, counted
from jaxsharp.runs import claims, directory, files, measurements, reading
from jaxsharp.runs.columns import MEASUREMENTS
from jaxsharp.runs.losses import thresholds
from jaxsharp.studies.checkpoints.choice import saved_at_losses
from jaxsharp.studies.grid import StudyConfig, registration
from jaxsharp.studies.study import Progress, is_writer, standing

SECONDS = 1.0  # between two writings of the file
WRITTEN = ("config.json", "status.json", "times.csv", "history.csv", *MEASUREMENTS)


@dataclass(frozen=True)
class Status:
    """Runs counted, and steps (an epoch or a measure of a run) done of at most how many.

    ``started`` and ``updated`` are in seconds since 1970; ``remaining_s`` is None where the speed
    is not known, and ``epochs_per_second`` is 0.
    """

    started: float
    updated: float
    members: int
    trained: int
    converged: int
    diverged: int
    measured: int
    steps_done: int
    steps_total: int
    epochs_per_second: float
    remaining_s: float | None
    text: str

    def check(self) -> None:
        """Raise ValueError for a number below zero."""
        if min(self.remaining_s or 0, *list(asdict(self).values())[:-2]) < 0:
            raise ValueError("a status counts from zero")


class Board:
    """Keeps the file of a study up to date while it runs, as a context manager."""

    def __init__(self, out: Path):
        self.out, self.started = out, time.time()
        self.first: Progress | None = None
        self.latest: Status | None = None
        self.written = -math.inf

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.write()

    def update(self, progress: Progress) -> None:
        """Take what is known now; it is written once a second, and at the end."""
        self.first = self.first or progress
        now = time.time()
        steps, seconds = progress.steps - self.first.steps, now - self.started
        left = (progress.total - progress.steps) * seconds / steps if steps > 0 else None
        self.latest = Status(
            *(self.started, now, progress.runs, progress.trained, progress.converged),
            *(progress.diverged, progress.measured, progress.steps, progress.total),
            *(progress.rate, left, f"{progress.group}: {progress.doing}"),
        )
        if time.monotonic() - self.written >= SECONDS:
            self.write()

    def write(self) -> None:
        """Write the latest status; one that cannot be written stops no study."""
        self.written = time.monotonic()
        if self.latest is not None and is_writer():
            with contextlib.suppress(OSError):
                write(self.out, self.latest)


def write(out: Path, status: Status) -> None:
    """Write OUT/status.json; what a power failure takes of it is read off the folder again."""
    text = json.dumps(asdict(status), indent=2) + "\n"
    files.write_text(out / "status.json", text, durable=False)


def read(out: Path) -> Status:
    """What OUT/status.json says, or without a valid one, the runs themselves."""
    try:
        return checked(construct(Status, files.read_json(out / "status.json")))
    except (OSError, ValueError):  # absent, cut off, or of another version
        return derive(out)


def derive(out: Path) -> Status:
    """The status that the directories of the runs show."""
    config = read_study(out)
    members = config.shard_members()
    paths = [out / "runs" / member.name for member in members]
    found = standing(members, paths)
    missing = [len(still_unmeasured(p, config)) for p in paths]
    return Status(
        *((out / "config.json").stat().st_mtime, latest_news(out, *paths), len(members)),
        *(found.stopped, found.converged, found.diverged, missing.count(0)),
        found.epochs + sum(config.measures_per_run - m for m in missing),
        len(members) * config.steps_per_run,
        *(0.0, None, ""),
    )


def latest_news(*folders: Path) -> float:
    """When a file of a study or run was last written, in seconds since 1970."""
    files_of = (path / name for path in folders for name in WRITTEN)
    return max((file.stat().st_mtime for file in files_of if file.is_file()), default=0.0)


def read_study(out: Path) -> StudyConfig:
    """Configuration of a study; RunError if the folder holds something else.

    Its names and numbers are checked, and what it registers; the folder holds no links
    (`files.check_tree`).
    """
    files.check_tree(out)
    if not (out / "config.json").is_file():
        what = f"{out} is not the folder of a study: it has no config.json"
        raise claims.RunError(f"{what}; {claims.mending(out)}")
    registration.read(out)
    config = claims.read_config(out)
    if "seeds" not in config:
        raise claims.RunError(f"{out} is not the folder of a study")
    try:
        return StudyConfig.from_dict(config)
    except ValueError as error:
        raise claims.RunError(f"{out / 'config.json'}: {error}") from None


def unmeasured(path: Path, config: StudyConfig) -> list[str]:
    """Measures of a study that a run's directory does not have yet, at losses too."""
    table = measurements.read_sharpness(path, lambda text: None)
    missing = absent(table, config)
    if config.settings.save_losses is None:
        return missing
    if not directory.is_trained(path, config.settings.epochs):
        return [*missing, *config.measures * len(thresholds(config.settings.save_losses))]
    table = measurements.read_checkpoint_sharpness(path, lambda text: None)
    return missing + [
        f"{name} at {saved.name}"
        for saved in saved_at_losses(path, config.settings)
        for name in absent(table[table["checkpoint"] == saved.name], config)
    ]


def absent(table: pd.DataFrame, config: StudyConfig) -> list[str]:
    """Measures of a study that are not among measurements with their settings."""
    done = list(zip(table["measure"], table["settings"], strict=True))
    wanted = [{name: settings} for name, settings in config.measured.items()]
    found = [any(measurements.is_of(each, *pair) for pair in done) for each in wanted]
    return [name for name, there in zip(config.measures, found, strict=True) if not there]


def still_unmeasured(path: Path, config: StudyConfig) -> list[str]:
    """``unmeasured``; all that a study measures, where the measurements are none (``damages``)."""
    try:
        return unmeasured(path, config)
    except claims.RunError:
        return [*config.measures] * (config.measures_per_run // len(config.measures))


def damages(path: Path) -> list[str]:
    """Lines that name what is damaged in a run's directory, set aside already or not."""
    found = [f"{aside} was set aside" for aside in sorted(path.glob("checkpoints/damaged-*"))]
    for saved in directory.checkpoints(path):
        if (reason := reading.damage(saved)) is not None:
            found.append(f"{saved}: {reason}")
    for read in (
        lambda: measurements.read_sharpness(path, found.append),
        lambda: measurements.read_checkpoint_sharpness(path, found.append),
        lambda: claims.read_run_config(path),
    ):
        try:
            read()
        except claims.RunError as error:
            found.append(str(error))
    return found


def describe(out: Path) -> str:
    """Lines on a study for a person: what it is, whether it runs, how far it is, what is damaged.

    Where no process is at work, the runs themselves are counted. Raises RunError for a folder that
    holds no study.
    """
    config, holder = read_study(out), files.holder(out)
    kept = registration.read(out)
    status = read(out) if holder else derive(out)
    shard = "" if config.shard is None else f", shard {config.shard}"
    age = duration(time.time() - status.updated)
    ended = f"{status.converged} converged, {status.diverged} diverged"
    runs = counted(status.members, "run")
    speed = f"; {status.epochs_per_second:.3g} epochs/s" if holder else ""
    if holder and status.remaining_s is not None:
        speed += f", about {duration(status.remaining_s)} left"
    lines = [
        f"{out}: {config.model} on {config.dataset}{shard}",
        f"grid: {grid_of(config)}",
        *(registered_lines(kept, config) if kept else []),
        f"{f'running as {holder}' if holder else 'not running'}; last news {age} ago",
        f"{runs}: {status.trained} trained ({ended}), {status.measured} measured",
        f"steps: {status.steps_done} of at most {status.steps_total}{speed}",
        *([f"at work: {status.text}"] if holder and status.text else []),
    ]
    paths = sorted(out / "runs" / member.name for member in config.shard_members())
    damaged = [line for path in paths if path.is_dir() for line in damages(path)]
    return "\n".join([*lines, *(f"damaged: {line}" for line in damaged)])


def registered_lines(kept: registration.Registration, config: StudyConfig) -> list[str]:
    """What a study registers, and what came later."""
    after = registration.later(kept, config)
    return [f"registered: {kept.text}", *([f"since then: {after}"] if after else [])]


def grid_of(config: StudyConfig) -> str:
    """The axes of a study with their values, in words."""
    grid = {"optimizers": config.optimizers, "sam": config.sam, **config.vary}
    axes = [f"{name} {', '.join(map(str, values))}" for name, values in grid.items()]
    return f"{'; '.join(axes)}; seeds {config.seeds}"


def describe_run(path: Path) -> str:
    """The same lines on a single run, its measures by name."""
    config, holder = claims.read_run_config(path), files.holder(path)
    found = standing([config], [path])
    latest = directory.latest_checkpoint(path)
    measured: list[str] = []
    with contextlib.suppress(claims.RunError):  # `damages` names it
        measured = [*measurements.read_sharpness(path, lambda text: None)["measure"].unique()]
    age = duration(time.time() - latest_news(path))
    limit = counted(config.settings.epochs, "epoch")
    lines = [
        f"{path}: {config.label}, seed {config.seed}, {config.model} on {config.dataset}",
        f"{f'running as {holder}' if holder else 'not running'}; last news {age} ago",
        f"trained: {'not yet' if latest is None else latest.name} "
        f"({'ended' if found.stopped else f'at most {limit}'})",
        f"measured: {', '.join(measured) or 'nothing'}",
    ]
    return "\n".join([*lines, *(f"damaged: {line}" for line in damages(path))])


def describe_all(folders: Iterable[Path]) -> str:
    """Lines on each study and run of ``folders`` or below one that is none.

    What cannot be described does not keep the others from being; it is named.
    """
    found, texts = reading.runs_and_studies(folders), []
    for path in found:
        try:
            texts.append(describe_run(path) if claims.kind(path) == "run" else describe(path))
        except ValueError as error:
            if len(found) == 1:
                raise
            texts.append(f"{path}: {error}")
    return "\n\n".join(texts)


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
