"""Stages run beside the workspace: only those whose settings differ, once, and with what DVC would have made."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qin.config import Params, load_params
from qin.experiments.changes import changed
from qin.experiments.runs import read_run
from qin.experiments.trial import Check, StoppedError, Trials
from qin.runtime import paths
from qin.runtime.errors import ArtifactError, ConfigError
from tests.project import ROOT, SMALL, set_params

ALL = ("prepare", "split", "train", "trees", "calibrate")


@pytest.fixture
def base(tmp_path: Path, small_log: Path) -> Params:
    """Small settings, the raw files named as from the log's own folder."""
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    set_params(file, {**SMALL, "train.refit": "none", "train.epochs": 1})
    names = {name: getattr(load_params(file).data, name) for name in ("train", "test", "sample_submission")}
    return changed(load_params(file), {f"data.{name}": Path(place).name for name, place in names.items()})


@pytest.fixture
def trials(tmp_path: Path, small_log: Path) -> Trials:
    return Trials(tmp_path / "trials", project=small_log)


def test_changes_obey_the_rules_of_the_settings(base: Params) -> None:
    assert changed(base, {"features.impression.key": ["hour"]}).features.impression.key == ["hour"]
    with pytest.raises(ConfigError, match=r"^train.lrr: unknown key, did you mean train.lr\? \(got 1\)$"):
        changed(base, {"train.lrr": 1})
    with pytest.raises(ConfigError, match=r"^train.lr: Input should be greater than 0 \(got -1\)$"):
        changed(base, {"train.lr": -1})
    with pytest.raises(ConfigError, match=r"^train.lr.x: unknown key, train.lr is no section$"):
        changed(base, {"train.lr.x": 1})


@pytest.mark.parametrize(
    ("changes", "differ"),
    [
        ({}, set()),
        ({"prepare.num_threads": 1, "train.num_threads": 2, "track.every_steps": 3}, set()),  # speed alone
        ({"evaluate.num_bins": 7, "predict.prior": "balanced"}, set()),  # later stages
        ({"calibration.method": "platt"}, {"calibrate"}),
        ({"trees.l2": 1.0}, {"trees", "calibrate"}),
        ({"train.lr": 0.5}, {"train", "calibrate"}),
        ({"features.statistics.enable": False}, {"train", "trees", "calibrate"}),
        ({"split.seed": 5}, {"split", "train", "trees", "calibrate"}),
        ({"features.matches": False}, {"prepare", "train", "trees", "calibrate"}),
        ({"data.test": None}, {"prepare", "train", "trees", "calibrate"}),
    ],
)
def test_a_change_is_another_key_of_the_stages_that_it_touches(
    base: Params, trials: Trials, changes: dict[str, object], differ: set[str]
) -> None:
    before, after = trials.keys(base), trials.keys(changed(base, changes))
    assert {name for name in ALL if before[name] != after[name]} == differ


def test_an_earlier_model_counts_by_its_content_where_it_decides(base: Params, trials: Trials, tmp_path: Path) -> None:
    """Also for the trees, which read the statistics that it names."""
    for name, content in (("one", "1"), ("copy", "1"), ("two", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.json").write_text(f'{{"format": {content}}}')
    found = {name: trials.keys(changed(base, {"train.init_from": str(tmp_path / name)})) for name in ("one", "two")}
    assert {stage for stage in ALL if found["one"][stage] != found["two"][stage]} == {"train", "trees", "calibrate"}
    assert trials.keys(base)["trees"] not in (found["one"]["trees"], found["two"]["trees"])


def test_trees_that_are_no_member_do_not_run(base: Params, trials: Trials) -> None:
    assert "trees" not in trials.keys(changed(base, {"model.members": ["network"]}))
    assert tuple(trials.keys(base, until="predict")) == (*ALL, "evaluate", "predict")


def test_only_what_differs_runs_and_a_trial_looks_like_the_repository(base: Params, trials: Trials) -> None:
    checks: list[Check] = []

    def listen(check: Check) -> bool:
        checks.append(check)
        return True

    first = trials.run(base, on_check=listen)
    assert first.ran == ALL
    assert [check["step"] for check in checks] == sorted({check["step"] for check in checks})
    assert min(check["val_log_loss"] for check in checks) == pytest.approx(first.metrics("train")["val_log_loss"], 1e-4)
    found = read_run(str(first.folder))
    assert found.scored.row.size == first.metrics("split")["rows"]["val"]
    assert load_params(first.folder / paths.PARAMS).train.epochs == 1
    other = trials.run(changed(base, {"calibration.method": "platt"}))
    assert other.ran == ("calibrate",)
    assert (other.folder / paths.MODEL).resolve() == (first.folder / paths.MODEL).resolve()
    told = len(checks)
    again = trials.run(base, on_check=listen)
    assert (again.folder, again.ran) == (first.folder, ())
    assert checks[told:] == checks[:told]  # a search that goes on hears the same as before


def test_a_training_that_is_stopped_leaves_nothing(base: Params, trials: Trials, tmp_path: Path) -> None:
    long = changed(base, {"train.epochs": 500, "train.patience": 500})
    with pytest.raises(StoppedError, match="stopped at check 2"):
        trials.run(long, until="train", on_check=lambda check: check["epoch"] < 1)
    assert list((tmp_path / "trials/train").iterdir()) == []
    with pytest.raises(StoppedError):
        trials.run(long, until="train", on_check=lambda _: False)


def test_the_error_of_a_stage_is_that_of_the_trial(base: Params, trials: Trials) -> None:
    with pytest.raises(ArtifactError, match=r"^stage prepare: .*column none_such.*stage\.log\)$"):
        trials.run(changed(base, {"data.drop": ["none_such"]}))


RUN = """
import sys
from pathlib import Path
from qin.config import load_params
from qin.experiments.trial import Trials
def tell(check):
    print(check["step"], flush=True)
    return True
file, root, log = map(Path, sys.argv[1:])
trial = Trials(root, project=log).run(load_params(file), until="train", on_check=tell)
print(*trial.ran)
"""


@pytest.mark.slow
def test_a_killed_trial_goes_on(base: Params, tmp_path: Path, small_log: Path) -> None:
    """The stage ends with whoever ran the trial, and its checkpoint is found by the next."""
    file = tmp_path / "params.yaml"
    set_params(file, {"train.epochs": 6, "train.patience": 99, "train.checkpoint_seconds": 0.0})
    set_params(file, {f"data.{name}": getattr(base.data, name) for name in ("train", "test", "sample_submission")})
    command = [sys.executable, "-c", RUN, str(file), str(tmp_path / "trials"), str(small_log)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        for _ in range(3):
            killed.stdout.readline()
        killed.send_signal(signal.SIGKILL)
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *steps, ran = again.stdout.splitlines()
    assert ran == "train"
    assert len(steps) == len(set(steps)) == 12
    (log,) = (tmp_path / "trials/train").glob("*/.qin/stage.log")
    assert "resuming at epoch" in log.read_text()
