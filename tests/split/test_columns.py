"""From a Parquet file to folds and their audit, for the four methods, against brute force over Python rows."""

import json
import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from qin.config import SplitParams
from qin.raw.times import TimeColumn, TimeForm
from qin.runtime.errors import ArtifactError, ConfigError, DataError, SchemaError
from qin.runtime.files import write_json
from qin.shards.folds import EXCLUDED, TRAIN, VALIDATION, Assignment, read_folds, write_folds
from qin.split.audit import audit, check
from qin.split.columns import SplitColumns, read_split_columns
from qin.split.methods import assign_folds
from tests.logs import Columns, data_params, split_params, write_log

NUM_ROWS = 900
TARGET, FEATURES = ["item"], ["item", "price"]
METHODS = [
    split_params("stratified"),
    split_params("stratified", row_key=["item", "price"]),
    split_params("group_user", group_key="user"),
    split_params("group_session", group_key="user", session_key="session"),
    split_params("time", time_col="day", group_key="user", session_key="session", time_embargo=1),
    split_params("time", time_col="day", session_key="session", cross_boundary_sessions="drop"),
    split_params("time", time_col="moment", time_val_start="2022-05-04", time_embargo=86400),
]


def make_split_log(num_rows: int = NUM_ROWS, *, seed: int = 0) -> Columns:
    """Users, sessions numbered anew for each user, days, and items of which rare ones are cold."""
    generator = np.random.default_rng(seed)
    day = generator.integers(0, 30, num_rows)
    user = generator.zipf(1.5, num_rows) % 120
    item = np.minimum(generator.zipf(1.3, num_rows), 10**6)
    return {
        "user": pa.array([None if number == 7 else f"u{number}" for number in user]),
        "session": pa.array(day // 2 + generator.integers(0, 2, num_rows)),
        "day": pa.array(day.astype(np.float64)),
        "moment": pa.array([datetime(2022, 4, 10) + timedelta(days=int(n)) for n in day], pa.timestamp("ms")),
        "item": pa.array(item),
        "price": pa.array(generator.integers(0, 4, num_rows).astype(np.float32)),
        "clicked": pa.array((generator.random(num_rows) < 0.3).astype(np.int32)),
        "ID": pa.array([f"ROW_{row:05d}" for row in range(num_rows)]),
    }


def read(file: str, split: SplitParams) -> SplitColumns:
    return read_split_columns(data_params(file), split, target=TARGET, features=FEATURES)


def split_file(file: str, split: SplitParams) -> tuple[SplitColumns, Assignment]:
    columns = read(file, split)
    return columns, assign_folds(columns, split, file=file)


def describe(split: SplitParams) -> str:
    return f"{split.method}-{split.time_col or (split.row_key and 'row_key') or 'id'}"


@pytest.fixture(scope="module")
def log() -> Columns:
    return make_split_log()


@pytest.mark.parametrize("split", METHODS, ids=describe)
def test_permuting_the_rows_permutes_the_folds(tmp_path: Path, log: Columns, split: SplitParams) -> None:
    order = np.random.default_rng(1).permutation(NUM_ROWS)
    permuted = {name: array.take(pa.array(order)) for name, array in log.items()}
    _, first = split_file(write_log(tmp_path / "a.parquet", log), split)
    _, second = split_file(write_log(tmp_path / "b.parquet", permuted, row_group_rows=100), split)
    assert second.fold.tolist() == first.fold[order].tolist()
    assert (second.thresholds, second.details) == (first.thresholds, first.details)
    assert 0 < (first.fold == VALIDATION).sum() < NUM_ROWS / 2


def test_column_types_do_not_move_rows(tmp_path: Path, log: Columns) -> None:
    split = split_params("stratified", row_key=["item", "price"])
    _, first = split_file(write_log(tmp_path / "a.parquet", log), split)
    retyped = {**log, "item": log["item"].cast(pa.string()), "price": log["price"].cast(pa.int8())}
    _, second = split_file(write_log(tmp_path / "b.parquet", retyped), split)
    assert second.fold.tolist() == first.fold.tolist()


def test_seeds_draw_different_folds(tmp_path: Path, log: Columns) -> None:
    file = write_log(tmp_path / "a.parquet", log)
    folds = {tuple(split_file(file, split_params("stratified", seed=seed))[1].fold.tolist()) for seed in range(5)}
    assert len(folds) == 5


def test_rows_are_identified_by_the_id_else_by_all_scalar_features(tmp_path: Path, log: Columns) -> None:
    split = split_params("stratified")
    with_id = read(write_log(tmp_path / "a.parquet", log), split)
    assert np.unique(with_id.row_hash).size == NUM_ROWS
    anonymous = read(write_log(tmp_path / "b.parquet", {n: a for n, a in log.items() if n != "ID"}), split)
    pairs = set(zip(log["item"].to_pylist(), log["price"].to_pylist(), strict=True))
    assert np.unique(anonymous.row_hash).size == len(pairs) < NUM_ROWS


@pytest.mark.parametrize("split", METHODS[:4], ids=describe)
def test_frozen_thresholds_keep_the_rows_of_a_longer_file(tmp_path: Path, log: Columns, split: SplitParams) -> None:
    _, old = split_file(write_log(tmp_path / "a.parquet", log), split)
    longer = make_split_log(NUM_ROWS // 10, seed=9)
    longer["ID"] = pa.array([f"NEW_{row}" for row in range(NUM_ROWS // 10)])
    joined = {name: pa.concat_arrays([array, longer[name]]) for name, array in log.items()}
    frozen = split.model_copy(update={"thresholds": old.thresholds})
    _, new = split_file(write_log(tmp_path / "b.parquet", joined), frozen)
    assert new.fold[:NUM_ROWS].tolist() == old.fold.tolist()


def brute_force_audit(log: Columns, fold: list[int], split: SplitParams) -> dict[str, Any]:
    """The audit over Python tuples instead of hashes."""

    def keys(*names: str) -> list[tuple[Any, ...]]:
        """Of each row; where one part is missing, the row's alone."""
        found = zip(*(log[name].to_pylist() for name in names), strict=True)
        return [(row,) if None in key else key for row, key in enumerate(found)]

    def of(values: list[Any], number: int) -> list[Any]:
        return [value for value, where in zip(values, fold, strict=True) if where == number]

    compared = {"target": keys("item")}
    if split.group_key:
        compared["group"] = keys(split.group_key)
    if split.session_key:
        compared["session"] = keys(*([split.group_key] if split.group_key else []), split.session_key)
    group = log[split.group_key].to_pylist() if split.group_key else []
    label, row = log["clicked"].to_pylist(), keys(*(split.row_key or ["ID"]))
    train, val = of(label, TRAIN), of(label, VALIDATION)
    figures: dict[str, Any] = {
        "method": split.method,
        "rows": {"train": len(train), "val": len(val), "excluded": fold.count(EXCLUDED)},
        "base_rate": {"train": sum(train) / len(train), "val": sum(val) / len(val)},
        "val_share": len(val) / len(fold),
        "duplicates": sum(key in set(of(row, TRAIN)) for key in of(row, VALIDATION)),
        "missing": {
            name: values.count(None) / len(fold)
            for name, values in (("group", group), ("session", group or log["session"].to_pylist()))
            if name in compared
        },
        "overlap": {
            name: len(set(of(values, TRAIN)) & set(of(values, VALIDATION)))
            for name, values in compared.items()
            if name != "target"
        },
        "cold": {
            name: sum(key not in set(of(values, TRAIN)) for key in of(values, VALIDATION)) / len(val)
            for name, values in compared.items()
        },
    }
    if split.time_col:
        time = log[split.time_col].to_pylist()
        figures["time"] = {"in_order": max(of(time, TRAIN)) < min(of(time, VALIDATION))}
    return figures


def assert_nested_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, Mapping):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_nested_equal(found[key], value)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    else:
        assert found == expected


@pytest.mark.parametrize("split", METHODS, ids=describe)
def test_the_audit_equals_brute_force_and_its_musts_hold(tmp_path: Path, log: Columns, split: SplitParams) -> None:
    file = write_log(tmp_path / "a.parquet", log)
    columns, assignment = split_file(file, split)
    figures = audit(columns, assignment, method=split.method)
    check(figures, file=file)
    expected = brute_force_audit(log, assignment.fold.tolist(), split)
    assert_nested_equal({name: figures[name] for name in expected}, expected)
    assert set(figures) - set(expected) == set(assignment.details)
    assert figures["cold"]["target"] > 0
    if split.method == "stratified" and split.row_key:
        assert figures["duplicates"] > 0
    if split.method == "group_user":
        assert figures["overlap"] == {"group": 0}
    if split.method == "group_session":
        assert figures["overlap"]["session"] == 0 < figures["overlap"]["group"]


def test_the_audit_of_a_random_split_reports_leaks_that_it_may_have(tmp_path: Path, log: Columns) -> None:
    split = split_params("stratified", group_key="user", session_key="session", time_col="day")
    file = write_log(tmp_path / "a.parquet", log)
    columns, assignment = split_file(file, split)
    figures = audit(columns, assignment, method=split.method)
    check(figures, file=file)
    assert_nested_equal(
        {k: figures[k] for k in ("overlap", "time")},
        {k: brute_force_audit(log, assignment.fold.tolist(), split)[k] for k in ("overlap", "time")},
    )
    assert figures["overlap"]["group"] > 0
    assert figures["time"] == {"in_order": False}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (METHODS[2], r"split\.method group_user: \d+ groups are in both folds; must be 0$"),
        (METHODS[3], r"split\.method group_session: \d+ sessions are in both folds; must be 0$"),
        (METHODS[4], r"split\.method time: a train row is not earlier than every validation row$"),
    ],
    ids=["group_user", "group_session", "time"],
)
def test_a_must_that_does_not_hold_ends_the_stage(
    tmp_path: Path, log: Columns, split: SplitParams, message: str
) -> None:
    file = write_log(tmp_path / "log.parquet", log)
    fold = (np.arange(NUM_ROWS) % 5 == 0).astype(np.uint8)
    figures = audit(read(file, split), Assignment(fold, {}, {}), method=split.method)
    with pytest.raises(DataError, match=re.escape(file) + ": " + message):
        check(figures, file=file)


def test_a_divided_time_is_out_of_order() -> None:
    columns = SplitColumns(
        label=np.array([0, 1, 0, 1], np.uint8),
        row_hash=np.arange(4, dtype=np.uint64),
        time=np.array([1, 2, 2, 3]),
        time_column=TimeColumn("log", "day", TimeForm.NUMBER),
    )
    for fold, in_order in (([0, 0, 1, 1], False), ([0, 1, 1, 1], True), ([0, 2, 1, 1], True)):
        figures = audit(columns, Assignment(np.array(fold, np.uint8), {}, {}), method="time")
        assert figures["time"] == {"in_order": in_order}


def test_time_is_reported_as_it_is_written(tmp_path: Path, log: Columns) -> None:
    file = write_log(tmp_path / "a.parquet", log)
    boundaries = {split.time_col: split_file(file, split)[1].details["boundary"] for split in (METHODS[4], METHODS[6])}
    assert boundaries == {"day": 24.0, "moment": "2022-05-04T00:00:00.000000"}
    fold = split_file(file, METHODS[6])[1].fold
    day = np.array(log["moment"].to_pylist())
    start = datetime(2022, 5, 4)
    assert ((fold == VALIDATION) == (day >= start)).all()
    # An embargo of one day leaves out what is less than a day before the start: nothing, where times are midnights.
    assert ((fold == TRAIN) == (day <= start - timedelta(days=1))).all()
    longer = METHODS[6].model_copy(update={"time_embargo": 86401.0})
    assert ((split_file(file, longer)[1].fold == EXCLUDED) == (day == start - timedelta(days=1))).all()


@pytest.mark.parametrize(
    "kind", [pa.date32(), pa.date64(), pa.timestamp("s"), pa.timestamp("ns", "UTC"), pa.string(), pa.int64()], ids=str
)
def test_a_time_of_any_type_gives_the_same_folds(tmp_path: Path, log: Columns, kind: pa.DataType) -> None:
    split = split_params("time", time_col="moment")
    _, expected = split_file(write_log(tmp_path / "a.parquet", log), split)
    moments = log["moment"].cast(pa.int64()).cast(pa.string()) if kind == pa.string() else log["moment"].cast(kind)
    _, found = split_file(write_log(tmp_path / "b.parquet", {**log, "moment": moments}), split)
    assert found.fold.tolist() == expected.fold.tolist()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"method": "group_user", "group_key": "nobody"}, "split.group_key: no column nobody"),
        ({"method": "group_session", "session_key": "none"}, "split.session_key: no column none"),
        ({"method": "time", "time_col": "when"}, "split.time_col: no column when"),
        ({"method": "stratified", "row_key": ["item", "x"]}, "split.row_key: no column x"),
    ],
)
def test_a_missing_column_is_named_with_its_key(
    tmp_path: Path, log: Columns, changes: dict[str, Any], line: str
) -> None:
    file = write_log(tmp_path / "a.parquet", log)
    with pytest.raises(SchemaError) as caught:
        read(file, split_params(**changes))
    assert str(caught.value) == f"{file}: {line}"


