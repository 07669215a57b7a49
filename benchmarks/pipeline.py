"""The whole way of a log with the default, stage by stage: the first `dvc repro`, a second one that is forced, a third.

    python -m benchmarks.pipeline --data data --out benchmarks/results/pipeline.json

It runs in a fresh clone of what is committed. The environment is installed already; the first run compiles the kernels,
as on a new machine, the second one finds them, the third has nothing to do. Run it on a machine that does nothing else.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.machine import describe, report
from benchmarks.profile import FILES, ROOT, clone_environment
from qin.runtime.stage import STAGES

# What is asked of DVC each time.
RUNS = {"first": ["repro"], "again": ["repro", "--force"], "nothing to do": ["repro"]}


def main(
    data: Annotated[Path, typer.Option(help="Folder with the three files.")] = ROOT / "data",
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Run the pipeline three times and print what each took as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        for name in FILES:
            (clone / "data" / f"{name}.dvc").unlink(missing_ok=True)
            (clone / "data" / name).symlink_to((data / name).resolve())
        runs = {name: _timed(command, clone) for name, command in RUNS.items()}
    report({"machine": describe(), "runs": runs}, out)


def _timed(command: list[str], clone: Path) -> dict[str, Any]:
    """Seconds of a command of DVC, and of the stages that it ran what each closed with."""
    closing = [clone / f".qin/stages/{name}.json" for name in STAGES]
    for file in closing:
        file.unlink(missing_ok=True)
    started = time.monotonic()
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, *command], cwd=clone, env=clone_environment(clone), check=True, stdout=sys.stderr)
    seconds = time.monotonic() - started
    stages = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in closing if file.is_file()}
    return {"seconds": seconds, "stages": stages}


if __name__ == "__main__":
    typer.run(main)
