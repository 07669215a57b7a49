"""The whole graph through DVC in a temporary copy, as a user runs it."""

import csv
import json
import subprocess
from pathlib import Path

import pytest

from qin.runtime.stage import STAGES
from tests.project import copy_project, dvc, ran, set_params


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, small_log: Path) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("pipeline") / "project", log=small_log)
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.mark.slow
def test_whole_graph(project: Path) -> None:
    assert ran(dvc(project, "repro")) == list(STAGES)
    assert "up to date" in dvc(project, "repro").stdout
    figures = {path.stem: json.loads(path.read_text()) for path in (project / "metrics").glob("*.json")}
    assert set(figures) == {*STAGES, "run"} - {"predict"}
    assert figures["train"]["rows"]["train"] == figures["split"]["rows"]["train"]
    assert figures["evaluate"]["rows"]["validation"] == figures["split"]["rows"]["val"]
    calibration = json.loads((project / "artifacts/temperature.json").read_text())
    assert calibration["temperature"] > 0
    with (
        (project / "outputs/submission.csv").open() as submission,
        (project / "data/sample_submission.csv").open() as sample,
    ):
        rows, wanted = list(csv.reader(submission)), list(csv.reader(sample))
    assert [row[0] for row in rows] == [row[0] for row in wanted]
    assert rows[0] == ["ID", "clicked"]
    assert all(0 < float(row[1]) < 1 for row in rows[1:])

    # Neither of the latter two shows in an output, so neither reruns prepare or train.
    untracked = {"train.checkpoint_seconds": 1.0, "prepare.batch_rows": 1000}
    set_params(project / "params.yaml", {"calibration.temperature_scaling": False, **untracked})
    assert ran(dvc(project, "repro")) == ["calibrate", "evaluate", "predict"]
    assert json.loads((project / "artifacts/temperature.json").read_text())["method"] == "identity"
    set_params(project / "params.yaml", {"predict.prior": "balanced"})
    assert ran(dvc(project, "repro")) == ["predict"]
