"""What a stage keeps of its warnings."""

from pathlib import Path

import pytest

from qin.runtime.progress import PASSING, log
from qin.runtime.stage import run_stage


def test_a_stage_keeps_what_it_warned_of_once_but_not_what_is_of_the_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("")
    with run_stage("split") as report:
        log.info("a line")
        log.warning("warning: %d clicks", 3)
        log.warning("warning: %d clicks", 3)
        log.warning("warning: cannot be locked", extra={PASSING: True})
    log.warning("afterwards")
    assert report.warnings == ["3 clicks"]
