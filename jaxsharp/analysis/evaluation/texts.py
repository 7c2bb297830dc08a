"""An evaluation as text: the cells of its table, and a page in Markdown."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxsharp.analysis.evaluation.evaluating import Evaluation


class Heading(NamedTuple):
    """A column of a printed table: what stands above it, its cells, and its rank when few fit."""

    text: str
    cell: Callable[[dict[str, Any]], str]
    rank: int


def signed(value: float) -> str:
    """A coefficient with two decimals and its sign; a dash for none."""
    return "-" if value != value else f"{value:+.2f}"


def _plain(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: "-" if row[name] != row[name] else f"{row[name]:.2f}"


def _value(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: signed(row[name])


def _interval(name: str, write: Callable[[float], str] = signed) -> Callable[[dict[str, Any]], str]:
    def cell(row):
        ends = row[f"{name}_low"], row[f"{name}_high"]
        text = write(row[name])
        return text if ends[0] != ends[0] else f"{text} [{write(ends[0])}, {write(ends[1])}]"

    return cell


def _p_value(row: dict[str, Any]) -> str:
    """The adjusted p-value of a measure, that of a control as it is."""
    p = row["within_p_holm"] if row["kind"] == "measure" else row["within_p"]
    return "-" if p != p else "<0.001" if p < 0.001 else f"{p:.3f}"


def _short(value: float) -> str:
    return "-" if value != value else f"{value:+.2g}"


HEADINGS = {
    "runs": Heading("runs", lambda row: str(row["runs"]), 12),
    "raw": Heading("raw tau", _interval("raw"), 1),
    "within": Heading("within tau", _value("within"), 2),
    "within_p": Heading("p", _p_value, 3),
    "granulated": Heading("Psi", _value("granulated"), 6),
    "worst_environment": Heading("worst", _plain("worst_environment"), 7),
    "cmi": Heading("CMI", _plain("cmi"), 8),
    "partial_loss": Heading("partial tau, loss", _value("partial_loss"), 11),
    "given_loss": Heading("tau given loss", _value("given_loss"), 9),
    "given_all": Heading("tau given all", _value("given_all"), 5),
    "increment": Heading("R2 added", _value("increment"), 10),
    "slope": Heading("slope", _interval("slope", _short), 13),
    "hypothesis": Heading("hypothesis", lambda row: row["hypothesis"] or "-", 2),
    "raw_agrees": Heading("raw agrees", lambda row: row["raw_agrees"] or "-", 3),
    "within_agrees": Heading("within agrees", lambda row: row["within_agrees"] or "-", 5),
    "verdict": Heading("verdict", lambda row: row["verdict"] or "(control)", 4),
}
WIDE = {name: _interval(name) for name in ("within", "given_loss", "given_all")}


def cells(found: Evaluation, *, wide: bool = False) -> dict[str, list[str]]:
    """The cells of each column of `HEADINGS` that was computed; more intervals if `wide`."""
    rows = found.table.to_dict("records")
    columns = {}
    for name, heading in HEADINGS.items():
        if name in found.table:
            cell = WIDE.get(name, heading.cell) if wide else heading.cell
            columns[name] = [cell(row) for row in rows]
    return columns


def markdown(found: Evaluation) -> str:
    """The headline, the table and the notes as a page."""
    columns = {"measure": list(found.table["measure"])}
    columns |= {HEADINGS[name].text: texts for name, texts in cells(found, wide=True).items()}
    lines = [f"# What predicts {found.target}", "", found.headline, ""]
    lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in zip(*columns.values(), strict=True):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    lines += ["", *(f"- {note}" for note in found.notes)]
    return "\n".join(lines) + "\n"