def test_a_list_column_cannot_identify_rows(tmp_path: Path, log: Columns) -> None:
    file = write_log(tmp_path / "a.parquet", {**log, "tags": pa.array([[1]] * NUM_ROWS)})
    with pytest.raises(SchemaError, match=r"column tags: values of type list<.*> cannot identify a row or a group$"):
        read(file, split_params("group_user", group_key="tags"))


def test_a_bad_time_is_named_with_its_row(tmp_path: Path, log: Columns) -> None:
    days = log["day"].to_pylist()
    days[812] = None
    file = write_log(tmp_path / "a.parquet", {**log, "day": pa.array(days)}, row_group_rows=300)
    with pytest.raises(DataError) as caught:
        read(file, split_params("time", time_col="day"))
    assert str(caught.value) == f"{file}: column day, row 812: not a time: None"


def test_a_fold_with_one_class_is_refused(tmp_path: Path, log: Columns) -> None:
    label = np.where(np.array(log["day"].to_pylist()) > 20, 0, log["clicked"].to_numpy())
    file = write_log(tmp_path / "a.parquet", {**log, "clicked": pa.array(label)})
    split = split_params("time", time_col="day", time_val_start=21)
    num_val = int((log["day"].to_numpy() >= 21).sum())
    with pytest.raises(DataError) as caught:
        split_file(file, split)
    assert str(caught.value) == (
        f"{file}: split.method time: the validation fold has {num_val} rows of class 0 and 0 of class 1; it needs "
        "both: set another split.time_val_ratio or split.time_val_start"
    )


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (split_params("stratified", thresholds={"group": 1}), "split.thresholds has no label_0; it has group"),
        (split_params("time", time_col="day", time_val_start=99), "the boundary 99 leaves no row on one side of it"),
        (split_params("time", time_col="day", time_val_start="May"), "time_val_start is not a number: 'May'"),
        (
            split_params("time", time_col="moment", time_val_start="May"),
            "not a datetime such as 2022-05-04 or 2022-05-04T12:00: 'May'",
        ),
    ],
)
def test_settings_that_do_not_fit_the_log_are_refused(
    tmp_path: Path, log: Columns, split: SplitParams, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        split_file(write_log(tmp_path / "a.parquet", log), split)
    assert str(caught.value) == f"params.yaml: split: {message}"


def test_folds_are_read_back_and_must_fit_the_log(tmp_path: Path, log: Columns) -> None:
    _, assignment = split_file(write_log(tmp_path / "a.parquet", log), METHODS[2])
    write_folds(tmp_path, assignment, method="group_user")
    assert read_folds(tmp_path, num_rows=NUM_ROWS).tolist() == assignment.fold.tolist()
    with pytest.raises(ArtifactError, match=rf"{NUM_ROWS} folds for 7 prepared rows; run the split stage$"):
        read_folds(tmp_path, num_rows=7)
    (tmp_path / "fold.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ArtifactError, match=r"fold\.npy: damaged or edited by hand; run the split stage again$"):
        read_folds(tmp_path, num_rows=NUM_ROWS)


def test_the_first_day_of_validation_may_be_a_date(tmp_path: Path, log: Columns) -> None:
    days = {**log, "moment": log["moment"].cast(pa.date32())}
    file = write_log(tmp_path / "a.parquet", days)
    _, assignment = split_file(file, split_params("time", time_col="moment", time_val_start="2022-05-04"))
    is_late = [day >= date(2022, 5, 4) for day in days["moment"].to_pylist()]
    assert (assignment.fold == VALIDATION).tolist() == is_late


def uuid_columns(numbers: list[int | None]) -> dict[str, pa.Array]:
    """The same UUIDs as writers store them."""
    raw = [None if number is None else UUID(int=(number * 7919) | (0xFE << 120)).bytes for number in numbers]
    text = [None if value is None else str(UUID(bytes=value)) for value in raw]
    return {
        "fixed": pa.array(raw, pa.binary(16)),
        "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array(raw, pa.binary(16))),
        "binary": pa.array(raw, pa.binary()),
        "view": pa.array(raw, pa.binary_view()),
        "text": pa.array(text),
        "capitals": pa.array([None if value is None else value.upper() for value in text], pa.large_string()),
        "dictionary": pa.array(text).dictionary_encode(),
    }


@pytest.mark.parametrize("method", ["group_user", "group_session", "stratified"])
def test_a_key_of_uuids_gives_the_same_folds_in_every_type(tmp_path: Path, log: Columns, method: str) -> None:
    numbers = [None if user is None else int(user[1:]) for user in log["user"].to_pylist()]
    split = split_params(method, group_key="user", session_key="session", row_key=["user", "item", "day"])
    folds = {}
    for name, users in uuid_columns(numbers).items():
        file = write_log(tmp_path / f"{name}.parquet", {**log, "user": users})
        folds[name] = split_file(file, split)[1].fold.tolist()
    assert all(fold == folds["text"] for fold in folds.values())


def test_a_key_in_floats_that_may_have_been_rounded_is_refused(tmp_path: Path, log: Columns) -> None:
    users = np.arange(NUM_ROWS, dtype=np.float64)
    users[77] = 2.0**53
    file = write_log(tmp_path / "a.parquet", {**log, "user": pa.array(users)})
    with pytest.raises(DataError) as caught:
        read(file, split_params("group_user", group_key="user"))
    assert str(caught.value) == (
        f"{file}: column user, row 77: an id in 64-bit floats, which are rounded from 2^53 on; store the column as "
        "integers or text: 9007199254740992.0"
    )


def test_of_several_keys_that_may_have_been_rounded_the_first_is_named(tmp_path: Path, log: Columns) -> None:
    numbers = np.full(NUM_ROWS, 2.0**53)
    file = write_log(tmp_path / "a.parquet", {**log, "user": pa.array(numbers), "visit": pa.array(numbers)})
    split = split_params("group_user", group_key="user")
    with pytest.raises(DataError, match="column user, row 0: "):
        read_split_columns(data_params(file), split, target=TARGET, features=FEATURES, impression=["visit"])


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.float64(), pa.dictionary(pa.int16(), pa.string()), pa.null()], ids=str
)
def test_a_row_without_a_user_is_a_group_of_its_own(
    tmp_path: Path, log: Columns, kind: pa.DataType, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="qin")
    is_missing = np.random.default_rng(3).random(NUM_ROWS) < (2 if pa.types.is_null(kind) else 0.3)
    number = np.arange(NUM_ROWS) % 40
    users = [None if missing else float(n) for n, missing in zip(number, is_missing, strict=True)]
    array = pa.array(users) if kind != pa.float64() else pa.array([np.nan if user is None else user for user in users])
    array = (
        array.cast(pa.int64()).cast(pa.string()).dictionary_encode()
        if pa.types.is_dictionary(kind)
        else array.cast(kind)
    )
    file = write_log(tmp_path / "a.parquet", {**log, "user": array})
    split = split_params("group_user", group_key="user")
    columns, assignment = split_file(file, split)
    assert columns.missing["group"].tolist() == is_missing.tolist()
    assert np.unique(columns.keys["group"][is_missing]).size == is_missing.sum()
    share = assignment.fold[is_missing].mean()
    assert share == pytest.approx(split.val_ratio, abs=1 / is_missing.sum())
    figures = audit(columns, assignment, method=split.method)
    check(figures, file=file)
    assert figures["missing"] == {"group": is_missing.mean()}
    assert f"{is_missing.mean():.2%} of the rows have no group (user); each is one of its own" in caplog.text


