"""The main job: train a grid of runs, measure the sharpness of each, write tables and figures.

OUT/config.json   the study's configuration
OUT/runs.csv      one row a run
OUT/history.csv   one row a run and epoch
OUT/summary.csv   mean and 95 % interval over seeds of each optimizer and sharpness-aware variant
OUT/correlations.csv   Kendall's tau of each measure with the gap, raw and within groups
OUT/training.png, OUT/sharpness.png
OUT/runs/NAME     directory of one run (``runs``)
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from jaxsharp import canvas, figures, runs, stats, sweep
from jaxsharp.measures import DEFAULT_MEASURES, Options
from jaxsharp.optimizers import OPTIMIZERS
from jaxsharp.runs import RunConfig, Settings

GROUP = ["optimizer", "sam"]
Report = Callable[[int, str, str], Any]


@dataclass(frozen=True)
class StudyConfig:
    """Everything that decides the numbers of a study."""

    dataset: str = "digits"
    model: str = "small_mlp"
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    sam: tuple[str, ...] = ("none", "sam")
    seeds: int = 3
    measures: tuple[str, ...] = DEFAULT_MEASURES
    settings: Settings = Settings()
    options: Options = Options()

    def groups(self) -> list[list[RunConfig]]:
        """The runs, one list for each optimizer and sharpness-aware variant."""
        return [
            [
                RunConfig(self.dataset, self.model, optimizer, sam, seed, self.settings).resolved()
                for seed in range(self.seeds)
            ]
            for optimizer in self.optimizers
            for sam in self.sam
        ]

    def as_dict(self) -> dict[str, Any]:
        """The configuration for config.json."""
        return asdict(self)

    @property
    def name(self) -> str:
        """Folder name that differs for every configuration."""
        digest = hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()
        return f"study-{self.dataset}-{self.model}-{digest[:6]}"


class StudyResult(NamedTuple):
    """Tables of a finished study."""

    runs: pd.DataFrame
    summary: pd.DataFrame
    correlations: dict[str, stats.Correlation]


def num_steps(config: StudyConfig) -> int:
    """Steps of progress: the epochs of every group at most, and the measures of every run."""
    groups = config.groups()
    return len(groups) * (config.settings.epochs + config.seeds * len(config.measures))


def run(
    config: StudyConfig,
    out: Path,
    bench: sweep.Workbench,
    *,
    save_every: int = 50,
    report: Report = lambda step, text, detail: None,
) -> StudyResult:
    """Train and measure every run of the study in ``out``, a directory claimed for it.

    What the directory already holds is not repeated. The tables are written anew after every
    group, so that an interrupted study leaves those of the groups it finished. ``report`` gets
    the number of steps done (see ``num_steps``), the group, and its state.
    """
    done: list[Path] = []
    steps_per_group = num_steps(config) // len(config.groups())
    for index, group in enumerate(config.groups()):
        paths = [out / "runs" / member.name for member in group]
        for member, path in zip(group, paths, strict=True):
            runs.claim_run(path, member)
        step = index * steps_per_group
        train_group(group, paths, bench, save_every, partial(later, report, step))
        step += config.settings.epochs
        for member, path in zip(group, paths, strict=True):
            measure_run(config, member, path, bench, partial(later, report, step))
            step += len(config.measures)
        done += paths
        write_tables(out, done)
    return summarize(config, out)


def later(report: Report, start: int, step: int, text: str, detail: str) -> None:
    """Report a step counted from ``start``."""
    report(start + step, text, detail)


def train_group(
    group: list[RunConfig],
    paths: list[Path],
    bench: sweep.Workbench,
    save_every: int,
    report: Report,
) -> None:
    """Train one group; a step is an epoch."""
    text = group_name(group[0])
    report(0, text, "compiling")

    def after_epoch(progress: sweep.GroupProgress) -> None:
        report(progress.epoch, text, describe(progress))

    sweep.train(group, paths, bench, save_every=save_every, report=after_epoch)


def measure_run(
    config: StudyConfig, member: RunConfig, path: Path, bench: sweep.Workbench, report: Report
) -> None:
    """Take the measures of one run; each is a step."""

    def before_measure(name: str) -> None:
        text = f"{group_name(member)}, seed {member.seed}"
        report(config.measures.index(name), text, f"measuring {name}")

    sweep.measure(member, path, bench, config.measures, config.options, before_measure)


def group_name(config: RunConfig) -> str:
    """Optimizer and sharpness-aware variant, as in a table."""
    return config.optimizer if config.sam == "none" else f"{config.optimizer} + {config.sam}"


def describe(progress: sweep.GroupProgress) -> str:
    """State of a group after an epoch."""
    text = f"epoch {progress.epoch}, {progress.converged} converged"
    return text + (f", {progress.diverged} diverged" if progress.diverged else "")


def write_tables(out: Path, paths: list[Path]) -> None:
    """Write runs.csv and history.csv from the directories of single runs."""
    runs.write_table(out / "runs.csv", pd.DataFrame([runs.row(path) for path in paths]))
    histories = []
    for path in paths:
        config = runs.read_run_config(path)
        labels = {name: getattr(config, name) for name in (*GROUP, "seed")}
        table = runs.read_history(path)
        histories.append(pd.DataFrame({**labels, **table}))
    runs.write_table(out / "history.csv", pd.concat(histories, ignore_index=True))


def summarize(config: StudyConfig, out: Path) -> StudyResult:
    """Statistics and figures from the tables of a study; nothing else is read."""
    table, history = pd.read_csv(out / "runs.csv"), pd.read_csv(out / "history.csv")
    columns = ["train_accuracy", "test_accuracy", "gap", *config.measures]
    summary = stats.summarize(table, GROUP, columns)
    correlations = {name: stats.correlation(table, name, "gap", GROUP) for name in config.measures}
    runs.write_table(out / "summary.csv", summary)
    runs.write_table(out / "correlations.csv", correlation_table(correlations))
    canvas.save(figures.training_curves(history), out / "training.png")
    sharpness = figures.sharpness_against_gap(table, list(config.measures), correlations)
    canvas.save(sharpness, out / "sharpness.png")
    return StudyResult(table, summary, correlations)


def correlation_table(correlations: dict[str, stats.Correlation]) -> pd.DataFrame:
    """One row a measure: every coefficient with its interval, and how many runs it rests on."""
    rows = []
    for name, found in correlations.items():
        row: dict[str, Any] = {"measure": name, "target": "gap", "runs": found.num_runs}
        for kind in ("raw", "within", "pearson", "spearman"):
            value, low, high = getattr(found, kind)
            row |= {kind: value, f"{kind}_low": low, f"{kind}_high": high}
        rows.append(row | {f"excluded {reason}": n for reason, n in found.excluded.items()})
    return pd.DataFrame(rows)
