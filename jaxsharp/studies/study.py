"""The main job: train a grid of runs, measure the sharpness of each, write tables and figures.

OUT/config.json   the study's configuration
OUT/runs.csv      one row a run, with the record of each measure
OUT/history.csv   one row a run and epoch
OUT/checkpoints.csv   one row a run and checkpoint, where runs were measured before their ends
OUT/summary.csv   mean (of measures: geometric mean) and 95 % interval over seeds of each
                  combination of hyper-parameters
OUT/correlations.csv   Kendall's tau of each measure with the gap, raw and within groups, with
                  intervals or why there is none
OUT/training.png, OUT/sharpness.png, OUT/tracked.png of what is followed along training, and
                  OUT/vary_NAME.png for each setting that is varied; and the same in other formats
OUT/report.html   all of that as a page (``analysis.page``), of the times too
OUT/times.csv     seconds of each group, in every session that worked on it
OUT/status.json   how far the study is (``status``)
OUT/runs/NAME     directory of one run (``runs``)
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxsharp.analysis.hypotheses import Hypothesis
from jaxsharp.analysis.results import StudyResult
from jaxsharp.runs import claims, columns, directory, files, measurements
from jaxsharp.runs.config import RunConfig
from jaxsharp.runs.fingerprint import DIGITS, Fingerprint
from jaxsharp.studies import measuring, sweep
from jaxsharp.studies.checkpoints.again import train_again
from jaxsharp.studies.checkpoints.choice import saved_at_losses
from jaxsharp.studies.grid import StudyConfig, held, registration
from jaxsharp.studies.origins import contents, fingerprint
from jaxsharp.studies.workbench import Workbench
from jaxsharp.studies.writing.tables import (
    is_writer,
    note_times,
    read_times,
    summarize,
    write_tables,
)
from jaxsharp.training.members import barrier


class Progress(NamedTuple):
    """How far a study is: runs counted, and member-epochs and measures done of their total.

    ``rate`` is in member-epochs a second, of the group at work since it was begun; ``rows`` as in
    `sweep.GroupProgress`.
    """

    group: str
    doing: str
    runs: int
    trained: int
    converged: int
    diverged: int
    measured: int
    steps: int
    total: int
    rate: float
    rows: dict[str, tuple]


Report = Callable[[Progress], Any]


@jax.transfer_guard("allow")
def conduct(
    config: StudyConfig,
    out: Path,
    bench: Workbench,
    *,
    save_every: int = 50,
    layout: sweep.Layout = sweep.ANYHOW,
    report: Report = lambda progress: None,
    figures: Sequence[str] = ("png",),
) -> StudyResult:
    """Train and measure every run of the study in ``out``, a directory claimed for it.

    What the directory already holds is not repeated. The tables are written anew after every
    group, so that an interrupted study leaves those of the groups it finished; the figures, in the
    formats ``figures`` of `canvas.FORMATS`, at the end. Raises RunError,
    before anything else, if a run there was made from other data, another network or optimizer.
    """
    config.check()
    config.check_known(bench.optimizers, bench.measures)
    files.check_tree(out)
    if is_writer():
        read_times(out)
    groups, digests = config.groups(), contents(bench)
    work = Work(config, out, bench, save_every, layout, report)
    made_from = [fingerprint(group[0], bench, digests) for group in groups]
    for group, each in zip(groups, made_from, strict=True):
        for member in group:
            directory.check_origin(work.path(member), each)
    if is_writer():
        if held(out, config) != config:
            kept = registration.read(out)
            claims.write_config(out, config.as_dict(), kept and kept.entry)
        for member in config.shard_members():  # what was begun with fewer epochs
            directory.train_on(work.path(member), member)
        forget(work)
    for group, each in zip(groups, made_from, strict=True):
        for member in group:
            if is_writer():
                claims.keep_run(work.path(member), member)
        barrier()
        work.do(group, each)
    return summarize(config, out, figures)


def forget(work: "Work") -> None:
    """Remove what was measured by other functions than the user's own now are, and say so."""
    config = work.config
    taken = {name: work.bench.measures[name] for name in config.measures}
    wanted = {name: of.settings(config.options) for name, of in taken.items() if of.code}
    found: dict[str, str] = {}
    for member in config.shard_members() if wanted else ():
        found |= measurements.forget(work.path(member), wanted)
    for name, before in found.items():
        codes = [
            each.removeprefix("code=")[:DIGITS] or "unknown" for each in (before, wanted[name])
        ]
        claims.print_warning(
            f"{work.out}: {name} is another function than the one that measured "
            f"({' -> '.join(codes)}); it is taken again"
        )


