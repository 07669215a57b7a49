"""Trackers told of a run: what reaches them, and that none can end it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from qin.runtime.errors import ConfigError
from qin.tracking.adapters import check_installed
from qin.tracking.tracking import Tracking, open_tracking


class Recorder:
    """Keeps what it is told; raises at a step."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.told: list[Any] = []
        self._fails_at = fails_at

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        if step == self._fails_at:
            raise RuntimeError("no network")
        self.told.append((step, dict(figures)))

    def summarise(self, figures: Mapping[str, float]) -> None:
        self.told.append(dict(figures))

    def add_file(self, path: Path) -> None:
        self.told.append(path)

    def finish(self) -> None:
        self.told.append("finished")


def test_steps_are_told_with_rows_per_second_and_memory() -> None:
    recorder = Recorder()
    with Tracking({"a": recorder}) as tracking:
        tell = tracking.step("train/")
        for step in (20, 40):
            tell(step, {"loss": 0.5, "lr": 0.1, "rows": 512.0 * step})
    (first, second), last = recorder.told[:2], recorder.told[2]
    assert first[0], second[0] == (20, 40)
    assert set(first[1]) == {"train/loss", "train/lr", "train/memory_gib"}
    assert set(second[1]) == {*first[1], "train/rows_per_second"}
    assert second[1]["train/rows_per_second"] > 0
    assert last == "finished"


def test_a_check_and_a_tree_of_figures_are_told_flat() -> None:
    recorder = Recorder()
    tracking = Tracking({"a": recorder})
    tracking.check([])
    tracking.check([{"step": 7, "epoch": 0.5, "val_ap": 0.1, "lr": 0.1}])
    tracking.summarise({"ap": 0.1, "after": {"ne": 1}, "method": "x", "reweighted": True, "gauc": None})
    assert recorder.told == [(7, {"check/epoch": 0.5, "check/val_ap": 0.1}), {"ap": 0.1, "after.ne": 1.0}]


def test_a_tracker_that_fails_is_warned_of_once_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    good, bad = Recorder(), Recorder(fails_at=2)
    with caplog.at_level(logging.WARNING, logger="qin"), Tracking({"bad": bad, "good": good}) as tracking:
        for step in (1, 2, 3):
            tracking.step("")(step, {"loss": 0.5, "rows": 1.0})
    assert [step for step, _ in bad.told] == [1]
    assert [told[0] for told in good.told[:3]] == [1, 2, 3]
    assert len(caplog.messages) == 1
    assert "track.to: bad failed (RuntimeError: no network); the run goes on without it" in caplog.messages[0]


def test_a_tracker_that_is_not_installed_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r'wandb is not installed: pip install "qin-ctr\[wandb\]"'):
        check_installed(["wandb"])


def test_a_tracker_that_cannot_start_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file, where a folder must be")
    monkeypatch.setattr("qin.tracking.adapters.check_installed", lambda _: None)
    with open_tracking(["tensorboard"], project="p", settings={}, proceed=False) as tracking:
        tracking.check([{"step": 1, "val_ap": 0.1}])
    assert len(caplog.messages) == 1
    assert "track.to: tensorboard failed" in caplog.messages[0]


def test_none_is_no_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_tracking(["none"], project="p", settings={}, proceed=False):
        pass
    assert list(tmp_path.iterdir()) == []
