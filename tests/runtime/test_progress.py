"""Lines about long work."""

import logging

import pytest

from qin.runtime.progress import Progress


def test_a_line_says_the_rate_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = iter([0.0, 5.0, 20.0])
    monkeypatch.setattr("qin.runtime.progress.time.monotonic", lambda: next(now))
    monkeypatch.setattr("qin.runtime.progress._on_terminal", lambda: False)
    with caplog.at_level(logging.INFO, logger="qin"), Progress(1000, label="prepare", unit="rows") as bar:
        bar.advance(50)
        bar.advance(50, note="loss 0.1")
    assert caplog.messages == ["prepare: 100 of 1000 rows, 5 per second, 3.0 min left, loss 0.1"]
