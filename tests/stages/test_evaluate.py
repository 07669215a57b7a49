"""The evaluate stage on a written run: group key and slices come from the raw file."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin.evaluate.headline import HEADLINE
from qin.evaluate.importance import COLUMNS as IMPORTANCE_COLUMNS
from qin.evaluate.slices import CALIBRATION_COLUMNS
from qin.runtime import paths
from qin.shards.folds import report_half
from tests.experiments.test_compare import write_run
from tests.experiments.test_plots_page import references
from tests.metrics.test_ranking import sample
from tests.project import ROOT, set_params
from tests.stages.run import run_in_process

NUM_ROWS = 3_000
SHOPS = ["a, b", None, "c"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every other row of a log is validated; users are four rows each, shops three."""
    monkeypatch.chdir(tmp_path)
    logit, label = sample(NUM_ROWS)
    row = 2 * np.arange(NUM_ROWS)
    write_run(tmp_path, logit, label, row=row)
    number = np.arange(2 * NUM_ROWS)
    shop = pa.array([SHOPS[k // 2 % 3] for k in number], pa.string())
    pq.write_table(pa.table({"user": number // 8, "shop": shop}), "train.parquet")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    shutil.copytree(ROOT / ".dvc/plots", tmp_path / ".dvc/plots")
    no_samples = {"evaluate.importance_rows": 0}  # there are no prepared rows
    set_params(tmp_path / "params.yaml", {"data.train": "train.parquet", **no_samples})
    return tmp_path


def read_figures(project: Path, name: str = "metrics/evaluate") -> Any:
    return json.loads((project / f"{name}.json").read_text())


def read_slices(project: Path) -> list[list[str]]:
    with (project / "plots/slices.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_without_keys_slices_are_empty_files_with_their_header(project: Path) -> None:
    run_in_process("evaluate")
    assert read_figures(project, "artifacts/slices") == {}
    assert read_slices(project) == [list(CALIBRATION_COLUMNS)]
    assert read_figures(project)["gauc"] is None
    assert list(read_figures(project)["members"]) == ["network", "trees"]
    assert (project / "plots/importance.csv").read_text() == ",".join(IMPORTANCE_COLUMNS) + "\n"


def test_group_key_and_slices_are_read_at_the_validated_rows(project: Path) -> None:
    run_in_process("evaluate")
    plain = read_figures(project)
    set_params(project / "params.yaml", {"split.group_key": "user", "evaluate.slices": ["shop"]})
    run_in_process("evaluate")
    figures, slices = read_figures(project), read_figures(project, "artifacts/slices")
    assert 0.0 < figures["gauc"] < 1.0
    assert figures["ap"] == plain["ap"]
    assert figures["ap_se"] != plain["ap_se"]
    label = sample(NUM_ROWS)[1]
    assert list(slices["shop"]) == ["a, b", "c", "null"]
    for name, shop in (("a, b", 0), ("null", 1), ("c", 2)):
        found = slices["shop"][name]
        rows = (np.arange(NUM_ROWS) % 3 == shop) & report_half(2 * np.arange(NUM_ROWS), seed=0)
        assert found["rows"] == rows.sum()
        assert found["base_rate"] == pytest.approx(label[rows].mean(), rel=1e-5)
    assert [row[:2] for row in read_slices(project)[1:]] == [["shop", name] for name in slices["shop"]]


def test_trees_that_are_no_member_are_compared_with_only_where_they_are(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    set_params(project / "params.yaml", {"model.members": ["network"]})
    run_in_process("evaluate")
    assert list(read_figures(project)["members"]) == ["network", "trees"]
    shutil.rmtree(project / paths.TREES_VALIDATION)
    run_in_process("evaluate")
    assert list(read_figures(project)["members"]) == ["network"]
    assert f"trees are no member and not compared with: there is no {paths.TREES_VALIDATION}" in capfd.readouterr().err


def test_a_member_that_is_not_there_is_one_line(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    set_params(project / "params.yaml", {"model.members": ["network", "trees"]})
    shutil.rmtree(project / paths.TREES_VALIDATION)
    with pytest.raises(SystemExit):
        run_in_process("evaluate")
    assert f"error: {paths.TREES_VALIDATION}/facts.json: file not found" in capfd.readouterr().err


@pytest.mark.parametrize("key", ["split.group_key", "evaluate.slices"])
def test_a_column_that_is_not_there_is_one_line(project: Path, key: str, capfd: pytest.CaptureFixture[str]) -> None:
    set_params(project / "params.yaml", {key: ["nothing"] if key == "evaluate.slices" else "nothing"})
    with pytest.raises(SystemExit):
        run_in_process("evaluate")
    assert "error: train.parquet: no column nothing\n" in capfd.readouterr().err
    assert not (project / "metrics").exists()


def test_the_report_is_one_page_that_loads_nothing_and_says_what_is_not_there(project: Path) -> None:
    run_in_process("evaluate")
    page = (project / "outputs/report.html").read_text()
    assert references(page.replace('href="#', "")) == []  # it has links to its own parts
    for words in ("gradient boosted trees alone", "clicks decide", "The stage split has not run here", "reliability"):
        assert words in page
    figures = read_figures(project)
    assert f"{figures['auc']:.4g}" in page
    run_in_process("evaluate")
    assert (project / "outputs/report.html").read_text() == page


def test_the_tracked_figures_are_few(project: Path) -> None:
    run_in_process("evaluate")
    assert set(read_figures(project, "metrics/run")) == set(HEADLINE) - {"gauc"}
