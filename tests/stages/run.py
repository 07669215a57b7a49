"""Running one stage: in this process, or as DVC does."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from qin.runtime.stage import STAGES
from tests.project import ROOT

# How far long work has come; how often that is said depends on the machine.
_PROGRESS = re.compile(r": \d+ of \d+ [\w ]+, [\d.e-]+ per second")


def said(printed: str) -> list[str]:
    """What stages printed besides their first and last lines and their progress."""
    return [line for line in printed.splitlines() if not line.startswith("STAGE") and not _PROGRESS.search(line)]


def run_in_process(stage: str) -> None:
    """Call a stage's command in the current folder."""
    importlib.import_module(f"stages.{stage}").main()


def run_as_command(stage: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m stages <stage>` in a folder with the checkout's code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    return subprocess.run(
        [sys.executable, "-m", "stages", stage],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def run_all(project: Path, stages: Iterable[str] = STAGES) -> None:
    """Run stages in a project's folder, in this process; afterwards the current folder is what it was."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(project)
        for stage in stages:
            run_in_process(stage)
