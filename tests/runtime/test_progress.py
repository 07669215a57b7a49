"""Lines about long work."""

import logging
import sys

import pytest

from qin.runtime.progress import Progress, followed


def at_moments(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """Let the clock show these, one after the other; lines go to a file."""
    now = iter(seconds)
    monkeypatch.setattr("qin.runtime.progress.time.monotonic", lambda: next(now))
    monkeypatch.setattr("qin.runtime.progress._on_terminal", lambda: False)


def test_a_line_says_the_rate_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_moments(monkeypatch, 0.0, 5.0, 20.0)
    with caplog.at_level(logging.INFO, logger="qin"), Progress(1000, label="prepare", unit="rows") as bar:
        bar.advance(50)
        bar.advance(50, note="loss 0.1")
    assert caplog.messages == ["prepare: 100 of 1000 rows, 5 per second, 3.0 min left, loss 0.1"]


def test_what_is_followed_counts_when_it_is_done(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_moments(monkeypatch, 0.0, 12.0, 24.0)
    with caplog.at_level(logging.INFO, logger="qin"):
        assert list(followed({"a": 1, "b": 2}.items(), label="curves", unit="curves")) == [("a", 1), ("b", 2)]
    assert caplog.messages == [
        "curves: 1 of 2 curves, 0.083 per second, 12 s left",
        "curves: 2 of 2 curves, 0.083 per second, 0 s left",
    ]


def test_progress_goes_on_without_a_place_to_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with Progress(3, label="rows") as progress:
        progress.advance(3)
