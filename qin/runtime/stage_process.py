"""A stage as a process of its own in another folder, which ends with the process that started it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from qin.runtime.parent import ENDS_WITH_PARENT

_CODE = Path(__file__).resolve().parents[2]


@contextmanager
def started_stage(
    stage: str, folder: Path, *, checkpoints: Path, output: IO[Any] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a stage in a folder that is laid out like the repository; whatever ends the block ends it.

    Args:
        stage: One of STAGES.
        folder: Where it runs.
        checkpoints: Where a training that is killed leaves its state.
        output: What it prints goes there; None for where this process prints.
    """
    known = [str(_CODE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(known),
        "QIN_CHECKPOINTS": str(checkpoints.absolute()),
        ENDS_WITH_PARENT: "1",
    }
    command = [sys.executable, "-m", "stages", stage]
    errors = None if output is None else subprocess.STDOUT
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=errors)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
