"""A study evaluated at its end."""

from pathlib import Path

import numpy as np
from rich.console import Console

from jaxsharp.analysis import evaluation
from jaxsharp.analysis.evaluation.at_losses import evaluate_at_losses
from jaxsharp.analysis.results import StudyResult
from jaxsharp.cli.evaluate.output import tell_at_losses, write_texts
from jaxsharp.cli.evaluate.registered import registered
from jaxsharp.cli.evaluate.tables import CHECKPOINTS, CONVERGED, LOSS, SEED, read_table
from jaxsharp.cli.report import say
from jaxsharp.studies.grid import StudyConfig
from jaxsharp.studies.writing.tables import EVALUATION, write_page

MOST_RUNS = 250
"""Of a study that is evaluated at its end: seconds, which grow with the cube of their number."""


def evaluate_study(console: Console, config: StudyConfig, result: StudyResult, out: Path) -> None:
    """Print what the measures of a study predict in a sentence, and write the table beside its own.

    The study's page then has it too. Not with more than `MOST_RUNS` runs, nor without a finite gap,
    training loss and measure.
    """
    runs = result.runs
    finite = [
        name for name in (result.gap, LOSS, *config.measures) if np.isfinite(runs[name]).any()
    ]
    measures = [name for name in config.measures if name in finite]
    if len(runs) > MOST_RUNS or not measures or not {result.gap, LOSS} <= set(finite):
        return
    kept = registered([out])
    found = evaluation.evaluate(
        runs,
        measures=measures,
        target=result.gap,
        hyper=config.axes(),
        seed=SEED,
        converged=CONVERGED,
        hypotheses=kept.hypotheses,
    )
    found = found._replace(notes=(*found.notes, *kept.notes))
    write_texts(out, EVALUATION, found.table, evaluation.markdown(found))
    say(console, found.headline)
    console.print(f"{out}: {', '.join(EVALUATION)}")
    if (out / CHECKPOINTS).is_file():
        asked = {"measures": measures, "target": result.gap, "hyper": config.axes(), "seed": SEED}
        tell_at_losses(console, evaluate_at_losses(read_table(out / CHECKPOINTS), **asked), out)
    write_page(config, out, result)
