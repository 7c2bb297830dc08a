"""What an evaluation prints and writes."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from jaxsharp.analysis import canvas, evaluation
from jaxsharp.analysis.evaluation import texts
from jaxsharp.analysis.evaluation.at_losses import (
    AtLoss,
    headlines,
    markdown_at_losses,
    table_at_losses,
)
from jaxsharp.cli.report import say
from jaxsharp.cli.tables import Column, print_fitting
from jaxsharp.runs import files
from jaxsharp.studies.writing.tables import AT_LOSSES, EVALUATION


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
