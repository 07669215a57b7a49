"""A remote: push, clone, pull, and run again only what depends on a change."""

import subprocess
from pathlib import Path

import pytest

from tests.project import committed_project, digests, dvc, git, ran, set_params

pytestmark = pytest.mark.slow


def clone_of(project: Path, folder: Path) -> Path:
    subprocess.run(["git", "clone", "-q", str(project), str(folder)], check=True)
    return folder


def test_push_pull_and_partial_runs(tmp_path: Path, small_log: Path) -> None:
    project = committed_project(tmp_path / "project", log=small_log, run=True)
    assert dvc(project, "remote", "add", "--default", "storage", str(tmp_path / "remote")).returncode == 0
    git(project, "commit", "-qam", "remote")
    pushed = dvc(project, "push", "--run-cache")
    assert pushed.returncode == 0, pushed.stderr
    whole = digests(project)

    pulled = clone_of(project, tmp_path / "pulled")
    assert dvc(pulled, "pull").returncode == 0
    assert digests(pulled) == whole
    done = dvc(pulled, "repro")
    assert "up to date" in done.stdout
    assert ran(done) == []

    # Without the files: what depends on the change is run, and what that reads is pulled.
    partial = clone_of(project, tmp_path / "partial")
    set_params(partial / "params.yaml", {"calibration.temperature_scaling": False})
    assert ran(dvc(partial, "repro", "--pull", "--allow-missing")) == ["calibrate", "evaluate", "predict"]
    set_params(project / "params.yaml", {"calibration.temperature_scaling": False})
    assert ran(dvc(project, "repro")) == ["calibrate", "evaluate", "predict"]
    assert (partial / "dvc.lock").read_bytes() == (project / "dvc.lock").read_bytes()
    assert (partial / "outputs/submission.csv").read_bytes() == (project / "outputs/submission.csv").read_bytes()

    # The model alone, by the name in dvc.yaml and a version in a tag.
    model = tmp_path / "model"
    git(project, "tag", "--annotate", "qin@v1.0.0", "--message", "first")
    got = dvc(tmp_path, "artifacts", "get", str(project), "qin", "--out", str(model))
    assert got.returncode == 0, got.stderr
    assert (model / "weights.safetensors").read_bytes() == (pulled / "artifacts/model/weights.safetensors").read_bytes()
