"""Tables as wide as the place they are printed in: fewer digits, then several tables, one below
the other.

A heading is broken between words, a cell never, the name of a row only if it is longer than a fifth
of the width.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

SPACE = 2  # between columns
LONGEST_WORD = 20  # of a heading that is not broken


class Column(NamedTuple):
    """A heading, in one line if ``whole``, and the cells below it; names of rows stand left."""

    heading: str
    cells: Sequence[str]
    names: bool = False
    whole: bool = False

    def width(self, most: int) -> int:
        """Width of its cells, and of the longest word of its heading."""
        if self.whole:
            return max(cell_len(self.heading), *map(cell_len, self.cells), 0)
        word = max((cell_len(word) for word in self.heading.split()), default=0)
        widest = max(map(cell_len, self.cells), default=0)
        return max(min(widest, most) if self.names else widest, min(word, LONGEST_WORD))


def print_fitting(
    console: Console, labels: Sequence[Column], choices: Sequence[Sequence[Column]]
) -> bool:
    """Print the first choice of columns that needs the fewest tables, each with the labels.

    Return whether that is the first of all in one table, so that no more width would show more.

    A choice with a column that is too wide even alone comes after all others. Headings are broken
    where that saves a table.
    """
    most = console.width // 5
    room = console.width - sum(label.width(most) + SPACE for label in labels)

    def cost(parts: list[list[Column]]) -> tuple[bool, int]:
        widest = max(column.width(room) for part in parts for column in part)
        return widest > room, len(parts)

    both = [[[c._replace(whole=w) for c in columns] for w in (True, False)] for columns in choices]
    candidates = [in_parts(columns, room) for pair in both for columns in pair]
    best = min(candidates, key=cost)
    for part in best:
        print_table(console, [*labels, *part], most)
    return best is candidates[0] and len(best) == 1


def in_parts(columns: Sequence[Column], room: int) -> list[list[Column]]:
    """Columns in as few parts as fit some room, each of at least one."""
    parts: list[list[Column]] = [[]]
    used = -SPACE
    for column in columns:
        width = column.width(room) + SPACE
        if parts[-1] and used + width > room:
            parts.append([])
            used = -SPACE
        parts[-1].append(column)
        used += width
    return parts


def print_table(console: Console, columns: Sequence[Column], most: int) -> None:
    """A table whose columns are as wide as they need; where that is too wide lines run over."""
    widths = [column.width(most) for column in columns]
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, SPACE - 1, 0, 0),
        width=sum(widths) + SPACE * (len(widths) - 1),
    )
    for column, width in zip(columns, widths, strict=True):
        side = "left" if column.names else "right"
        table.add_column(column.heading, width=width, justify=side, overflow="fold")
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    console.print(table, crop=False)
    console.print()


def number(value: float, digits: int) -> str:
    """A number with so many significant digits, and plainly unless it is very large or small."""
    if not math.isfinite(value):
        return f"{value:g}"
    power = math.floor(math.log10(abs(value))) if value else 0
    if not -5 <= power <= 5:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(digits - 1 - power, 0)}f}"
