"""Blocks of commands and what they print, on the pages of the documentation.

A block fenced as `console` has lines `$ command`, each with an excerpt of its output below. A block fenced as `sh` has
commands alone. What a page shows and what a command prints are compared by their words: numbers, names that git draws
and verdicts on noise differ between machines.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_FENCE = re.compile(r" *```(?P<language>\w*)")
_MASKS = (
    (re.compile(r"file://\S+"), "file:"),
    (re.compile(r"\b[0-9a-f]{7}\b"), "@"),  # a commit; it may be all digits
    (re.compile(r"[-+]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?"), "#"),
    (re.compile(r"# [AP]M\b|#:#( [AP]M)?"), "#"),
    (re.compile(r"\b(noise|identical|([AB] )?(likely )?(better|worse))$"), "verdict"),
    (re.compile(r"-{2,}"), "--"),  # the line below a table's head
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: The word after the fence.
        first: Index of its first line in the page.
        lines: Its lines.
    """

    language: str
    first: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """One command of a block.

    Attributes:
        text: What the shell gets.
        first: Index in the page of the first line of output.
        output: Lines of output that the page shows.
    """

    text: str
    first: int
    output: tuple[str, ...]

    @property
    def fails(self) -> bool:
        """Whether the page shows an error, so that the command must fail."""
        return any(line.lower().startswith("error:") for line in self.output)


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page in Markdown."""
    lines = page.splitlines()
    start: int | None = None
    language = ""
    for number, line in enumerate(lines):
        match = _FENCE.match(line)
        if match and start is None:
            start, language = number + 1, match["language"]
        elif match and start is not None:
            yield Block(language, start, tuple(lines[start:number]))
            start = None


def shown_commands(page: str) -> Iterator[Command]:
    """The commands of a page's `console` blocks, in order, with the output that it shows."""
    for block in blocks(page):
        if block.language == "console":
            yield from _with_output(block)


def plain_commands(page: str) -> Iterator[str]:
    """The commands of a page's `sh` blocks, in order."""
    for block in blocks(page):
        if block.language == "sh":
            yield from (line.strip() for line in block.lines if line.strip())


def _with_output(block: Block) -> Iterator[Command]:
    starts = [number for number, line in enumerate(block.lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(block.lines)], strict=True):
        yield Command(block.lines[start][2:], block.first + start + 1, block.lines[start + 1 : end])


def masked(line: str) -> str:
    """A line without what differs between machines."""
    for pattern, word in _MASKS:
        line = pattern.sub(word, line)
    return line.strip()


def matched(shown: Sequence[str], printed: Iterable[str]) -> list[str]:
    """The printed line of each shown one, in order.

    Raises:
        ValueError: If a shown line is not printed, or not after the one above it.
    """
    rest = iter(printed)
    found = []
    for line in shown:
        same = next((candidate for candidate in rest if masked(candidate) == masked(line)), None)
        if same is None:
            raise ValueError(f"not printed, or not in this place: {line!r} ({masked(line)!r})")
        found.append(same.rstrip())
    return found