class Work:
    """Groups of a study one after the other, and the count of what is done."""

    def __init__(self, config, out, bench, save_every, layout, report):
        self.config, self.out, self.bench, self.report = config, out, bench, report
        self.save_every, self.layout = save_every, layout
        self.runs = len(config.shard_members())
        self.groups, self.begun = len(config.groups()), 0
        self.done: list[RunConfig] = []
        self.converged = self.diverged = 0

    def path(self, member: RunConfig) -> Path:
        """Directory of a run."""
        return self.out / "runs" / member.name

    def do(self, group: list[RunConfig], made_from: Fingerprint) -> None:
        """Train and measure a group, and write the tables of all that is done."""
        paths = [self.path(member) for member in group]
        start = time.monotonic()
        latest = standing(group, paths)
        self.begun += 1
        name = f"group {self.begun} of {self.groups}, {group[0].label}"

        def tell(doing, measured):
            trained = len(self.done) + latest.stopped
            seconds = time.monotonic() - start
            self.report(
                Progress(
                    *(name, doing, self.runs, trained),
                    *(self.converged + latest.converged, self.diverged + latest.diverged),
                    len(self.done) + min(measured // len(self.config.measures), len(group)),
                    len(self.done) * self.config.steps_per_run + latest.epochs + measured,
                    self.runs * self.config.steps_per_run,
                    latest.trained / seconds if seconds > 0 else 0.0,
                    latest.rows,
                )
            )

        def after_epoch(progress):
            nonlocal latest
            latest = progress
            tell(describe(progress), 0)

        tell("compiling", 0)
        sweep.train(
            *(group, paths, self.bench),
            save_every=self.save_every,
            layout=self.layout,
            made_from=made_from,
            options=self.config.options,
            report=after_epoch,
        )
        train_again(
            *(group, paths, self.bench),
            layout=self.layout,
            made_from=made_from,
            options=self.config.options,
            report=lambda progress: tell(f"a lost checkpoint, {describe(progress)}", 0),
        )
        trained_at = time.monotonic()
        latest = standing(group, paths)._replace(trained=latest.trained)
        names = self.config.measures

        def measure(at, before, where=""):
            members, folders, saved = map(list, zip(*at, strict=True))
            measuring.measure(
                *(members, folders, self.bench, names, self.config.options),
                saved=saved,
                layout=self.layout,
                made_from=made_from,
                report=lambda name, done: tell(
                    f"measuring {name}{where}", before + names.index(name) * len(at) + done
                ),
            )

        pairs = list(zip(group, paths, strict=True))
        measure([(m, p, None) for m, p in pairs], 0)
        if at := [(m, p, saved) for m, p in pairs for saved in saved_at_losses(p, m.settings)]:
            measure(at, len(names) * len(group), " at losses")
        seconds = (trained_at - start, time.monotonic() - trained_at)
        if is_writer():
            note_times(self.out, group[0].label, latest.trained, *seconds)
            write_tables(self.out, self.config, {*self.done, *group}, self.bench.optimizers)
        barrier()
        tell("finished", self.config.measures_per_run * len(group))
        self.done += group
        self.converged += latest.converged
        self.diverged += latest.diverged


@contextmanager
def claimed(
    out: Path,
    config: StudyConfig,
    *,
    fresh: bool = False,
    hypotheses: tuple[Hypothesis, ...] = (),
) -> Iterator[None]:
    """Keep ``out`` as the directory of the study, and other processes out of it.

    A config.json that is missing or damaged among its runs is written anew, one of a study that
    this one extends is left to `conduct`. The hypotheses are registered there, before the first
    run; RunError for others than those that are (`registration.due`).
    """
    if is_writer():
        due = registration.due(out, config, hypotheses, fresh=fresh)
        if not fresh:
            claims.keep_study(out, config.as_dict(), config.shard_members())
        found = config if fresh else held(out, config)
        with claims.claimed(out, found.as_dict(), fresh=fresh):
            registration.keep(out, due)
            barrier()
            yield
    else:
        barrier()
        yield


def standing(members: list[RunConfig], paths: list[Path]) -> sweep.GroupProgress:
    """How far runs are, as their directories show."""
    newest = [latest.name if (latest := directory.latest_checkpoint(p)) else "" for p in paths]
    limits = [member.settings.epochs for member in members]
    ended = [directory.is_trained(p, limit) for p, limit in zip(paths, limits, strict=True)]
    epochs = [
        limit if done else int(name[6:] or 0)
        for limit, done, name in zip(limits, ended, newest, strict=True)
    ]
    ends = [newest.count(name) for name in columns.ENDS]
    return sweep.GroupProgress(len(paths), sum(ended), *ends, sum(epochs), 0, {})


def describe(progress: sweep.GroupProgress) -> str:
    """State of a group after an epoch: the latest of those at work, and how the others ended."""
    latest = max(epoch for epoch, *_ in progress.rows.values())
    text = f"epoch {latest}, {progress.stopped} of {progress.members} done"
    counts = {"converged": progress.converged, "diverged": progress.diverged}
    return text + "".join(f", {num} {name}" for name, num in counts.items() if num)
