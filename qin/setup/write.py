"""From a log's files to a params file."""

import csv
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from qin.columns.resolve import resolve_schema
from qin.config import load_params
from qin.raw.log import open_log
from qin.runtime.errors import ConfigError, DataError
from qin.runtime.files import atomic_file
from qin.setup.outcome import Ask
from qin.setup.plan import Plan, plan_settings
from qin.setup.profile import LogProfile, profile_log
from qin.setup.settings import MARK, Files, Purpose, entries_of
from qin.setup.yaml_text import rewritten


def write_settings(
    files: Files, *, out: Path, base: Path, label: str | None, purpose: Purpose, force: bool, ask: Ask | None
) -> tuple[LogProfile, Plan]:
    """Read a log and write settings for it; settings that do not depend on a log are taken over.

    Args:
        files: The log; test and sample submission help and may be missing.
        out: Params file to write.
        base: Params file whose other sections are taken over.
        label: Column to predict; None to find it.
        purpose: What the output is for.
        force: Whether `out` may be replaced though it has been edited.
        ask: Asks the user; None where nobody can be asked.

    Returns:
        What was found, and what was decided.

    Raises:
        ConfigError: If `out` has been edited, or the base is no params file.
        DataError: If a file cannot be read.
        SchemaError: If there is no label or no input.
    """
    if out.exists() and not force and not _is_committed(out):
        raise ConfigError(
            f"{out}: has changes that git does not hold; commit it, name another file with --out, or use --force"
        )
    load_params(base)  # its errors name the rule
    log = profile_log(files.train)
    plan = plan_settings(
        log, label=label, test=_columns(files.test, files), submission=_header(files.submission, files), ask=ask
    )
    entries = entries_of(log, plan, files=files, purpose=purpose)
    text = rewritten(base.read_text(encoding="utf-8"), list(_header_comments(log)), entries, source=str(base))
    with atomic_file(out) as staging:
        staging.write_text(text, encoding="utf-8")
        params = load_params(staging)
        # Before the file takes its place: settings that the next command would refuse are a fault of ours.
        resolve_schema(log.sample.schema, data=params.data, features=params.features)
    return log, plan


def _header_comments(log: LogProfile) -> Iterator[str]:
    yield f"Written by `qin init {log.file}` from {log.num_rows:,} rows and {len(log.columns)} columns, to be edited."
    yield f"`{MARK}` marks guesses that the file alone cannot settle. docs/settings.md explains every key."
    yield "A change reruns only the stages that read it. Unknown keys and wrong types are refused, all at once."


def _is_committed(path: Path) -> bool:
    """Whether the last commit of git holds a file as it is, so that nothing is lost with it."""
    command = ["git", "show", f"HEAD:./{path.name}"]
    try:
        done = subprocess.run(command, cwd=path.parent, capture_output=True, check=False)
    except FileNotFoundError:  # no git here
        return False
    return done.returncode == 0 and done.stdout.splitlines() == path.read_bytes().splitlines()


def _columns(file: str, files: Files) -> pa.Schema | None:
    if file in files.missing:
        return None
    return open_log(file).schema


def _header(file: str, files: Files) -> list[str]:
    """Columns of the sample submission."""
    if file in files.missing:
        return []
    try:
        with Path(file).open(encoding="utf-8-sig", newline="") as opened:
            return next(csv.reader(opened), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: no CSV file in UTF-8 ({error})") from error