def test_a_row_without_a_session_does_not_cross_the_boundary(tmp_path: Path, log: Columns) -> None:
    split = split_params("time", time_col="day", session_key="session", cross_boundary_sessions="drop")
    file = write_log(tmp_path / "a.parquet", {**log, "session": pa.nulls(NUM_ROWS)})
    columns, assignment = split_file(file, split)
    assert assignment.details["num_crossing_sessions"] == 0
    assert not (assignment.fold == EXCLUDED).any()
    assert audit(columns, assignment, method="time")["missing"] == {"session": 1.0}


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"])
def test_iso_text_gives_the_folds_of_its_datetimes(tmp_path: Path, log: Columns, form: str) -> None:
    split = split_params("time", time_col="moment", time_val_start="2022-05-04", time_embargo=86401)
    texts = pa.array([moment.strftime(form) for moment in log["moment"].to_pylist()])
    found = split_file(write_log(tmp_path / "a.parquet", {**log, "moment": texts}, row_group_rows=70), split)[1]
    expected = split_file(write_log(tmp_path / "b.parquet", log), split)[1]
    assert found.fold.tolist() == expected.fold.tolist()


def test_a_start_without_an_offset_is_in_the_columns_zone(
    tmp_path: Path, log: Columns, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="qin")
    midnights = log["moment"].cast(pa.timestamp("us"))
    in_seoul = pc.assume_timezone(midnights, "Asia/Seoul")
    split = split_params("time", time_col="moment", time_val_start="2022-05-04")
    found = split_file(write_log(tmp_path / "a.parquet", {**log, "moment": in_seoul}), split)[1]
    expected = split_file(write_log(tmp_path / "b.parquet", log), split)[1]
    assert found.fold.tolist() == expected.fold.tolist()
    assert found.details["boundary"] == "2022-05-04T00:00:00+09:00"
    assert "time_val_start 2022-05-04: 2022-05-04T00:00:00+09:00 by column moment's zone Asia/Seoul" in caplog.text


