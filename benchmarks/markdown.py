"""What every table is made from and of: a benchmark's result, and rows in Markdown."""

import json
from collections.abc import Sequence
from typing import Any

from benchmarks.profile import RESULTS

Rows = list[Sequence[str]]


def read(name: str) -> dict[str, Any]:
    """The result of a benchmark, by its file's name."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, its first row the header."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
