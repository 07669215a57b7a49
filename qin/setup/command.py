"""What `qin init` takes from its command line and asks on a terminal."""

import sys
from pathlib import Path

import typer

from qin.runtime.errors import DataError
from qin.runtime.sources import TEXTS, exists, is_uri
from qin.setup.outcome import Ask
from qin.setup.settings import Files


def files_of(train: str, *, test: str | None, submission: str | None) -> Files:
    """The files of a log: those named, else those beside the train file under their usual names.

    Raises:
        DataError: If a named file is missing.
    """
    for file in (test, submission):
        if file is not None and not exists(file):
            raise DataError(f"{file}: file not found")
    beside = "data" if is_uri(train) else Path(train).parent.as_posix()  # the sample is read from here
    folder = train.rstrip("/").rpartition("/")[0] if is_uri(train) else beside
    # A log in one format has its test file in the same one, as a rule.
    ending = next((ending for ending in TEXTS if train.lower().endswith(ending)), ".parquet")
    test = test or _inside(folder, f"test{ending}")
    submission = submission or _inside(beside, "sample_submission.csv")
    return Files(train, test, submission, tuple(file for file in (test, submission) if not exists(file)))


def _inside(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def prompt() -> Ask | None:
    """Asks on the terminal; None where there is none, so that the best guess is taken."""
    streams = (sys.stdin, sys.stdout)  # None where who started the process has closed one
    return _ask if all(stream is not None and stream.isatty() for stream in streams) else None


def _ask(question: str, choices: list[str]) -> str:
    while (answer := typer.prompt(f"{question} ({', '.join(choices)})", default=choices[0])) not in choices:
        typer.echo(f"{answer} is none of them")
    return str(answer)
