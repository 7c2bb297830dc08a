"""A study done in its folder, and what is printed of it."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from jaxsharp.analysis.hypotheses import Hypothesis
from jaxsharp.cli import report
from jaxsharp.cli.evaluate import ending
from jaxsharp.cli.output import make_console
from jaxsharp.cli.progress import Tracker
from jaxsharp.core.choices import counted
from jaxsharp.studies import interrupts, status, study, sweep
from jaxsharp.studies.grid import StudyConfig, registration
from jaxsharp.studies.tensorboard import Scalars
from jaxsharp.studies.workbench import Workbench
from jaxsharp.studies.writing import joined
from jaxsharp.training.members import agreed
from jaxsharp.training.trackers import columns_of


class Doing(NamedTuple):
    """How studies are done: what changes none of their numbers."""

    save_every: int
    layout: sweep.Layout
    figures: tuple[str, ...]
    quiet: bool
    tensorboard: bool
    fresh: bool
    hypotheses: tuple[Hypothesis, ...]


def conduct(config: StudyConfig, out: Path, bench: Workbench, do: Doing, begin: float) -> None:
    """Do a study in its folder, and print its result."""
    console = make_console()
    followed = columns_of(config.settings.tracked)
    kept = Scalars(out / "tensorboard", followed) if do.tensorboard else nullcontext()
    claim = study.claimed(out, config, fresh=do.fresh, hypotheses=do.hypotheses)
    with interrupts.deferred() as requested, claim:
        if not do.quiet:
            console.print(opening(config, bench, out))
            if (found := registration.read(out)) is not None:
                console.print(f"registered: {found.text}")
        total = len(config.shard_members()) * config.steps_per_run
        with (
            Tracker(console, "study", total, quiet=do.quiet) as tracker,
            status.Board(out) as board,
            kept as scalars,
        ):

            def tell(progress: study.Progress) -> None:
                if agreed(requested()):
                    raise KeyboardInterrupt
                tracker.update(progress.steps, progress.group, progress.doing)
                board.update(progress)
                if scalars is not None:
                    scalars.update(progress)

            result = study.conduct(
                *(config, out, bench),
                save_every=do.save_every,
                layout=do.layout,
                report=tell,
                figures=do.figures,
            )
        if study.is_writer():
            finish(console, config, result, out, begin, do.figures)


def finish(
    console: Console,
    config: StudyConfig,
    result: study.StudyResult,
    out: Path,
    begin: float,
    formats: Sequence[str],
) -> None:
    """Print the result of a study, and evaluate it."""
    report.print_study(console, config, result, out, time.monotonic() - begin, formats)
    ending.evaluate_study(console, config, result, out)


def tell_joined(out: Path, names: Sequence[str]) -> None:
    """Say which joined tables there are."""
    if names:
        folders = counted(len(joined.studies_in(out)), "study folder")
        text = f"{out}: {', '.join(names)} of {folders}; for jaxsharp evaluate {out}"
        make_console().print(text, highlight=False, soft_wrap=True)


def opening(config: StudyConfig, bench, out: Path) -> str:
    """What is about to be done."""
    split, source = bench.dataset, bench.dataset.source
    return (
        f"{counted(len(config.shard_members()), 'run')} of {config.model} on {config.dataset} "
        f"({len(split.train.labels)} training and {len(split.test.labels)} test examples from "
        f"{source}) into {out}"
    )
