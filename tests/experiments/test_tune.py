"""A search and its finalists: with made-up runs whose best settings are known, and once with the stages themselves."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qin.config import Params, load_params
from qin.config.strict_yaml import parse_yaml
from qin.experiments.changes import changed, leaves
from qin.experiments.judged import Judged, Mean, differences
from qin.experiments.search import Budget
from qin.experiments.space import Space, read_space
from qin.experiments.trial import OnCheck, StoppedError
from qin.experiments.tune import Plan, Tuned, tune, tuned_json, tuned_text
from qin.metrics.definitions import Rows
from qin.metrics.paired import compare_logits
from qin.runtime.errors import ConfigError, TrainingError
from tests.project import RAW_FILES, ROOT, SMALL

SPACE = ["train.lr=1e-4..1e-1:log", "model.dropout=0.0,0.1,0.3"]
_LABEL = (np.arange(4000) % 20 == 0).astype(np.uint8)


@pytest.fixture(scope="module")
def base(small_log: Path) -> Params:
    names = dict(zip(("train", "test", "sample_submission"), RAW_FILES, strict=True))
    return changed(
        load_params(ROOT / "params.yaml"), {f"data.{key}": str(small_log / name) for key, name in names.items()}
    )


@pytest.fixture
def space(base: Params) -> Space:
    return read_space(SPACE, None, base)


class FakeRun:
    """Best at a rate of 0.01 with a dropout of 0.3; counts, and fails or is killed where it is told to.

    Args:
        base: The settings.
    """

    def __init__(self, base: Params) -> None:
        self.base, self.seen, self.fails_at, self.killed_at = base, list[dict[str, Any]](), -1, -1

    def __call__(self, changes: Mapping[str, Any], *, on_check: OnCheck | None = None) -> Judged:
        self.seen.append(dict(changes))
        if len(self.seen) == self.killed_at:
            raise KeyboardInterrupt
        if len(self.seen) == self.fails_at:
            raise TrainingError("the loss is nan")
        params = changed(self.base, changes)
        distance = abs(np.log10(params.train.lr) + 2.0) + (0.3 - params.model.dropout)
        for number in range(1, 6):
            if on_check is not None and not on_check({"val_log_loss": 0.2 + 0.01 * distance + 0.1 / number}):
                raise StoppedError("stopped")
        rng = np.random.default_rng(params.train.seed)
        logit = np.where(_LABEL == 1, 0.5, -0.5) * (3.0 - distance) + rng.normal(size=_LABEL.size) - 2.0
        return Judged(0.2 + 0.01 * distance, Rows(logit.astype(np.float64), _LABEL), np.arange(_LABEL.size))


def plan(num_trials: int | None = 15, **options: Any) -> Plan:
    return Plan(budget=Budget(num_trials, options.pop("minutes", None)), **{"num_seeds": 2, **options})


def settings(tuned: Tuned) -> list[dict[str, Any]]:
    return [one.settings for one in tuned.tried]


def test_a_search_finds_what_is_best_and_says_what_it_is_worth(base: Params, space: Space, tmp_path: Path) -> None:
    run = FakeRun(base)
    tuned = tune(base, space, plan(30), folder=tmp_path, run=run)
    assert tuned.best.settings["model.dropout"] == 0.3
    assert 0.003 < tuned.best.settings["train.lr"] < 0.03
    assert tuned.finalists[1] is tuned.best
    assert [len(finalist.runs) for finalist in tuned.finalists] == [2, 2, 2, 2]
    assert len({json.dumps(finalist.settings) for finalist in tuned.finalists}) == 4
    seeds = [one.get("train.seed") for one in run.seen[31:]]
    assert seeds == [0] * 4 + [1] * 4
    report = tuned_json(tuned)
    assert report["best"]["name"] == report["finalists"][1]["name"]
    better = report["finalists"][1]["report"]["log_loss"]
    assert better["verdict"] == "better"
    assert better["difference"] < 0.0 < better["standard_error"]
    assert all(row["difference"] == 0.0 for row in report["finalists"][0]["report"].values())
    text = tuned_text(tuned)
    assert "params.yaml" in text
    assert max(map(len, text.splitlines())) <= 100
    assert f"best on the selection half: {tuned.best.name}" in text


def test_a_label_that_is_not_there_is_found_before_anything_runs(base: Params, space: Space, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no label clickd, did you mean clicked\?"):
        tune(base, space, plan(), label="clickd", folder=tmp_path, run=FakeRun(base))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["0.0..0.5:step=0.2", "0.0..0.5:step=0.1"])
def test_the_default_may_lie_between_the_steps_of_a_range(base: Params, step: str, tmp_path: Path) -> None:
    """The shipped dropout of 0.1 is a point of the second grid alone; Optuna refuses the others."""
    tuned = tune(base, read_space([f"model.dropout={step}"], None, base), plan(3), folder=tmp_path, run=FakeRun(base))
    assert base.model.dropout == 0.1
    assert len(tuned.tried) == 3


def test_a_key_of_a_mapping_may_be_new(base: Params, tmp_path: Path) -> None:
    space = read_space(["features.num_buckets_of.gender=1000,5000"], None, base)
    tuned = tune(base, space, plan(2), folder=tmp_path, run=FakeRun(base))
    assert {one["features.num_buckets_of.gender"] for one in settings(tuned)} <= {1000, 5000}


def test_losing_trials_are_stopped_and_no_finalists(base: Params, space: Space, tmp_path: Path) -> None:
    tuned = tune(base, space, plan(25), folder=tmp_path, run=FakeRun(base))
    states = [one.state for one in tuned.tried]
    assert states.count("pruned") > 3
    assert states.count("complete") + states.count("pruned") == 25
    assert all(3 <= one.num_checks < 5 for one in tuned.tried if one.state == "pruned")
    stopped = {f"trial {one.number}" for one in tuned.tried if one.state == "pruned"}
    assert not stopped & {finalist.name for finalist in tuned.finalists}
    whole = tune(base, space, plan(25, prunes=False), folder=tmp_path, run=FakeRun(base))
    assert {one.state for one in whole.tried} == {"complete"}


def test_the_same_seed_draws_the_same_and_a_search_goes_on(base: Params, space: Space, tmp_path: Path) -> None:
    """Also after a kill in the middle of a trial, which is made again."""
    whole = tune(base, space, plan(14), folder=tmp_path / "whole", run=FakeRun(base))
    run = FakeRun(base)
    run.killed_at = 13  # the default and eleven trials are done
    with pytest.raises(KeyboardInterrupt):
        tune(base, space, plan(14), folder=tmp_path / "parts", run=run)
    again = FakeRun(base)
    parts = tune(base, space, plan(14), folder=tmp_path / "parts", run=again)
    assert settings(parts) == settings(whole)
    assert [one.state for one in parts.tried] == [one.state for one in whole.tried]
    assert len(again.seen) == 3 + 8  # what was left, and the finalists
    assert again.seen[0] == run.seen[-1]
    other = tune(base, space, plan(14, seed=1), folder=tmp_path / "whole", run=FakeRun(base))
    assert settings(other) != settings(whole)
    more = FakeRun(base)
    assert len(tune(base, space, plan(16), folder=tmp_path / "whole", run=more).tried) == 16
    assert len(more.seen) == 2 + 8


def test_a_trial_that_fails_is_told_and_the_rest_goes_on(
    base: Params, space: Space, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = FakeRun(base)
    run.fails_at = 3
    with caplog.at_level("INFO", logger="qin"):
        tuned = tune(base, space, plan(5), folder=tmp_path, run=run)
    assert [one.state for one in tuned.tried].count("fail") == 1
    assert tuned.tried[1].error == "the loss is nan"
    assert "[2/5]" in caplog.text
    assert "failed: the loss is nan" in caplog.text
    assert tuned.errors == []


def test_no_trial_begins_after_the_minutes(base: Params, space: Space, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no trial was completed: the budget allowed none"):
        tune(base, space, plan(None, minutes=0.0), folder=tmp_path, run=FakeRun(base))


def test_a_grid_runs_every_point_with_every_seed(base: Params, tmp_path: Path) -> None:
    run = FakeRun(base)
    space = read_space(["model.dropout=0.0,0.1,0.3", "train.epochs=2"], None, base)
    tuned = tune(base, space, plan(is_grid=True), folder=tmp_path, run=run)
    assert base.model.dropout == 0.1  # which is the default, and no point of its own
    assert [finalist.settings for finalist in tuned.finalists] == [{}, {"model.dropout": 0.3}, {"model.dropout": 0.0}]
    assert len(run.seen) == 6
    assert all(one["train.epochs"] == 2 for one in run.seen)
    assert tuned.best.settings == {"model.dropout": 0.3}
    assert not (tmp_path / "studies.db").exists()
    run.fails_at = len(run.seen) + 2
    failed = tune(base, space, plan(is_grid=True), folder=tmp_path, run=run)
    assert failed.errors == ["point 1, seed 0: the loss is nan"]
    assert "point 1" in tuned_text(failed)


def test_a_difference_scatters_with_the_rows_and_with_the_seeds(base: Params) -> None:
    run = FakeRun(base)
    first = [run({"train.seed": seed}) for seed in range(3)]
    second = [run({"train.seed": seed, "train.lr": 0.01}) for seed in range(3)]
    one = differences(first[:1], second[:1], cluster=None)["auc"]
    paired = compare_logits(first[0].rows.logit, second[0].rows.logit, _LABEL)["auc"]
    assert one == paired  # with one seed it is what qin compare says
    found = differences(first, second, cluster=None)["auc"]
    assert found.standard_error is not None
    of_seeds = Mean.of([b.reported["auc"].value - a.reported["auc"].value for a, b in zip(first, second, strict=True)])
    assert found.difference == pytest.approx(of_seeds.value)
    assert of_seeds.standard_error is not None
    assert found.standard_error > of_seeds.standard_error


def test_means_need_two_seeds_for_an_error() -> None:
    assert Mean.of([1.0]) == Mean(1.0, None)
    assert Mean.of([1.0, 3.0]) == Mean(2.0, 1.0)


@pytest.fixture
def project(tmp_path: Path, small_log: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    for name in RAW_FILES:
        (folder / "data" / name).symlink_to(small_log / name)
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def qin_tune(project: Path, *arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "qin.cli", "tune", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=project, env=environment, text=True, start_new_session=True, **pipes)


def test_a_mistyped_search_ends_before_anything_runs(project: Path) -> None:
    with qin_tune(project, "-S", "train.lrr=1,2") as done:
        out, err = done.communicate()
    assert (done.returncode, out) == (1, "")
    assert err == "error: --set-param train.lrr=1,2: train.lrr: unknown key, did you mean train.lr? (got 1)\n"
    assert not (project / ".qin").exists()


@pytest.mark.slow
def test_a_search_of_the_pipeline_goes_on_after_a_kill_and_writes_the_best(project: Path) -> None:
    small = [f"{key}={value}" for key, value in SMALL.items() if key.startswith(("train.", "model.", "trees."))]
    options = [word for change in [*small, "train.lr=1e-3,3e-2"] for word in ("-S", change)]
    arguments = [*options, "--trials", "3", "--seeds", "2", "--finalists", "1", "--json", "--apply"]
    before = (project / "params.yaml").read_text(encoding="utf-8")
    with qin_tune(project, *arguments) as killed:
        assert killed.stderr is not None
        for line in killed.stderr:
            if line.startswith("[1/3]"):
                break
        os.killpg(killed.pid, signal.SIGKILL)
    with qin_tune(project, *arguments) as again:
        out, err = again.communicate()
    assert again.returncode == 0, err
    assert "1 trials made before" in err
    report = json.loads(out)
    assert [one["state"] for one in report["trials"]].count("complete") >= 1
    best = report["best"]["settings"]
    after = (project / "params.yaml").read_text(encoding="utf-8")
    settings, expected = (dict(leaves(parse_yaml(text, source="params.yaml"))) for text in (after, before))
    fixed = {key: SMALL[key] for key in SMALL if any(word.startswith(f"{key}=") for word in small)}
    assert settings == (expected | fixed | best if best else expected)
    assert not list((project / ".qin/tune/trials/train").glob("*/artifacts/model"))
