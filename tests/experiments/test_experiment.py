"""Runs of a search as experiments of DVC, which survive a failure and a kill."""

import json
import os
import signal
from pathlib import Path

import pytest

from qin.experiments.experiment import run_experiment
from qin.experiments.reasons import reason_of
from qin.runtime.errors import ConfigError
from tests.experiments.test_tune import qin_tune
from tests.project import committed_project, git


def test_the_reason_is_the_stage_s_error_or_dvc_s() -> None:
    assert reason_of(["STAGE", "error: train.lr: no", "ERROR: failed"]) == "train.lr: no"
    assert reason_of(["x", "ERROR: failed"]) == "failed"
    assert reason_of(["Traceback", "ValueError: x"]) == "ValueError: x"
    assert reason_of([]) == "nothing was printed"


def test_outside_a_repository_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="an experiment starts from a commit"):
        run_experiment({})


@pytest.mark.slow
def test_a_grid_through_dvc_survives_a_kill(tmp_path: Path, small_log: Path) -> None:
    project = committed_project(tmp_path / "project", log=small_log, run=True)
    before = git(project, "status", "--porcelain")
    arguments = [
        *("-S", "calibration.temperature_scaling=true,false", "--grid"),
        *("--seeds", "2", "--experiments", "--json"),
    ]
    with qin_tune(project, *arguments) as killed:
        assert killed.stderr is not None
        for line in killed.stderr:
            if line.startswith("finalists [3/4]"):  # one that trained with the second seed
                break
        os.killpg(killed.pid, signal.SIGKILL)
    with qin_tune(project, *arguments) as again:
        out, err = again.communicate()
    assert again.returncode == 0, err
    finalists = json.loads(out)["finalists"]
    assert [one["seeds"] for one in finalists] == [2, 2]
    log = max((project / ".qin/tune").glob("tune-*.log"), key=lambda path: path.stat().st_mtime).read_text()
    assert "Running stage 'train'" not in log  # what had run before came from the run cache
    assert git(project, "status", "--porcelain") == before
