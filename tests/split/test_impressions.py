"""Impressions in the split: one fold each, their first time, what later stages are told, and the hint."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from qin.config import SplitParams
from qin.runtime.errors import DataError, SchemaError
from qin.shards.folds import TRAIN, VALIDATION
from qin.split.audit import audit, check
from qin.split.columns import SplitColumns, read_split_columns
from qin.split.impressions import impression_hint, row_facts
from qin.split.methods import assign_folds
from tests.logs import Columns, data_params, split_params, write_log

NUM_ROWS, NUM_REQUESTS = 600, 60
METHODS = [
    split_params("stratified"),
    split_params("group_user", group_key="user"),
    split_params("group_session", group_key="user", session_key="session"),
    split_params("time", time_col="day"),
    split_params("time", time_col="day", time_val_start=7.0),
]


def make_log() -> Columns:
    """Requests of one user and session each, whose rows lie anywhere and are up to two days apart."""
    generator = np.random.default_rng(0)
    request = generator.integers(0, NUM_REQUESTS, NUM_ROWS)
    return {
        "request": pa.array(request),
        "user": pa.array(request // 4),
        "session": pa.array(request // 2),
        "day": pa.array(request * 8.0 / NUM_REQUESTS + generator.integers(0, 3, NUM_ROWS)),
        "item": pa.array(generator.integers(0, 20, NUM_ROWS)),
        "clicked": pa.array(generator.integers(0, 2, NUM_ROWS).astype(np.int8)),
        "ID": pa.array(np.arange(NUM_ROWS)),
    }


def read(file: str, split: SplitParams, impression: list[str] | None) -> SplitColumns:
    return read_split_columns(data_params(file), split, target=["item"], features=["item"], impression=impression)


def describe(split: SplitParams) -> str:
    return f"{split.method}{split.time_val_start or ''}"


@pytest.mark.parametrize("split", METHODS, ids=describe)
def test_an_impression_is_in_one_fold(tmp_path: Path, split: SplitParams) -> None:
    log = make_log()
    file = write_log(tmp_path / "log.parquet", log)
    columns = read(file, split, ["request"])
    assignment = assign_folds(columns, split, file=file)
    request = np.asarray(log["request"])
    assert all(np.unique(assignment.fold[request == number]).size == 1 for number in range(NUM_REQUESTS))
    assert {TRAIN, VALIDATION} <= set(assignment.fold.tolist())
    figures = audit(columns, assignment, method=split.method)
    assert figures["overlap"]["impression"] == 0
    check(figures, file=file)


def test_an_impression_is_divided_by_its_first_time(tmp_path: Path) -> None:
    log = make_log()
    columns = read(write_log(tmp_path / "log.parquet", log), METHODS[3], ["request"])
    request, day = np.asarray(log["request"]), np.asarray(log["day"])
    assert columns.shown is not None
    assert columns.shown.tolist() == [day[request == number].min() for number in request]
    assert columns.time is not None
    assert np.array_equal(columns.time, day)


def test_without_impressions_rows_are_divided_one_by_one(tmp_path: Path) -> None:
    file = write_log(tmp_path / "log.parquet", make_log())
    columns = read(file, METHODS[0], None)
    assert columns.shown is None
    assert (
        "impression" not in audit(columns, assign_folds(columns, METHODS[0], file=file), method="stratified")["overlap"]
    )


def test_impressions_across_groups_end_the_stage(tmp_path: Path) -> None:
    log = make_log() | {"request": pa.array(np.arange(NUM_ROWS) % 50)}
    file = write_log(tmp_path / "log.parquet", log)
    columns = read(file, METHODS[1], ["request"])
    figures = audit(columns, assign_folds(columns, METHODS[1], file=file), method="group_user")
    with pytest.raises(DataError, match="impressions are in both folds"):
        check(figures, file=file)


def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"features\.impression\.key: no column request_id"):
        read(write_log(tmp_path / "log.parquet", make_log()), METHODS[0], ["request_id"])


@pytest.mark.parametrize(
    ("split", "impression", "unit"),
    [
        (METHODS[0], None, "row"),
        (METHODS[0], ["request"], "impression"),
        (METHODS[1], ["request"], "group"),
        (METHODS[2], None, "session"),
        (METHODS[3], None, "row"),
        (METHODS[3], ["request"], "impression"),
    ],
)
def test_later_stages_are_told_what_stays_together(
    tmp_path: Path, split: SplitParams, impression: Any, unit: str
) -> None:
    columns = read(write_log(tmp_path / "log.parquet", make_log()), split, impression)
    facts = row_facts(columns, method=split.method)
    assert np.array_equal(facts.unit, columns.row_hash if unit == "row" else columns.keys[unit])
    assert (facts.time is None) == (split.time_col is None)
    assert (facts.shown is None) == (split.time_col is None or impression is None)


def test_several_rows_of_a_session_at_one_time_are_hinted_at(tmp_path: Path) -> None:
    log = make_log() | {"day": pa.array(np.arange(NUM_ROWS) % 6)}
    split = split_params("time", time_col="day", session_key="session")
    file = write_log(tmp_path / "log.parquet", log)
    assert "features.impression.key: [session, day]" in str(impression_hint(read(file, split, None), split))
    assert impression_hint(read(file, split, ["session", "day"]), split) is None
    alone = write_log(tmp_path / "alone.parquet", log | {"day": pa.array(np.arange(NUM_ROWS))})
    assert impression_hint(read(alone, split, None), split) is None
    assert impression_hint(read(file, METHODS[0], None), METHODS[0]) is None
