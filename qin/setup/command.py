"""What `qin init` takes from its command line and asks on a terminal."""

import sys
from pathlib import Path

import typer

from qin.errors import DataError
from qin.setup.outcome import Ask
from qin.setup.settings import Files


def files_of(train: str, *, test: str | None, submission: str | None) -> Files:
    """The files of a log: those named, else those beside the train file under their usual names.

    Raises:
        DataError: If a named file is missing.
    """
    for file in (test, submission):
        if file is not None and not Path(file).exists():
            raise DataError(f"{file}: file not found")
    beside = Path(train).parent
    test = test or (beside / "test.parquet").as_posix()
    submission = submission or (beside / "sample_submission.csv").as_posix()
    return Files(train, test, submission, tuple(file for file in (test, submission) if not Path(file).exists()))


def prompt() -> Ask | None:
    """Asks on the terminal; None where there is none, so that the best guess is taken."""
    return _ask if sys.stdin.isatty() and sys.stdout.isatty() else None


def _ask(question: str, choices: list[str]) -> str:
    while (answer := typer.prompt(f"{question} ({', '.join(choices)})", default=choices[0])) not in choices:
        typer.echo(f"{answer} is none of them")
    return str(answer)
