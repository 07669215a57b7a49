"""Time columns of every type against Python's own datetimes and numbers."""

import re
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.raw.log import read_batches
from qin.raw.times import TimeColumn, TimeForm
from qin.runtime.errors import DataError, SchemaError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SEOUL = timezone(timedelta(hours=9))
TEXT_TYPES = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int8(), pa.string())]
LARGEST = 2**63 - 1


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("times")


def column_of(folder: Path, array: pa.Array) -> TimeColumn:
    pq.write_table(pa.table({"t": array}), folder / "log")
    found = TimeColumn.of(folder / "log", "t")
    return TimeColumn("log", found.name, found.form, found.zone)


def values_of(folder: Path, array: pa.Array, *, first_row: int = 0) -> list[float]:
    found = column_of(folder, array).values(array, first_row=first_row)
    assert found.dtype in (np.int64, np.float64)
    return list(found.tolist())


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Seoul"])
def test_datetimes_are_microseconds_in_utc(folder: Path, unit: str, zone: str | None) -> None:
    moments = [datetime(2022, 5, 4, 12, 30, 1, tzinfo=UTC), EPOCH, datetime(1955, 1, 2, 3, 4, 5, tzinfo=UTC)]
    expected = [micros(moment) for moment in moments]
    array = pa.array(expected, pa.int64()).cast(pa.timestamp("us")).cast(pa.timestamp(unit, zone))
    assert values_of(folder, array) == expected


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()], ids=str)
def test_dates_are_midnights(folder: Path, kind: pa.DataType) -> None:
    days = [date(2022, 5, 4), date(1970, 1, 1), date(1969, 12, 31), date(9999, 12, 31)]
    assert values_of(folder, pa.array(days, kind)) == [(day - date(1970, 1, 1)).days * 86_400_000_000 for day in days]


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"), pa.date64()], ids=str)
@pytest.mark.parametrize("open_end", [LARGEST, -(2**63)])
def test_an_open_end_keeps_its_place(kind: pa.DataType, open_end: int) -> None:
    array = pa.array([0, open_end, 1000], pa.int64()).cast(kind)
    found = TimeColumn("log", "t", TimeForm.DATETIME).values(array, first_row=0).tolist()
    assert found[1] == (LARGEST if open_end > 0 else -(2**63))
    assert (found[1] > found[2] > found[0] == 0) if open_end > 0 else (found[1] < 0 == found[0] < found[2])


def test_the_last_day_there_is_keeps_its_place() -> None:
    array = pa.array([0, 2**31 - 1, -(2**31), 2_932_896], pa.int32()).cast(pa.date32())
    found = TimeColumn("log", "t", TimeForm.DATETIME).values(array, first_row=0).tolist()
    assert found == [0, LARGEST, -(2**63), micros(datetime(9999, 12, 31, tzinfo=UTC))]


@pytest.mark.parametrize("store_schema", [True, False])
def test_int96_and_int64_are_the_same_times(folder: Path, *, store_schema: bool) -> None:
    expected = [micros(datetime(2022, 5, 4, 1, 2, 3, 4567, tzinfo=UTC)), 0, micros(datetime(9999, 12, 31, tzinfo=UTC))]
    table = pa.table({"t": pa.array(expected, pa.timestamp("us"))})
    for is_int96 in (True, False):
        file = folder / "log.parquet"
        pq.write_table(table, file, use_deprecated_int96_timestamps=is_int96, store_schema=store_schema)
        batch = next(iter(read_batches(file, columns=["t"], batch_rows=9))).batch
        assert TimeColumn.of(file, "t").values(batch.column(0), first_row=0).tolist() == expected


@pytest.mark.parametrize(
    "kind",
    [
        pa.int8(),
        pa.int64(),
        pa.uint32(),
        pa.uint64(),
        pa.float32(),
        pa.float64(),
        pa.decimal128(20),
        pa.decimal64(9, 2),
    ],
    ids=str,
)
def test_numbers_are_themselves(folder: Path, kind: pa.DataType) -> None:
    values = [Decimal(n) for n in (3, 0, 100)] if pa.types.is_decimal(kind) else [3, 0, 100]
    assert values_of(folder, pa.array(values, kind)) == [3, 0, 100]


def test_large_integers_keep_every_digit(folder: Path) -> None:
    values = [2**62, 2**62 + 1, -(2**62) - 1]
    assert values_of(folder, pa.array(values)) == values
    assert values_of(folder, pa.array([2**62 + 1, 2**64 - 1], pa.uint64())) == [2**62 + 1, LARGEST]
    assert values_of(folder, pa.array([Decimal(2**62 + 1)], pa.decimal128(38))) == [2**62 + 1]
    assert values_of(folder, pa.array([Decimal("0.5"), Decimal(2)], pa.decimal128(9, 1))) == [0.5, 2]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-(10**15), 10**15).map(str) | st.floats(-1e30, 1e30).map(repr), min_size=1, max_size=9))