def test_an_unknown_zone_is_one_line_where_it_matters(tmp_path: Path, log: Columns) -> None:
    moments = log["moment"].cast(pa.timestamp("us", "Mars/Phobos"))
    file = write_log(tmp_path / "a.parquet", {**log, "moment": moments})
    with pytest.raises(
        ConfigError, match=r"^params\.yaml: split: .*: column moment: its time zone 'Mars/Phobos' is unknown"
    ):
        split_file(file, split_params("time", time_col="moment", time_val_start="2022-05-04"))
    boundary = split_file(file, split_params("time", time_col="moment"))[1].details["boundary"]
    assert boundary.endswith("+00:00")


@pytest.mark.parametrize("scale", [1.0, 1.1])
@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.float32(), pa.string(), pa.int64(), pa.timestamp("us", "Asia/Seoul")], ids=str
)
def test_the_boundary_of_the_metrics_freezes_the_split(
    tmp_path: Path, log: Columns, kind: pa.DataType, scale: float
) -> None:
    seconds = 1_650_000_000 + np.arange(NUM_ROWS) * 1000.0 * scale
    times = pa.array(seconds).cast(pa.float64() if kind in (pa.float64(), pa.string()) else pa.int64(), safe=False)
    file = write_log(tmp_path / "a.parquet", {**log, "ts": times.cast(kind, safe=False)})
    split = split_params("time", time_col="ts")
    columns, assignment = split_file(file, split)
    write_json(tmp_path / "split.json", audit(columns, assignment, method="time"))
    boundary = json.loads((tmp_path / "split.json").read_text())["boundary"]
    frozen = split.model_copy(update={"time_val_start": boundary})
    assert split_file(file, frozen)[1].fold.tolist() == assignment.fold.tolist()


