"""The command that evaluates tables of runs: ours, or anybody's."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from rich.console import Console

from jaxsharp.analysis import canvas, evaluation
from jaxsharp.analysis.evaluation import texts
from jaxsharp.analysis.evaluation.at_losses import (
    AtLoss,
    evaluate_at_losses,
    headlines,
    markdown_at_losses,
    table_at_losses,
)
from jaxsharp.analysis.evaluation.samples import numbered
from jaxsharp.analysis.results import StudyResult
from jaxsharp.cli.output import make_console
from jaxsharp.cli.report import say
from jaxsharp.cli.tables import Column, print_fitting
from jaxsharp.core.choices import counted, known, known_list, shown
from jaxsharp.runs import claims, files
from jaxsharp.runs.columns import VARIED
from jaxsharp.studies.grid import StudyConfig
from jaxsharp.studies.writing.tables import AT_LOSSES, EVALUATION, write_page

CHECKPOINTS = "checkpoints.csv"
GAPS = ("gap", "loss_gap")
HYPER = ("dataset", "model", "optimizer", "sam", "average", *VARIED)
SEED, CONVERGED, LOSS = "seed", "converged", "train_loss"
MOST_RUNS = 250
"""Of a study that is evaluated at its end: seconds, which grow with the cube of their number."""


def evaluate(
    table: tyro.conf.Positional[tuple[Path, ...]],
    *,
    measures: str | None = None,
    target: str | None = None,
    hyper: str | None = None,
    where: tuple[str, ...] = (),
    seed_column: str | None = None,
    own_seeds: bool = False,
    converged_column: str | None = None,
    loss_column: str | None = None,
    controls: str = "",
    unconverged: bool = False,
    noise: float = 0.0,
    confidence: float = 0.95,
    out: Path | None = None,
) -> None:
    """Say of each measure in tables of runs what it predicts, beside controls.

    jaxsharp evaluate runs/first

    jaxsharp evaluate mine.csv --measures norm,margin --target gap --hyper lr,width --out found

    jaxsharp evaluate runs/first --where sam=none optimizer=sgd,adam

    Args:
        table: Folders of studies, or CSV files with a line a run; several are joined.
        measures: Columns of measures, separated by commas; by default those of a study.
        target: Column to predict; by default the gap of a study.
        hyper: Columns of hyper-parameters, separated by commas; by default those a study varies.
        where: Rows that count, by values of columns, as in sam=none optimizer=sgd,adam.
        seed_column: Column of seeds; by default seed, where there is one.
        own_seeds: Runs of equal seeds share nothing: neither initial weights nor order of the data.
        converged_column: Column of true and false; by default converged, where there is one.
        loss_column: Column of the training loss; by default train_loss, where there is one.
        controls: More columns to show beside the measures, separated by commas.
        unconverged: Let runs enter that did not converge.
        noise: Differences of the target that are noise, for the worst environment.
        confidence: Confidence of the intervals.
        out: Folder for evaluation.csv, evaluation.md and evaluation.png.
    """
    if not table:
        raise ValueError("evaluate needs one or more studies, or CSV files")
    if out is not None:
        claims.check_outside(out / "evaluation.csv")
        if out.exists() and not out.is_dir():
            raise ValueError(f"out is {out}, which is a file; it must be a folder")
    every = joined({path: read_table(path) for path in table})
    runs = rows_where(every, where)
    columns = list(map(str, runs.columns))
    named = lambda name, usual: name or (usual if usual in columns else None)  # noqa: E731
    listed = lambda names: known_list("column", names, columns)  # noqa: E731
    asked = {
        "measures": measures_of(runs) if measures is None else listed(measures),
        "target": target or gap_of(runs),
        "hyper": hyper_of(runs) if hyper is None else listed(hyper),
        "seed": None if own_seeds else named(seed_column, SEED),
        "loss": named(loss_column, LOSS),
        "controls": listed(controls) if controls else (),
        "noise": noise,
        "confidence": confidence,
    }
    converged = named(converged_column, CONVERGED)
    check_one_row_a_run(runs, None if unconverged else converged)
    found = evaluation.evaluate(runs, **asked, converged=converged, unconverged=unconverged)
    at_losses = []
    if all((path / CHECKPOINTS).is_file() for path in table):
        every = joined({path: read_table(path / CHECKPOINTS) for path in table})
        at_losses = evaluate_at_losses(rows_where(every, where), **asked)
    if where:
        note = f"{len(runs)} of {counted(len(every), 'row')} count with {' and '.join(where)}."
        found = found._replace(notes=(note, *found.notes))
    console = make_console()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write(out, found)
    print_evaluation(console, found)
    tell_at_losses(console, at_losses, out)
    if out is not None:
        console.print(f"{out}: evaluation.csv, evaluation.md, evaluation.png")


def read_table(path: Path) -> pd.DataFrame:
    """The runs of a study, or of a CSV file; ValueError for what is no table."""
    file = path / "runs.csv" if path.is_dir() else path
    if not file.is_file():
        what = "holds no runs.csv" if path.is_dir() else "is no file"
        raise ValueError(f"{path} {what}; give the folder of a study, or a CSV file")
    content = files.read_bytes(file)
    try:
        header = next(csv.reader(io.StringIO(content.decode("utf-8-sig"))), [])
        table = pd.read_csv(io.BytesIO(content), encoding="utf-8-sig")
    except ValueError as error:
        raise ValueError(f"{file} is no CSV table: {' '.join(str(error).split())}") from None
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise ValueError(f"{file} has the column {shown(twice[0])} twice; name one otherwise")
    if not len(table):
        raise ValueError(f"{file} has no rows; it must have one a run")
    return table


def joined(tables: dict[Path, pd.DataFrame]) -> pd.DataFrame:
    """Tables of equal columns one below the other."""
    (first, wanted), *others = tables.items()
    for path, table in others:
        if different := set(wanted.columns) ^ set(table.columns):
            raise ValueError(
                f"{first} and {path} differ in the column {shown(min(different))}; tables that are "
                "joined must have the same"
            )
    return pd.concat(tables.values(), ignore_index=True)


def rows_where(runs: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The rows with one of the values of each condition COLUMN=VALUE,VALUE; nan is an empty cell.

    ValueError for another form, a value that no row has, and conditions that no row fulfils.
    """
    kept = np.ones(len(runs), dtype=bool)
    for condition in conditions:
        name, equals, values = condition.partition("=")
        if not equals:
            raise ValueError(f"where is {shown(condition)}; it must be COLUMN=VALUE,VALUE")
        column = runs[known("column", name.strip(), map(str, runs.columns))]
        cells = np.array([as_cell(cell) for cell in column])
        wanted = ",".join(as_cell(value.strip()) for value in values.split(","))
        kept &= np.isin(cells, known_list(f"{name} in where", wanted, dict.fromkeys(cells)))
    if not kept.any():
        raise ValueError(f"where is {shown(' '.join(conditions))}; no row has all of that")
    return runs[kept].reset_index(drop=True)


