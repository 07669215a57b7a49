"""Ours and LightGBM run side by side on the same rows; FuxiCTR has an environment of its own, which CI does not."""

import json
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.tables import _side_by_side_table


@pytest.mark.slow
def test_what_is_there_runs_on_the_same_rows(tmp_path: Path, num_threads: None) -> None:
    peers.main(rows=6000, batch=256, threads=1, fuxictr=None, out=tmp_path / "peers.json")
    found = json.loads((tmp_path / "peers.json").read_text())
    assert set(found["systems"]) == {"ours", "lightgbm"}
    assert found["left_out"] == ["fuxictr"]
    for figures in found["systems"].values():
        assert all(value > 0.0 for value in figures.values())
        assert 0.4 < figures["auc"] < 1.0
    assert "| lightgbm |" in _side_by_side_table(found)
