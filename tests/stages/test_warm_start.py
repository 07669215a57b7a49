"""Training from yesterday's artifacts, by the stages: what is recorded, and what ends the stage before it trains."""

import json
import shutil
from pathlib import Path

import pytest

from qin.runtime import paths
from qin.runtime.chain import read_artifact
from tests.project import copy_project, set_params
from tests.stages.run import run_as_command, run_in_process

TO_TRAIN = ("prepare", "split", "train")


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory: pytest.TempPathFactory, small_log: Path) -> Path:
    """A project that has trained, its artifacts kept beside the outputs."""
    project = copy_project(tmp_path_factory.mktemp("warm") / "project", log=small_log)
    set_params(project / "params.yaml", {"train.epochs": 1, "model.members": ["network"]})
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(project)
        for stage in TO_TRAIN:
            run_in_process(stage)
        shutil.copytree(paths.ARTIFACTS, "kept/monday")
    return project


def test_training_goes_on_from_kept_artifacts_and_says_so(
    yesterday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = shutil.copytree(yesterday, tmp_path / "project")
    monkeypatch.chdir(project)
    before = json.loads((project / "metrics/train.json").read_text())
    set_params(project / "params.yaml", {"train.init_from": "kept/monday", "split.seed": 0})
    run_in_process("train")
    after = json.loads((project / "metrics/train.json").read_text())
    checksum = read_artifact(paths.MODEL, at=Path("kept/monday/model")).checksum
    assert after["init_from"] == checksum
    assert read_artifact(paths.MODEL).origin.made_from["train.init_from"] == checksum
    assert read_artifact(paths.MODEL).origin.settings["train.init_from"] == "kept/monday"
    assert after["statistics"]["num_kept"] == before["statistics"]["num_kept"]
    assert after["warnings"] == [], "the same log is divided in the same way"
    assert after["train_loss"] < before["train_loss"]
    for stage in ("calibrate", "predict"):  # which check what was made from what
        run_in_process(stage)


def test_another_model_ends_the_stage_before_it_trains(yesterday: Path, tmp_path: Path) -> None:
    project = shutil.copytree(yesterday, tmp_path / "project")
    model = (project / "artifacts/model/model.json").read_bytes()
    set_params(project / "params.yaml", {"train.init_from": "kept/monday", "model.num_layers": 2})
    done = run_as_command("train", project)
    assert done.returncode == 1
    line = "params.yaml: train.init_from: kept/monday: not the same model: model.num_layers 1 there, 2 here"
    assert line in done.stderr
    assert "Traceback" not in done.stderr
    assert (project / "artifacts/model/model.json").read_bytes() == model
