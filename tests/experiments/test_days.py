"""A log in days: every row in the file of its day, once, in order."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin.experiments import days
from qin.experiments.days import divide, write_unlabelled
from qin.runtime.errors import DataError, SchemaError

NUM_ROWS = 5000


def log_of(folder: Path, moments: list[Any] | pa.Array, **others: Any) -> Path:
    path = folder / "log.parquet"
    columns = {"time": moments, "row": np.arange(len(moments)), "clicked": np.arange(len(moments)) % 2, **others}
    pq.write_table(pa.table(columns), path, row_group_size=700)
    return path


def moments(*, zone: str | None = None, seed: int = 0) -> pa.Array:
    seconds = np.random.default_rng(seed).integers(0, 4 * 86400, NUM_ROWS)
    return pa.array(1_650_844_800_000_000 + seconds * 1_000_000, pa.timestamp("us", zone))


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_each_row_is_in_its_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str | None) -> None:
    monkeypatch.setattr(days, "_HELD_ROWS", 900)  # files are flushed in turn
    log = log_of(tmp_path, moments(zone=zone))
    (tmp_path / "days").mkdir()
    found = divide(log, "time", tmp_path / "days")
    rows = pq.read_table(log).to_pandas()
    assert [day.name for day in found] == ["2022-04-25", "2022-04-26", "2022-04-27", "2022-04-28"]
    assert sum(day.num_rows for day in found) == NUM_ROWS
    for day in found:
        table = pq.read_table(day.file)
        assert table.schema == pq.read_schema(log)
        expected = rows[rows["time"].dt.strftime("%Y-%m-%d") == day.name]["row"].tolist()
        assert table["row"].to_pylist() == expected
        assert day.num_rows == len(expected)
        start = datetime.fromisoformat(day.start)
        assert (start.strftime("%Y-%m-%d"), start.hour, start.tzinfo is not None) == (day.name, 0, zone is not None)


def test_a_column_without_days_is_refused(tmp_path: Path) -> None:
    log = log_of(tmp_path, list(range(10)))
    (tmp_path / "days").mkdir()
    with pytest.raises(SchemaError, match=r"column time: number; days need datetimes, dates or ISO text$"):
        divide(log, "time", tmp_path / "days")
    with pytest.raises(SchemaError, match=r"split\.time_col: no column tme, did you mean time\?"):
        divide(log, "tme", tmp_path / "days")


def test_more_days_than_files_can_be_open_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(days, "MOST_DAYS", 3)
    (tmp_path / "days").mkdir()
    with pytest.raises(DataError, match="column time: more than 3 days"):
        divide(log_of(tmp_path, moments()), "time", tmp_path / "days")


@pytest.mark.parametrize("has_id", [True, False])
def test_a_day_to_predict_has_ids_and_no_label(tmp_path: Path, has_id: bool) -> None:
    ids = {"ID": [f"r{row}" for row in range(NUM_ROWS)]} if has_id else {}
    (tmp_path / "days").mkdir()
    [first, *_] = divide(log_of(tmp_path, moments(), **ids), "time", tmp_path / "days")
    rows, sample = write_unlabelled(first, label="clicked", key="ID", folder=tmp_path)
    table, whole = pq.read_table(rows), pq.read_table(first.file)
    assert "clicked" not in table.schema.names
    assert table["row"] == whole["row"]
    lines = sample.read_text().splitlines()
    assert lines[0] == "ID,probability"
    assert [line.split(",")[0] for line in lines[1:]] == [str(value) for value in table["ID"].to_pylist()]
    assert len(set(lines)) == first.num_rows + 1


@pytest.mark.parametrize(
    ("ids", "texts"),
    [
        (pa.array([b"r%d" % row for row in range(NUM_ROWS)]), [f"r{row}" for row in range(NUM_ROWS)]),
        (pa.array(range(NUM_ROWS), pa.decimal128(20, 0)), [str(row) for row in range(NUM_ROWS)]),
        (pa.array([row == 1 for row in range(NUM_ROWS)]), ["true" if row == 1 else "false" for row in range(NUM_ROWS)]),
    ],
    ids=["bytes", "decimal", "bool"],
)
def test_ids_of_any_type_are_written_as_prepare_reads_them(tmp_path: Path, ids: pa.Array, texts: list[str]) -> None:
    (tmp_path / "days").mkdir()
    [first, *_] = divide(log_of(tmp_path, moments(), ID=ids), "time", tmp_path / "days")
    _, sample = write_unlabelled(first, label="clicked", key="ID", folder=tmp_path)
    rows = pq.read_table(first.file)["row"].to_pylist()
    assert sample.read_text().splitlines()[1:] == [f"{texts[row]},0" for row in rows]


def test_a_time_of_no_day_with_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "days").mkdir()
    times = moments().to_pylist()
    log = log_of(tmp_path, pa.array([*(int(time.timestamp()) for time in times[:-1]), 2**50], pa.timestamp("s")))
    with pytest.raises(DataError, match=rf"log.*: column time, row {NUM_ROWS - 1}: not a day of the years 1 to 9999: "):
        divide(log, "time", tmp_path / "days")
