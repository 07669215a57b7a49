"""The exceptions that end a stage with one clear line instead of a traceback, and what any line shows of a text."""

import difflib
import re
from collections.abc import Iterable

_LONGEST_LINE, _LONGEST_WORD, _MOST_LINES = 1000, 256, 100


class QinError(Exception):
    """Base of every error whose message is written for the user; stages print it and exit with its status.

    Args:
        problems: One or several, each of which becomes one line whatever names and values it shows.
    """

    exit_status = 1

    def __init__(self, *problems: str) -> None:
        super().__init__(*map(one_line, problems))

    def __str__(self) -> str:
        return "\n".join(self.args)

    @property
    def lines(self) -> list[str]:
        """A line per problem, to be printed; of very many the first."""
        left_out = len(self.args) - _MOST_LINES
        return [*self.args[:_MOST_LINES], *([f"and {left_out} more"] if left_out > 0 else [])]


class ConfigError(QinError):
    """A setting in params.yaml is missing, unknown, of the wrong type, or contradicts another."""


class SchemaError(QinError):
    """A file's columns or types do not fit the features that params.yaml describes."""


class DataError(QinError):
    """A value in an input file breaks a rule; the message names file, column, row, rule and value."""


class FewClicksError(DataError):
    """A sample holds too few rows of a class for a figure that the run can do without."""


class ArtifactError(QinError):
    """A file written by an earlier stage is missing, damaged, or does not belong to this run."""


class EditedError(QinError):
    """An input, a setting or a source was edited while a stage ran."""


class TrainingError(QinError):
    """Training cannot go on, for example because the loss is no longer a number."""


class PeerEndedError(QinError):
    """Another process of a run has ended, whose own report says why; started again, they go on together."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h


def one_line(text: str) -> str:
    """A text as one line that a terminal can show: names, keys, paths and values in it may hold anything.

    Line breaks, control characters, characters that turn the direction of writing and halves of characters are escaped
    as Python writes them; very long words (names, paths) and very long lines are cut in the middle.
    """
    return _cut(
        re.sub(rf"\S{{{_LONGEST_WORD + 1},}}", lambda word: _cut(word[0], _LONGEST_WORD), printable(text)),
        _LONGEST_LINE,
    )


def printable(text: str) -> str:
    """A text of any characters as one line of those that can be shown, the others escaped as Python writes them."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def shortened(text: str, most: int = 60) -> str:
    """The beginning of a value's text."""
    return text if len(text) <= most else f"{text[:most]}..."


def _cut(text: str, most: int) -> str:
    half = (most - len("...")) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


def did_you_mean(name: str, names: Iterable[str], *, prefix: str = "") -> str:
    """The end of a message about a name that is not there: the nearest one that is, if any is near."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f", did you mean {prefix}{matches[0]}?" if matches else ""
