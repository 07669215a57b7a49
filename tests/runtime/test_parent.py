"""A process ends with the `dvc` above it, wherever that stands, and with nothing else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from qin.runtime import host
from qin.runtime.parent import ENDS_WITH_PARENT, is_dvc
from tests.project import ROOT

# Prints its number once it is bound, then waits.
STAGE = "import os, time\nfrom qin.runtime.parent import end_with_dvc\n{before}\nend_with_dvc()\n"
STAGE += "print(os.getpid(), flush=True)\ntime.sleep(60)\n"
NO_SIGNAL = "import qin.runtime.parent as p; p._signal_at_parents_death = lambda: False"

# What stands between the program and the stage: nothing, a shell that stays, or a shell that a shell started.
SHELLS = {
    "none": "[sys.executable, {stage!r}]",
    "shell": "['/bin/sh', '-c', '\"$0\" \"$1\"; true', sys.executable, {stage!r}]",
    "exec": "['/bin/sh', '-c', 'exec \"$0\" \"$1\"', sys.executable, {stage!r}]",
}


def start(folder: Path, name: str, *, between: str, before: str = "pass") -> tuple["subprocess.Popen[str]", int]:
    """A program of some name that has started a stage, and the stage's number."""
    (folder / "stage.py").write_text(STAGE.format(before=before))
    command = SHELLS[between].format(stage=str(folder / "stage.py"))
    (folder / name).write_text(f"import subprocess, sys\nsubprocess.run({command})\n")
    program = subprocess.Popen(
        [sys.executable, str(folder / name)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    return program, int(program.stdout.readline())


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.mark.parametrize("before", ["pass", NO_SIGNAL], ids=["as it is", "without a signal"])
@pytest.mark.parametrize("between", SHELLS)
def test_a_stage_ends_with_dvc(tmp_path: Path, between: str, before: str) -> None:
    program, number = start(tmp_path, "dvc", between=between, before=before)
    stage = psutil.Process(number)
    with program:
        assert host.is_alive(stage)
        program.kill()
        assert wait_until(lambda: not host.is_alive(stage), seconds=10)


@pytest.mark.parametrize("between", SHELLS)
def test_a_stage_outlives_another_program(tmp_path: Path, between: str) -> None:
    program, number = start(tmp_path, "terminal", between=between)
    stage = psutil.Process(number)
    with program:
        program.kill()
        program.wait()
        time.sleep(1.5)  # three looks of a watching thread
        assert host.is_alive(stage)
        stage.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("before", ["pass", NO_SIGNAL], ids=["as it is", "without a signal"])
def test_a_stage_of_a_trial_ends_with_whoever_runs_it(
    tmp_path: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDS_WITH_PARENT, "1")
    bound = f"{before}\nfrom qin.runtime.parent import end_with_launcher\nend_with_launcher()"
    program, number = start(tmp_path, "tune", between="none", before=bound)
    stage = psutil.Process(number)
    with program:
        assert host.is_alive(stage)
        program.kill()
        assert wait_until(lambda: not host.is_alive(stage), seconds=10)


@pytest.mark.parametrize(
    "command",
    [
        ["dvc", "repro"],
        ["/opt/a b/bin/dvc", "repro"],
        ["/usr/bin/python3", "/home/me/.venv/bin/dvc", "repro"],
        ["python", "-m", "dvc", "repro"],
        ["python", "-u", "-I", "-m", "dvc", "exp", "run"],
        ["python", "-u", "bin/dvc"],
        ["dvc.exe", "repro"],
    ],
)
def test_dvc_is_known_by_its_command_line(command: list[str]) -> None:
    assert is_dvc(command)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["bash"],
        ["python", "-m", "pytest", "tests/dvc"],
        ["/home/dvc/bin/python", "x.py"],
        ["dvc-viewer"],
        ["-bash"],
    ],
)
def test_others_are_not(command: list[str]) -> None:
    assert not is_dvc(command)
