"""Tracking changes no byte of what stages write."""

from pathlib import Path

import pytest

from tests.project import copy_project, digests, set_params
from tests.stages.run import run_in_process


def test_a_tracked_training_writes_the_same_bytes(
    tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    project = copy_project(tmp_path / "project", log=small_log)
    monkeypatch.chdir(project)
    for stage in ("prepare", "split", "train"):
        run_in_process(stage)
    untracked = digests(project)
    set_params(project / "params.yaml", {"track.to": ["tensorboard"], "track.every_steps": 1})
    run_in_process("train")
    assert digests(project) == untracked
    assert list((project / "runs/tensorboard").glob("*/events.*"))
