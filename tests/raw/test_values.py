"""Time columns of every type against Python's own datetimes and numbers."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.errors import DataError, SchemaError
from qin.raw.values import parse_start, time_values

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def values_of(array: pa.Array, *, first_row: int = 0) -> list[float]:
    found = time_values(array, file="log", column="t", first_row=first_row)
    assert found.dtype in (np.int64, np.float64)
    return list(found.tolist())


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Seoul"])
def test_datetimes_are_microseconds_in_utc(unit: str, zone: str | None) -> None:
    moments = [datetime(2022, 5, 4, 12, 30, 1, tzinfo=UTC), EPOCH, datetime(1955, 1, 2, 3, 4, 5, tzinfo=UTC)]
    expected = [(moment - EPOCH) // timedelta(microseconds=1) for moment in moments]
    array = pa.array(expected, pa.int64()).cast(pa.timestamp("us")).cast(pa.timestamp(unit, zone))
    assert values_of(array) == expected


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()], ids=str)
def test_dates_are_midnights(kind: pa.DataType) -> None:
    days = [date(2022, 5, 4), date(1970, 1, 1), date(1969, 12, 31)]
    assert values_of(pa.array(days, kind)) == [(day - date(1970, 1, 1)).days * 86_400_000_000 for day in days]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint32(), pa.uint64(), pa.float32(), pa.float64()], ids=str)
def test_numbers_are_themselves(kind: pa.DataType) -> None:
    assert values_of(pa.array([3, 0, 100], kind)) == [3, 0, 100]


def test_large_integers_keep_every_digit() -> None:
    values = [2**62, 2**62 + 1, -(2**62) - 1]
    assert values_of(pa.array(values)) == values


TEXT_TYPES = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(10**15), 10**15).map(str) | st.floats(-1e30, 1e30).map(repr), min_size=1, max_size=9))
def test_numeric_text_is_its_number(texts: list[str]) -> None:
    for kind in TEXT_TYPES:
        assert values_of(pa.array(texts, kind)) == [float(text) for text in texts]


def test_numeric_text_in_other_spellings() -> None:
    assert values_of(pa.array(["00", "23", "+5", "5.", ".5", "1e3"])) == [0, 23, 5, 5, 0.5, 1000]


@pytest.mark.parametrize(
    ("array", "row", "shown"),
    [
        (pa.array([1, None]), 41, "None"),
        (pa.array([1.5, 2.0, float("nan")]), 42, "nan"),
        (pa.array([float("-inf")]), 40, "-inf"),
        (pa.array(["1", "noon"]), 41, "'noon'"),
        (pa.array(["1", "2022-05-04"]), 41, "'2022-05-04'"),
        (pa.array(["1", ""]), 41, "''"),
        (pa.array(["1 "]), 40, "'1 '"),
        (pa.array(["1", "nan"]), 41, "'nan'"),
        (pa.array(["0x10"]), 40, "'0x10'"),
        (pa.array(["1", "1e999"]), 41, "inf"),
        (pa.array([datetime(2022, 5, 4), None]), 41, "None"),
        (pa.array(["1", None]).dictionary_encode(), 41, "None"),
        (pa.array(["1", "x", "1"]).dictionary_encode(), 41, "'x'"),
        (pa.array(["1", "x"], pa.string_view()), 41, "'x'"),
    ],
)
def test_what_is_no_time_is_named_with_its_row(array: pa.Array, row: int, shown: str) -> None:
    with pytest.raises(DataError) as caught:
        values_of(array, first_row=40)
    assert str(caught.value) == f"log: column t, row {row}: not a time: {shown}"


@pytest.mark.parametrize("array", [pa.array([True]), pa.array([[1]]), pa.array([b"1"]), pa.array([timedelta(1)])])
def test_other_types_are_refused(array: pa.Array) -> None:
    with pytest.raises(SchemaError, match=r"^log: column t: type .* is no time; datetime, date, number or numeric"):
        values_of(array)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2022-05-04", datetime(2022, 5, 4, tzinfo=UTC)),
        (20220504, datetime(2022, 5, 4, tzinfo=UTC)),
        ("2022-05-04T12:00", datetime(2022, 5, 4, 12, tzinfo=UTC)),
        ("2022-05-04 12:00:00.5", datetime(2022, 5, 4, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2022-05-04T12:00:00+09:00", datetime(2022, 5, 4, 3, tzinfo=UTC)),
        ("2022-05-04T12:00:00Z", datetime(2022, 5, 4, 12, tzinfo=UTC)),
        ("1969-12-31", datetime(1969, 12, 31, tzinfo=UTC)),
    ],
)
@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.timestamp("ns", "Asia/Seoul"), pa.date32()], ids=str)
def test_a_start_is_the_same_moment_as_in_the_column(text: Any, moment: datetime, kind: pa.DataType) -> None:
    assert parse_start(text, kind) == (moment - EPOCH) // timedelta(microseconds=1)


@pytest.mark.parametrize("text", ["now", "NaT", "today", "May", "", 2022, 1651622400, 1.5, "2022-13-01"])
def test_what_is_no_datetime_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^not a datetime such as 2022-05-04 or 2022-05-04T12:00: "):
        parse_start(text, pa.timestamp("us"))


@pytest.mark.parametrize(("text", "number"), [(7, 7), (7.5, 7.5), ("7.5", 7.5), (2**62 + 1, 2**62 + 1)])
def test_a_start_for_numbers_is_a_number(text: Any, number: float) -> None:
    for kind in (pa.int64(), pa.float64(), pa.string()):
        assert parse_start(text, kind) == number


@pytest.mark.parametrize("text", ["noon", "2022-05-04", "nan", "inf"])
def test_a_start_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^time_val_start is not a "):
        parse_start(text, pa.int64())
