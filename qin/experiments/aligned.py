"""Tables for a terminal."""

from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

_ANY_WIDTH = 1 << 16  # without one Rich takes the terminal's, and folds


def aligned(rows: Sequence[Sequence[str]], *, right: slice = slice(0), width: int | None = None) -> list[str]:
    """The lines of a table, its columns two blanks apart, those of `right` aligned at their end.

    Args:
        rows: Cells, all that the table shows; the first row may be a head.
        right: The columns to align at their end.
        width: Of the terminal, in which the last column goes on in further lines; None: a line per row.
    """
    if not rows:
        return []
    num_columns = len(rows[0])
    at_end = set(range(num_columns)[right])
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for number in range(num_columns):
        folds = number == num_columns - 1 and width is not None
        table.add_column(justify="right" if number in at_end else "left", no_wrap=not folds, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    out = StringIO()
    Console(file=out, width=width or _ANY_WIDTH, color_system=None).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]
