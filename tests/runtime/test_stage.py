"""What a stage keeps of its warnings."""

import json
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
        log.warning("warning: column a\nb: \udcff")
    log.warning("afterwards")
    assert report.warnings == ["3 clicks", "column a\\nb: \\udcff"]


@pytest.mark.parametrize("gpu_bytes", [0, 3 << 30])
def test_the_closing_line_tells_the_memory_of_a_gpu_that_was_used(
    gpu_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qin.runtime.stage.peak_gpu_bytes", lambda: gpu_bytes)
    (tmp_path / "params.yaml").write_text("")
    with run_stage("split"):
        pass
    figures = json.loads((tmp_path / ".qin/stages/split.json").read_text())
    assert figures.get("peak_gpu_memory_bytes", 0) == gpu_bytes
    assert ("GiB, of the GPU 3.00 GiB" in capsys.readouterr().err) == (gpu_bytes > 0)
