"""Experiments in temporary folders and in the queue: never another's state, and a killed one goes on."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.dvc.chaos import wait_until
from tests.project import committed_project, dvc, dvc_command, git, processes_in, set_params

pytestmark = pytest.mark.slow

SETTINGS = {"train.epochs": 3, "train.patience": 3, "train.checkpoint_steps": 1}
CHANGES = {"first": {"train.lr": 0.003}, "second": {"train.lr": 0.002}}


def experiment(project: Path, name: str, *options: str) -> tuple[list[str], dict[str, str]]:
    changes = [word for key, value in CHANGES[name].items() for word in ("--set-param", f"{key}={value}")]
    return dvc_command("exp", "run", *options, "--name", name, *changes)


def lock_of(project: Path, name: str) -> str:
    """An experiment's dvc.lock, which holds the checksums of all that it read and wrote."""
    (reference,) = [
        line for line in git(project, "for-each-ref", "--format=%(refname)").split() if line.endswith(f"/{name}")
    ]
    return git(project, "show", f"{reference}:dvc.lock")


def expected_lock(project: Path, folder: Path, name: str) -> str:
    """What an uninterrupted run with the same settings in a workspace writes."""
    shutil.copytree(project, folder, symlinks=True)
    set_params(folder / "params.yaml", CHANGES[name])
    done = dvc(folder, "repro")
    assert done.returncode == 0, done.stderr
    return (folder / "dvc.lock").read_text()


def test_killed_and_queued_experiments_never_mix(
    tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both experiments share the folder of checkpoints, in which a killed run of the first has left one."""
    project = committed_project(tmp_path / "project", log=small_log, run=False)
    set_params(project / "params.yaml", SETTINGS)
    assert dvc(project, "repro", "prepare", "split").returncode == 0
    git(project, "commit", "-qam", "settings")
    expected = {name: expected_lock(project, tmp_path / name, name) for name in CHANGES}
    assert expected["first"] != expected["second"]

    checkpoints = tmp_path / "checkpoints"
    monkeypatch.setenv("QIN_CHECKPOINTS", str(checkpoints))
    command, environment = experiment(project, "first", "--temp")
    with subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        assert wait_until(lambda: any(checkpoints.rglob("*.pt")), seconds=120) is not None
        run.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not processes_in(project, "stages"), seconds=60) is not None
    (left,) = checkpoints.rglob("*.pt")

    for name in CHANGES:
        command, environment = experiment(project, name, "--queue")
        subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True)
    try:
        assert dvc(project, "queue", "start", "--jobs", "2").returncode == 0
        assert wait_until(lambda: all_done(project), seconds=300) is not None, dvc(project, "queue", "status").stdout
    finally:
        for process in processes_in(project, "celery"):
            os.kill(process, signal.SIGTERM)
    for name in CHANGES:
        assert lock_of(project, name) == expected[name]
    assert not left.exists()
    assert list(checkpoints.iterdir()) == []
    assert "resuming at epoch" in dvc(project, "queue", "logs", "first").stdout


def all_done(project: Path) -> bool:
    status = dvc(project, "queue", "status").stdout
    return "Queued" not in status and "Running" not in status
