"""The drawing library as a script."""

from pathlib import Path

import pytest

from qin.report.library import drawing_library


def test_the_library_is_one_script_that_is_bundled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    script = drawing_library()
    assert "vegaEmbed" in script
    assert "</script" not in script
    assert len(script) > 500_000
    [kept] = (tmp_path / "qin").iterdir()
    assert kept.read_text() == script
    kept.write_text("kept")
    assert drawing_library() == "kept"


def test_a_cache_that_cannot_be_written_to_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "vegaEmbed" in drawing_library()
