"""Grids, seeds, means and standard errors; a point that fails does not stop the rest; the whole through DVC."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qin.cli import app
from qin.errors import ConfigError
from qin.experiments import sweep as module
from qin.experiments.sweep import Outcome, Settings, grid, parse_choices, run_sweep, table
from tests.project import ROOT, committed_project, git


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.dropout=0.0,0.1", ("model.dropout", ["0.0", "0.1"])),
        ("train.lr=1e-3", ("train.lr", ["1e-3"])),
        ("features.target=[a,b],[c]", ("features.target", ["[a,b]", "[c]"])),
        ("split.time_val_start='2022-05-04, noon',x", ("split.time_val_start", ["'2022-05-04, noon'", "x"])),
        ('a={b: 1, c: "}"},2', ("a", ['{b: 1, c: "}"}', "2"])),
        ("a=b=c", ("a", ["b=c"])),
    ],
)
def test_choices(text: str, expected: tuple[str, list[str]]) -> None:
    assert parse_choices(text) == expected


@pytest.mark.parametrize("text", ["model.dropout", "model.dropout=", "=1", "a=1,,2", "a=1,"])
def test_bad_choices_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^--set-param {text}: expected KEY=VALUE or KEY=VALUE,VALUE$"):
        parse_choices(text)


def test_a_grid_is_every_combination() -> None:
    assert grid([]) == [{}]
    assert grid(["a=1,2", "b=x,y"]) == [
        {"a": "1", "b": "x"},
        {"a": "1", "b": "y"},
        {"a": "2", "b": "x"},
        {"a": "2", "b": "y"},
    ]


@pytest.mark.parametrize(("choices", "rule"), [(["a=1", "a=2"], "given twice"), (["train.seed=1"], "use --seeds")])
def test_grids_that_make_no_sense_are_refused(choices: list[str], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        grid(choices)


def fake_run(settings: Settings) -> Outcome:
    """Fails at a=bad and, with seed 1, at a=half; otherwise the metrics are simple numbers."""
    seed = int(settings["train.seed"])
    if settings["a"] == "bad" or (settings["a"] == "half" and seed == 1):
        return Outcome("x", error="no luck")
    return Outcome("x", metrics={"ap": 1.0 + seed, "after": {"wll": 0.5}, "name": "text"})


def test_means_and_standard_errors_are_over_the_runs_that_succeeded() -> None:
    points = [{"a": "good"}, {"a": "bad"}, {"a": "half"}]
    results = run_sweep(points, num_seeds=4, metrics=["ap", "after.wll"], run=fake_run)
    assert [result["settings"] for result in results] == points
    good, bad, half = results
    assert good["mean"] == {"ap": 2.5, "after.wll": 0.5}
    assert math.isclose(good["standard_error"]["ap"], math.sqrt(5 / 3) / 2)
    assert [run["seed"] for run in good["runs"]] == [0, 1, 2, 3]
    assert (bad["mean"], bad["standard_error"]) == ({}, {})
    assert [run["error"] for run in half["runs"]] == [None, "no luck", None, None]
    assert math.isclose(half["mean"]["ap"], (1 + 3 + 4) / 3)
    lines = table(results, ["ap", "after.wll"]).splitlines()
    assert [line.split() for line in lines] == [
        ["a", "runs", "ap", "after.wll"],
        ["good", "4/4", "2.50000", "±", "0.64550", "0.50000", "±", "0.00000"],
        ["bad", "0/4", "failed", "failed"],
        ["half", "3/4", "2.66667", "±", "0.88192", "0.50000", "±", "0.00000"],
    ]


def test_one_seed_has_no_standard_error() -> None:
    results = run_sweep([{"a": "good"}], num_seeds=1, metrics=["ap"], run=fake_run)
    assert table(results, ["ap"]).splitlines()[1].split() == ["good", "1/1", "1.00000"]


@pytest.mark.parametrize("path", ["auc", "after", "name", "after.auc"])
def test_a_metric_that_is_not_there_is_named(path: str) -> None:
    (result,) = run_sweep([{"a": "good"}], num_seeds=1, metrics=[path], run=fake_run)
    assert result["runs"][0]["error"] == f"metrics/evaluate.json: no number {path}; it has ap, after, name"


def test_exit_status_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.run_sweep, "__kwdefaults__", {"run": fake_run})
    command = ["sweep", "--seeds", "2", "--metric", "ap"]
    done = CliRunner().invoke(app, [*command, "-S", "a=good", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["points"][0]["mean"] == {"ap": 1.5}
    done = CliRunner().invoke(app, [*command, "-S", "a=good,bad"])
    assert done.exit_code == 1
    assert "good  2/2   1.50000 ± 0.50000" in done.stdout
    assert CliRunner().invoke(app, [*command, "-S", "a"]).exit_code == 1


def test_outside_a_repository_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="a sweep starts from a commit"):
        run_sweep([{}], num_seeds=1, metrics=["ap"])


def qin_sweep(project: Path, *arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "qin.cli", "sweep", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=project, env=environment, text=True, start_new_session=True, **pipes)


@pytest.mark.slow
def test_a_sweep_through_dvc_survives_a_failure_and_a_kill(tmp_path: Path, small_log: Path) -> None:
    project = committed_project(tmp_path / "project", log=small_log, run=True)
    before = git(project, "status", "--porcelain")
    arguments = [
        "-S",
        "calibration.temperature_scaling=false",
        "-S",
        "predict.prior=2,natural",
        "--seeds",
        "2",
        "--json",
    ]
    with qin_sweep(project, *arguments) as killed:
        assert killed.stderr is not None
        for line in killed.stderr:
            if line.startswith("[3/4]"):  # the two runs of the bad point, and one that trained
                break
        os.killpg(killed.pid, signal.SIGKILL)
    with qin_sweep(project, *arguments) as again:
        out, err = again.communicate()
    assert again.returncode == 1, err
    bad, good = json.loads(out)["points"]
    assert all("predict.prior" in run["error"] for run in bad["runs"])
    assert [run["error"] for run in good["runs"]] == [None, None]
    assert len({run["metrics"]["ap"] for run in good["runs"]}) == 2  # the seeds trained different models
    log = (project / f".qin/sweep/{good['runs'][0]['name']}.log").read_text()
    assert "Running stage" not in log  # what had run before came from the run cache
    assert "Stage 'evaluate' is cached" in log
    assert git(project, "status", "--porcelain") == before
