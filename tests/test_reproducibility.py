"""The same bytes every time, and no process left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workspace import digests, dvc, git_project, set_params

pytestmark = pytest.mark.slow


def test_same_bytes_twice_and_elsewhere(tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = git_project(tmp_path / "first", log=small_log)
    assert dvc(first, "repro").returncode == 0
    once = digests(first)
    assert dvc(first, "repro", "-f").returncode == 0
    assert digests(first) == once

    second = git_project(tmp_path / "another folder", log=small_log)
    set_params(
        second / "params.yaml", {"prepare.batch_rows": 777, "prepare.num_threads": 3, "train.checkpoint_seconds": 0.0}
    )
    for name, value in {"PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Kathmandu"}.items():
        monkeypatch.setenv(name, value)
    assert dvc(second, "repro").returncode == 0
    assert digests(second) == once


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_killed_dvc_leaves_no_training_and_the_next_run_goes_on(tmp_path: Path, small_log: Path, shell: str) -> None:
    project = git_project(tmp_path / "project", log=small_log)
    set_params(project / "params.yaml", {"train.epochs": 6, "train.patience": 6, "train.checkpoint_seconds": 0.0})
    assert dvc(project, "repro").returncode == 0
    whole = digests(project)

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SHELL": shell}
    command = [sys.executable, "-m", "dvc", "repro", "-f", "-s", "train"]
    with subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        checkpoints = project / ".qin/checkpoints"
        _wait_for(lambda: any(checkpoints.rglob("checkpoint.pt")))
        run.send_signal(signal.SIGKILL)
    _wait_for(lambda: not _processes_in(project))
    assert any(checkpoints.rglob("checkpoint.pt"))
    assert dvc(project, "repro").returncode == 0
    assert digests(project) == whole


def _wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def _processes_in(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")) == folder and b"stages" in (process / "cmdline").read_bytes():
                found.append(process.name)
        except OSError:  # it ended meanwhile, or is not ours
            continue
    return found
