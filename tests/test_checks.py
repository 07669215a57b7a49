"""`qin check` on a copy of the project."""

import shutil
from collections import namedtuple
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from qin.checks import check_project
from qin.config.strict_yaml import read_yaml
from qin.runtime.errors import QinError
from tests.project import copy_project, set_params

PARAMS = Path("params.yaml")


@pytest.fixture
def project(tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = copy_project(tmp_path / "project", log=small_log)
    monkeypatch.chdir(folder)
    return folder


def test_a_project_in_order_is_described_and_left_as_it_is(project: Path) -> None:
    before = sorted(project.rglob("*"))
    lines = check_project(PARAMS)
    assert lines[-1] == "nothing is in the way of `dvc repro`"
    assert any("sequences" in line for line in lines)
    assert sorted(project.rglob("*")) == before


def test_all_problems_of_files_are_told_at_once(project: Path) -> None:
    set_params(PARAMS, {"features.target": ["nothing"]})
    (project / "data/sample_submission.csv").unlink()
    with pytest.raises(QinError) as caught:
        check_project(PARAMS)
    lines = str(caught.value).splitlines()
    assert any("nothing" in line for line in lines)
    assert any("data/sample_submission.csv" in line for line in lines)


def test_columns_that_divide_rows_and_that_later_stages_read_are_looked_for(project: Path) -> None:
    changes = {"split.group_key": "nobody", "split.time_col": "seq", "evaluate.slices": ["nothing"]}
    set_params(PARAMS, changes)
    with pytest.raises(QinError) as caught:
        check_project(PARAMS)
    lines = str(caught.value).splitlines()
    assert lines == [
        "data/train.parquet: evaluate.slices: no column nothing",
        "data/train.parquet: split.group_key: no column nobody",
    ]
    set_params(PARAMS, {"split.group_key": None, "evaluate.slices": []})
    with pytest.raises(QinError, match=r"^data/train\.parquet: column seq, row 0: not a time"):
        check_project(PARAMS)


def test_columns_of_impressions_are_looked_for_once_in_each_file(project: Path) -> None:
    set_params(PARAMS, {"features.impression.key": ["nobody"]})
    with pytest.raises(QinError, match=r"^data/train\.parquet: features\.impression\.key: no column nobody$"):
        check_project(PARAMS)
    test = pq.read_table("data/test.parquet").drop_columns("hour")
    pq.write_table(test, "data/test.parquet")
    inputs = [name for name in read_yaml(PARAMS)["features"]["categorical"] if name != "hour"]
    set_params(PARAMS, {"features.impression.key": ["hour"], "features.categorical": inputs, "data.ignore": ["hour"]})
    with pytest.raises(QinError, match=r"^data/test\.parquet: features\.impression\.key: no column hour$"):
        check_project(PARAMS)


def test_a_submission_of_another_size_is_a_problem(project: Path) -> None:
    file = project / "data/sample_submission.csv"
    file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines()[:-1]))
    with pytest.raises(QinError, match=r"sample_submission\.csv: .* ids, data/test\.parquet has"):
        check_project(PARAMS)


def test_a_disk_that_is_too_small_is_a_problem(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    with pytest.raises(QinError, match=r"disk: prepared rows take about .* are free"):
        check_project(PARAMS)