def as_cell(value: Any) -> str:
    """A value as text: equal numbers are equal texts, however they are written."""
    try:
        return str(value) if isinstance(value, bool | np.bool_) else repr(float(value))
    except ValueError:
        return str(value)


def check_one_row_a_run(runs: pd.DataFrame, converged: str | None) -> None:
    """Raise ValueError where several checkpoints of a run enter, which are no runs of their own."""
    entering = runs[~runs[converged].isin([False])] if converged in runs else runs
    keys = [name for name in (*HYPER, SEED) if name in runs]
    if "checkpoint" in runs and keys and entering.duplicated(keys).any():
        what = "several checkpoints of a run; give the folder of the study, or choose rows"
        raise ValueError(f"the table has {what}, as with --where first_below_0.3=True")


def measures_of(runs: pd.DataFrame) -> Sequence[str]:
    """The measures of a study that are known of any run: columns with an error beside them."""
    named = [name for name in runs if f"{name}_error" in runs]
    found = [name for name in named if runs[name].notna().any()]
    if not found:
        raise ValueError("no column has an error beside it; name the measures with --measures")
    return found


def gap_of(runs: pd.DataFrame) -> str:
    """The gap that a study compares measures with."""
    for name in GAPS:
        if name in runs and runs[name].notna().any():
            return name
    raise ValueError("the table has no column gap; name what is to be predicted with --target")


def hyper_of(runs: pd.DataFrame) -> Sequence[str]:
    """The hyper-parameters of a study that vary by themselves: no others determine them."""
    found: list[str] = []
    for name in HYPER:
        if name in runs and numbered(runs, [*found, name]).max() > numbered(runs, found).max():
            found.append(name)
    if not found:
        raise ValueError("no column is a hyper-parameter that varies; name some with --hyper")
    return found


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
    found = evaluation.evaluate(
        runs,
        measures=measures,
        target=result.gap,
        hyper=config.axes(),
        seed=SEED,
        converged=CONVERGED,
    )
    write_texts(out, EVALUATION, found.table, evaluation.markdown(found))
    say(console, found.headline)
    console.print(f"{out}: {', '.join(EVALUATION)}")
    if (out / CHECKPOINTS).is_file():
        asked = {"measures": measures, "target": result.gap, "hyper": config.axes(), "seed": SEED}
        tell_at_losses(console, evaluate_at_losses(read_table(out / CHECKPOINTS), **asked), out)
    write_page(config, out, result)


def tell_at_losses(console: Console, found: Sequence[AtLoss], out: Path | None) -> None:
    """Print a sentence for each training loss, and write their tables into a folder, if any."""
    if not found:
        return
    for title, text in headlines(found).items():
        say(console, f"{title}: {text}")
    if out is not None:
        write_texts(out, AT_LOSSES, table_at_losses(found), markdown_at_losses(found))
        console.print(f"{out}: {', '.join(AT_LOSSES)}")


def write_texts(out: Path, names: Sequence[str], table: pd.DataFrame, page: str) -> None:
    """Write a table and a page."""
    for name, text in zip(names, (table.to_csv(index=False), page), strict=True):
        files.write_text(out / name, text)


def write(out: Path, found: evaluation.Evaluation) -> None:
    """Write the table, the page and the figure."""
    write_texts(out, EVALUATION, found.table, evaluation.markdown(found))
    canvas.save(evaluation.forest(found), out / "evaluation.png")


def print_evaluation(console: Console, found: evaluation.Evaluation) -> None:
    """Headline, as many columns of the table as fit, and notes."""
    say(console, f"{found.headline}\n")
    names = [n.replace("_", " ").replace("=", " = ") for n in found.table["measure"]]
    choices = []
    for wide in (True, False):
        cells = texts.cells(found, wide=wide)
        ranks = sorted(texts.HEADINGS[name].rank for name in cells)
        for last in ranks[::-1] if not wide else ranks[-1:]:
            kept = {k: v for k, v in cells.items() if texts.HEADINGS[k].rank <= last}
            choices.append([Column(texts.HEADINGS[k].text, v) for k, v in kept.items()])
    whole = print_fitting(console, [Column("measure", names, True)], choices)
    for note in found.notes:
        say(console, note)
    if not whole:
        say(console, "A wider terminal shows more columns, evaluation.csv (--out) all.")
