"""Tables for a terminal."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], *, right: slice = slice(0)) -> list[str]:
    """A line per row, its columns two blanks apart, those of `right` aligned at their end."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    at_end = set(range(len(widths))[right])
    return ["  ".join(_cell(row, widths, number, at_end) for number in range(len(row))).rstrip() for row in rows]


def _cell(row: Sequence[str], widths: Sequence[int], number: int, at_end: set[int]) -> str:
    return row[number].rjust(widths[number]) if number in at_end else row[number].ljust(widths[number])