def test_numeric_text_is_its_number(texts: list[str]) -> None:
    column = TimeColumn("log", "t", TimeForm.NUMBER_TEXT)
    for kind in TEXT_TYPES:
        array = pa.array([text.encode() for text in texts] if kind == pa.binary() else texts, kind)
        assert column.values(array, first_row=0).tolist() == [float(text) for text in texts]


def test_numeric_text_in_other_spellings(folder: Path) -> None:
    assert values_of(folder, pa.array(["00", "23", "+5", "5.", ".5", "1e3"])) == [0, 23, 5, 5, 0.5, 1000]
    assert values_of(folder, pa.array(["165000000000000001"])) == [165000000000000001]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.datetimes(), min_size=1, max_size=9), st.sampled_from(["T", " "]))
def test_iso_text_is_a_datetime(moments: list[datetime], separator: str) -> None:
    expected = [micros(moment.replace(tzinfo=UTC)) for moment in moments]
    texts = [moment.isoformat(separator) for moment in moments]
    local = TimeColumn("log", "t", TimeForm.DATETIME_TEXT)
    zoned = TimeColumn("log", "t", TimeForm.ZONED_TEXT, "+00:00")
    for kind in TEXT_TYPES:
        for column, end in ((local, ""), (zoned, "Z"), (zoned, "+00:00"), (zoned, " UTC")):
            written = [text + end for text in texts]
            array = pa.array([text.encode() for text in written] if kind == pa.binary() else written, kind)
            assert column.values(array, first_row=0).tolist() == expected


@pytest.mark.parametrize(
    ("text", "moment", "zone"),
    [
        ("2022-04-15", datetime(2022, 4, 15, tzinfo=UTC), None),
        ("2022-04-15 05:24", datetime(2022, 4, 15, 5, 24, tzinfo=UTC), None),
        ("2022-04-15T05:24:07.123456789", datetime(2022, 4, 15, 5, 24, 7, 123456, tzinfo=UTC), None),
        ("9999-12-31 23:59:59", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), None),
        ("2022-04-15 05:24:07+09:00", datetime(2022, 4, 15, 5, 24, 7, tzinfo=SEOUL), "+09:00"),
        ("2022-04-15 05:24:07-0330", datetime(2022, 4, 15, 8, 54, 7, tzinfo=UTC), "-0330"),
        ("2022-04-15 05:24:07 UTC", datetime(2022, 4, 15, 5, 24, 7, tzinfo=UTC), "+00:00"),
    ],
)
def test_spellings_of_iso_text(folder: Path, text: str, moment: datetime, zone: str | None) -> None:
    array = pa.array([text])
    assert values_of(folder, array) == [micros(moment)]
    assert column_of(folder, array).zone == zone


@pytest.mark.parametrize(
    ("array", "row", "shown"),
    [
        (pa.array([1, None]), 41, "None"),
        (pa.array([1.5, 2.0, float("nan")]), 42, "nan"),
        (pa.array([float("-inf")]), 40, "-inf"),
        (pa.array(["1", "noon"]), 41, "'noon'"),
        (pa.array(["1", ""]), 41, "''"),
        (pa.array(["1", "nan"]), 41, "'nan'"),
        (pa.array(["1", "1e999"]), 41, "'1e999'"),
        (pa.array([b"1", b"\xff"]), 41, r"'\\xff'"),
        (pa.array([datetime(2022, 5, 4), None]), 41, "None"),
        (pa.array([0, None], pa.timestamp("us", "Mars/Phobos")), 41, "None"),
        (pa.array(["1", None]).dictionary_encode(), 41, "None"),
        (pa.array(["1", "x", "1"]).dictionary_encode(), 41, "'x'"),
        (pa.array(["1", "x"], pa.string_view()), 41, "'x'"),
        (pa.array(["2022-05-04", "2022-02-30"]), 41, "'2022-02-30'"),
        (pa.array(["2022-05-04", "5/4/2022"]), 41, "'5/4/2022'"),
    ],
)
def test_what_is_no_time_is_named_with_its_row(folder: Path, array: pa.Array, row: int, shown: str) -> None:
    with pytest.raises(DataError) as caught:
        values_of(folder, array, first_row=40)
    assert str(caught.value) == f"log: column t, row {row}: not a time: {shown}"


@pytest.mark.parametrize("text", ["1 ", "0x10", "noon", "2020/1/1 0:00", "", b"\xff", None])
def test_a_first_row_that_is_no_time_says_what_is(folder: Path, text: Any) -> None:
    with pytest.raises(
        DataError, match=r"column t, row 0: not a time: .*; numbers are, and ISO text such as 2022-05-04"
    ):
        column_of(folder, pa.array([text], pa.binary() if isinstance(text, bytes) else pa.string()))


