"""Bad input ends a stage with one line that names file, column and row, status 1, and earlier outputs as they were."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin.runtime.stage import STAGES
from tests.project import copy_project, set_params
from tests.stages.run import run_as_command, run_in_process, said

Corruption = Callable[[Path], object]


@pytest.fixture
def project(tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose prepare and split stages left what look like earlier outputs."""
    folder = copy_project(tmp_path / "project", log=small_log)
    for name in (
        "data/prepared/train/manifest.json",
        "data/split/fold.npy",
        "metrics/prepare.json",
        "metrics/split.json",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("earlier")
    monkeypatch.chdir(folder)
    return folder


def fails(stage: str, project: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """Run a stage that must fail; returns its one error line."""
    before = _digests(project)
    with pytest.raises(SystemExit) as exit_info:
        run_in_process(stage)
    assert exit_info.value.code == 1
    assert _digests(project) == before
    errors = said(capfd.readouterr().err)
    assert len(errors) == 1, errors
    return errors[0]


def _digests(project: Path) -> dict[str, str]:
    files = [path for folder in ("data", "metrics", "artifacts", "outputs") for path in (project / folder).rglob("*")]
    return {str(path): hashlib.md5(path.read_bytes()).hexdigest() for path in files if path.is_file()}


def rewrite(path: Path, column: str, values: Callable[[list[Any]], pa.Array | None]) -> None:
    """Replace a column of a Parquet file; None drops it."""
    table = pq.read_table(path)
    position = table.schema.get_field_index(column)
    new = values(table.column(column).to_pylist())
    pq.write_table(table.remove_column(position) if new is None else table.set_column(position, column, new), path)


def with_value(
    column: str, row: int, value: Any, kind: pa.DataType | None = None, *, name: str = "train"
) -> Corruption:
    """Put one value into a column."""

    def corrupt(data: Path) -> None:
        def changed(values: list[Any]) -> pa.Array:
            return pa.array([*values[:row], value, *values[row + 1 :]], kind)

        rewrite(data / f"{name}.parquet", column, changed)

    return corrupt


def truncated(data: Path) -> None:
    content = (data / "train.parquet").read_bytes()
    (data / "train.parquet").write_bytes(content[: len(content) // 2])


def damaged_page(data: Path) -> None:
    content = bytearray((data / "train.parquet").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = b"\xff" * 64
    (data / "train.parquet").write_bytes(bytes(content))


def without_rows(data: Path) -> None:
    path = data / "train.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)


def single_class(data: Path) -> None:
    rewrite(data / "train.parquet", "clicked", lambda values: pa.array(np.zeros(len(values), np.int32)))


def repeated_id(data: Path) -> None:
    rewrite(data / "test.parquet", "ID", lambda ids: pa.array([*ids[:17], ids[3], *ids[18:]]))


BAD_FOR_PREPARE: dict[str, tuple[Corruption, str]] = {
    "missing column": (
        lambda data: rewrite(data / "train.parquet", "hour", lambda _: None),
        "features.categorical: hour",
    ),
    "missing column in test": (
        lambda data: rewrite(data / "test.parquet", "hour", lambda _: None),
        "data/test.parquet: column hour: missing",
    ),
    "wrong type": (
        lambda data: rewrite(data / "train.parquet", "feat_a_1", lambda values: pa.array(map(str, values))),
        "data/train.parquet: column feat_a_1: type string cannot be numeric",
    ),
    "label outside": (with_value("clicked", 7001, 2), "column clicked, row 7001: label must be 0 or 1: 2"),
    "NaN label": (
        with_value("clicked", 5, float("nan"), pa.float64()),
        "column clicked, row 5: label must be 0 or 1: nan",
    ),
    "null label": (with_value("clicked", 5, None), "column clicked, row 5: label must be 0 or 1: None"),
    "infinite numeric": (
        with_value("feat_c_2", 6000, float("inf"), pa.float32()),
        "data/train.parquet: column feat_c_2, row 6000: infinite: inf",
    ),
    "bad token": (with_value("seq", 4321, "1,2,x3"), "column seq, row 4321: a token is not an integer: 'x3'"),
    "truncated file": (truncated, "data/train.parquet: not a readable Parquet file"),
    "damaged page": (damaged_page, "data/train.parquet: row"),
    "no rows": (without_rows, "data/train.parquet: has no rows"),
    "empty file": (
        lambda data: (data / "train.parquet").write_bytes(b""),
        "data/train.parquet: not a readable Parquet",
    ),
    "no file": (lambda data: (data / "train.parquet").unlink(), "data/train.parquet: file not found"),
    "single class": (single_class, "column clicked: all labels are 0"),
    "repeated id": (repeated_id, "data/test.parquet: column ID, row 17: id occurs twice"),
    "missing id": (with_value("ID", 9, None, name="test"), "data/test.parquet: column ID, row 9: id is missing"),
}


@pytest.mark.parametrize("name", BAD_FOR_PREPARE)
def test_prepare(name: str, project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corrupt, expected = BAD_FOR_PREPARE[name]
    corrupt(project / "data")
    assert expected in fails("prepare", project, capfd)


BAD_FOR_SPLIT: dict[str, tuple[dict[str, Any], str]] = {
    "missing group column": (
        {"split.method": "group_user", "split.group_key": "user"},
        "split.group_key: no column user",
    ),
    "missing time column": ({"split.method": "time", "split.time_col": "when"}, "split.time_col: no column when"),
    "no time": ({"split.method": "time", "split.time_col": "seq"}, "column seq, row"),
    "no such start": (
        {"split.method": "time", "split.time_col": "day_of_week", "split.time_val_start": 9},
        "split: the boundary 9 leaves no row on one side",
    ),
    "frozen thresholds of another method": ({"split.thresholds": {"group": 1}}, "split.thresholds has no label_0"),
}


@pytest.mark.parametrize("name", BAD_FOR_SPLIT)
def test_split(name: str, project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    changes, expected = BAD_FOR_SPLIT[name]
    set_params(project / "params.yaml", changes)
    assert expected in fails("split", project, capfd)


def test_config_error_is_the_same_in_every_stage(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    set_params(project / "params.yaml", {"train.epoch": 1})
    for stage in STAGES:
        assert fails(stage, project, capfd) == (
            "error: params.yaml: train.epoch: unknown key, did you mean train.epochs? (got 1)"
        )


def test_later_stages_name_what_is_missing(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (project / "data/prepared/train/manifest.json").unlink()
    expected = {
        "train": "data/prepared/train/manifest.json: file not found",
        "calibrate": "artifacts/validation/facts.json: file not found",
        "evaluate": "data/prepared/train/manifest.json: file not found",
        "predict": "data/prepared/test/manifest.json: file not found",
    }
    for stage, message in expected.items():
        assert message in fails(stage, project, capfd)


def test_no_traceback_as_a_command(project: Path) -> None:
    truncated(project / "data")
    done = run_as_command("prepare", project)
    assert done.returncode == 1
    assert done.stdout == ""
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["STAGE prepare [1/7]", "error"]


def test_full_disk_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def write(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "data/prepared")

    monkeypatch.setattr("qin.shards.files.ShardWriter.append", write)
    assert fails("prepare", project, capfd) == "error: stage prepare: data/prepared: No space left on device"