def test_int96_and_int64_with_an_open_end_give_the_same_folds(tmp_path: Path, log: Columns) -> None:
    moments = log["moment"].cast(pa.timestamp("us")).to_pylist()
    moments[::50] = [datetime(9999, 12, 31)] * len(moments[::50])
    table = pa.table({**log, "moment": pa.array(moments, pa.timestamp("us"))})
    folds = []
    for is_int96 in (True, False):
        pq.write_table(table, tmp_path / "log.parquet", use_deprecated_int96_timestamps=is_int96)
        assignment = split_file(str(tmp_path / "log.parquet"), split_params("time", time_col="moment"))[1]
        folds.append(assignment.fold.tolist())
        assert (assignment.fold[::50] == VALIDATION).all()
    assert folds[0] == folds[1]


def test_a_split_by_all_columns_survives_a_rewrite_in_wider_types(tmp_path: Path, log: Columns) -> None:
    narrow = {**{n: a for n, a in log.items() if n != "ID"}, "price": pa.array(np.arange(NUM_ROWS) / 10, pa.float32())}
    wide = {**narrow, "price": narrow["price"].cast(pa.float64()), "item": log["item"].cast(pa.decimal128(22, 2))}
    folds = [
        split_file(write_log(tmp_path / f"{number}.parquet", columns), split_params("stratified"))[1].fold.tolist()
        for number, columns in enumerate((narrow, wide))
    ]
    assert folds[0] == folds[1]


def test_every_label_is_read_and_checked(tmp_path: Path) -> None:
    columns = make_split_log()
    liked = np.random.default_rng(5).random(NUM_ROWS) < 0.2
    file = write_log(tmp_path / "log.parquet", {**columns, "liked": pa.array(liked)})
    data = data_params(file, label=["liked", "clicked"])
    found = read_split_columns(data, split_params("stratified"), target=TARGET, features=FEATURES)
    assert list(found.labels) == ["liked", "clicked"]
    assert np.array_equal(found.label, liked)
    assert np.array_equal(found.other_labels["clicked"], columns["clicked"].to_numpy())
    rows = list(liked.astype(float))
    rows[123] = 0.5
    file = write_log(tmp_path / "log.parquet", {**columns, "liked": pa.array(rows)})
    with pytest.raises(DataError, match=r"log\.parquet: column liked, row 123: label must be 0 or 1: 0\.5$"):
        read_split_columns(data, split_params("stratified"), target=TARGET, features=FEATURES)