@pytest.mark.parametrize(
    ("texts", "rule"),
    [
        (["1", "2022-05-04"], "not text of numbers, as the first row is: '2022-05-04'"),
        (["2022-05-04", "1"], "not text of datetimes without an offset, as the first row is: '1'"),
        (
            ["2022-05-04T00:00:00Z", "2022-05-04"],
            "not text of datetimes with an offset, as the first row is: '2022-05-04'",
        ),
    ],
)
def test_text_of_another_form_than_the_first_row_is_refused(folder: Path, texts: list[str], rule: str) -> None:
    with pytest.raises(DataError) as caught:
        values_of(folder, pa.array(texts))
    assert str(caught.value) == f"log: column t, row 1: {rule}"


@pytest.mark.parametrize(
    "array", [pa.array([True]), pa.array([[1]]), pa.array([timedelta(1)]), pa.nulls(1), pa.array([{"a": 1}])]
)
def test_other_types_are_refused(folder: Path, array: pa.Array) -> None:
    with pytest.raises(SchemaError, match=r"column t: type .* is no time; datetime, date, number, numeric text or ISO"):
        column_of(folder, array)


STARTS = [
    ("2022-05-04", datetime(2022, 5, 4), False),
    (20220504, datetime(2022, 5, 4), False),
    ("2022-05-04T12:00", datetime(2022, 5, 4, 12), False),
    ("2022-05-04 12:00:00.5", datetime(2022, 5, 4, 12, 0, 0, 500_000), False),
    ("2022-05-04T12:00:00+09:00", datetime(2022, 5, 4, 3), True),
    ("2022-05-04T12:00:00Z", datetime(2022, 5, 4, 12), True),
    ("1969-12-31", datetime(1969, 12, 31), False),
]


@pytest.mark.parametrize(("text", "moment", "has_offset"), STARTS)
@pytest.mark.parametrize(
    ("zone", "hours"), [(None, 0), ("UTC", 0), ("Asia/Seoul", 9), ("+09:00", 9), ("-0330", -3.5), ("-11", -11)]
)
def test_a_start_without_an_offset_is_in_the_columns_zone(
    text: Any, moment: datetime, *, has_offset: bool, zone: str | None, hours: float
) -> None:
    column = TimeColumn("log", "t", TimeForm.DATETIME, zone)
    expected = micros(moment.replace(tzinfo=UTC)) - (0 if has_offset else round(hours * 3600 * 10**6))
    assert column.parse(text) == expected
    assert column.parse(column.show(expected)) == expected


@pytest.mark.parametrize("zone", [None, "Asia/Seoul", "America/New_York", "Mars/Phobos"])
@pytest.mark.parametrize(
    "moment", [0, 1651622400123456, 253402300799999999, LARGEST, -(2**63) + 10**6, -62135596800000000]
)
def test_a_boundary_can_be_given_back(zone: str | None, moment: int) -> None:
    column = TimeColumn("log", "t", TimeForm.DATETIME, zone)
    assert column.parse(column.show(moment)) == moment
    assert (re.search(r"T.*[-+]\d\d:\d\d(:\d\d)?$", str(column.show(moment))) is not None) == (zone is not None)


def test_a_zone_that_is_unknown_is_named_where_it_is_needed() -> None:
    column = TimeColumn("log", "t", TimeForm.DATETIME, "Mars/Phobos")
    assert column.parse("2022-05-04T00:00:00+00:00") == micros(datetime(2022, 5, 4, tzinfo=UTC))
    with pytest.raises(
        ValueError, match=r"^log: column t: its time zone 'Mars/Phobos' is unknown on this machine; write"
    ):
        column.parse("2022-05-04")


@pytest.mark.parametrize("text", ["now", "NaT", "today", "May", "", 2022, 1651622400, 1.5, "2022-13-01", "12345-13-01"])
def test_what_is_no_datetime_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^not a datetime such as 2022-05-04 or 2022-05-04T12:00: "):
        TimeColumn("log", "t", TimeForm.DATETIME).parse(text)


@pytest.mark.parametrize(
    ("text", "number"), [(7, 7), (7.5, 7.5), ("7.5", 7.5), (2**62 + 1, 2**62 + 1), (str(2**62 + 1), 2**62 + 1)]
)
def test_a_start_for_numbers_is_a_number(text: Any, number: float) -> None:
    for form in (TimeForm.NUMBER, TimeForm.NUMBER_TEXT):
        column = TimeColumn("log", "t", form)
        assert column.parse(text) == column.show(number) == number


@pytest.mark.parametrize("text", ["noon", "2022-05-04", "nan", "inf"])
def test_a_start_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^time_val_start is not a "):
        TimeColumn("log", "t", TimeForm.NUMBER).parse(text)
