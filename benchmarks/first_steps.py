"""A new user's way, timed: clone to first report, own file to first submission, first search.

    python -m benchmarks.first_steps --out benchmarks/results/first_steps.json

The environment is installed already; kernels are compiled anew, as on a new machine. The own file is a sample of
another seed, of which `qin init` knows nothing. Run it on a machine that does nothing else.
"""

import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.machine import describe, report
from benchmarks.profile import ROOT, clone_environment
from qin.runtime import paths

# The one of docs/experiments.md.
SEARCH = "qin tune -S trees.learning_rate=0.02..0.1:log -S trees.l2=1..20 --trials 6 --seeds 2 --finalists 2"

# Commands of each way, in a fresh clone, and what it ends with.
WAYS: dict[str, tuple[list[list[str]], Path | None]] = {
    "clone to first report": (
        [["python", "-m", "qin.sample", "--rows", "{rows}", "--out", "data"], ["dvc", "repro"]],
        paths.REPORT,
    ),
    "first search, after that": ([shlex.split(SEARCH)], None),
    "own file to first submission": (
        [["qin", "init", "data/train.parquet", "--force"], ["qin", "check"], ["dvc", "repro"]],
        paths.SUBMISSION,
    ),
}


def main(
    rows: Annotated[int, typer.Option(help="Rows of the log.", min=1000)] = 100_000,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Walk the ways once and print their seconds as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        first, own = Path(folder) / "first", Path(folder) / "own"
        seconds = {"clone": _timed(["git", "clone", "--quiet", str(ROOT), str(first)], Path(folder), rows)}
        _timed(["git", "clone", "--quiet", str(ROOT), str(own)], Path(folder), rows)
        _without_sample(first)
        _without_sample(own)
        _timed(["python", "-m", "qin.sample", "--rows", "{rows}", "--seed", "1", "--out", "data"], own, rows)
        for name, (commands, made) in WAYS.items():
            project = own if name.startswith("own") else first
            seconds[name] = sum(_timed(command, project, rows) for command in commands)
            if made is not None and not (project / made).is_file():
                raise typer.BadParameter(f"{name}: {made} was not written")
    result: dict[str, Any] = {"machine": describe(), "rows": rows, "search": SEARCH, "seconds": seconds}
    report(result, out)


def _without_sample(project: Path) -> None:
    """Forget the recorded log, which is not in the clone."""
    for file in (project / "data").glob("*.dvc"):
        file.unlink()


def _timed(command: list[str], folder: Path, rows: int) -> float:
    """Seconds of a command with this Python, its kernels compiled in the clone."""
    started = time.monotonic()
    words = [word.format(rows=rows) for word in command]
    subprocess.run(words, cwd=folder, env=clone_environment(folder), check=True, stdout=sys.stderr)
    return time.monotonic() - started


if __name__ == "__main__":
    typer.run(main)
