"""The canonical text of every type, and that it is what is hashed."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest

from qin.columns.types import is_groupable, may_differ
from qin.raw.canonical import canonical_text, shown
from qin.raw.hashing import hash_values, seed_of

RAW = UUID(int=(7 << 64) | (0xFE << 120)).bytes
MOMENT = datetime(2022, 5, 4, 12, 30, 0, 500_000)

CASES: list[tuple[list[Any], pa.DataType, list[str]]] = [
    ([3, -7, 2**62], pa.int64(), ["3", "-7", str(2**62)]),
    ([2**64 - 1], pa.uint64(), [str(2**64 - 1)]),
    ([0.0, -0.0, 3.0, 1.5, 0.1, 1e300, 1e-7], pa.float64(), ["0", "0", "3", "1.5", "0.1", str(int(1e300)), "1e-7"]),
    ([np.float32(0.1).item(), 2.0**63, -(2.0**63)], pa.float64(), ["0.1", str(2**63), str(-(2**63))]),
    ([0.1, 1e20, float("inf")], pa.float32(), ["0.1", "100000002004087734272", "inf"]),
    ([0.5, 3.0], pa.float16(), ["0.5", "3"]),
    ([Decimal("0.10"), Decimal("3.00")], pa.decimal128(9, 2), ["0.1", "3"]),
    ([Decimal("0.10"), Decimal("-3.00")], pa.decimal32(9, 2), ["0.1", "-3"]),
    ([Decimal(10) ** 70], pa.decimal256(76, 0), ["1" + "0" * 70]),
    ([True, False], pa.bool_(), ["true", "false"]),
    (["3", "03", "", "shop"], pa.string(), ["3", "03", "", "shop"]),
    (["shop"], pa.large_string(), ["shop"]),
    (["shop"], pa.string_view(), ["shop"]),
    ([b"shop", "한국".encode(), b"M\xfcller"], pa.binary(), ["shop", "한국", r"M\xfcller"]),
    ([b"shop"], pa.binary(4), ["shop"]),
    ([b"shop", RAW], pa.binary_view(), ["shop", str(UUID(bytes=RAW))]),
    ([RAW], pa.binary(16), [str(UUID(bytes=RAW))]),
    ([date(2022, 5, 4)], pa.date32(), ["2022-05-04"]),
    ([date(2022, 5, 4)], pa.date64(), ["2022-05-04"]),
    *(
        ([MOMENT, datetime(2022, 5, 4)], pa.timestamp(unit), ["2022-05-04 12:30:00.5", "2022-05-04"])
        for unit in ("ms", "us", "ns")
    ),
    ([datetime(2022, 5, 4, 10)], pa.timestamp("s"), ["2022-05-04 10:00:00"]),
    ([datetime(2022, 5, 4, 1)], pa.timestamp("us", "UTC"), ["2022-05-04 01:00:00Z"]),
    ([0], pa.timestamp("us", "Mars/Phobos"), ["1970-01-01Z"]),
    ([time(10, 0)], pa.time32("s"), ["10:00:00"]),
    ([time(10, 0), time(10, 0, 0, 500_000)], pa.time64("ns"), ["10:00:00", "10:00:00.5"]),
]


@pytest.mark.parametrize(("values", "kind", "expected"), CASES, ids=lambda case: str(case)[:20])
def test_the_text_of_a_value_is_what_is_hashed(values: list[Any], kind: pa.DataType, expected: list[str]) -> None:
    array, seed = pa.array([*values, None], kind), seed_of("any", 0)
    text = canonical_text(array)
    assert text.to_pylist() == [*expected, None]
    found, is_null = hash_values(array, seed)
    is_escaped = np.array(["\\" in name for name in expected])  # bytes that are no text are hashed as they are
    assert (found[:-1] == hash_values(text, seed)[0][:-1])[~is_escaped].all()
    assert is_null.tolist() == [False] * len(values) + [True]
    assert hash_values(array[1:], seed)[0][:-1].tolist() == found[1:-1].tolist()
    assert is_groupable(kind)


def test_a_dictionary_has_the_texts_of_its_values() -> None:
    array = pa.array(["b", None, "a", "b"]).dictionary_encode()
    assert canonical_text(array).to_pylist() == ["b", None, "a", "b"]
    assert canonical_text(pa.nulls(2)).to_pylist() == [None, None]
    assert canonical_text(pa.array([float("nan")])).to_pylist() == [None]


def test_uuids_are_equal_in_every_type() -> None:
    uuid = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([RAW, None], pa.binary(16)))
    text = pa.array([str(UUID(bytes=RAW)), None])
    assert canonical_text(uuid).equals(text.cast(pa.large_string()))
    seed = seed_of("user", 0)
    expected = hash_values(text, seed)[0][0]
    for array in (
        uuid,
        pa.array([RAW], pa.binary(16)),
        pa.array([RAW], pa.binary()),
        pa.array([str(UUID(bytes=RAW)).upper()]),
        pa.array([str(UUID(bytes=RAW))]).dictionary_encode(),
    ):
        assert hash_values(array, seed)[0][0] == expected


@pytest.mark.parametrize("near", ["{}0", "0{}", "g{}"])
def test_text_that_is_almost_a_uuid_is_text(near: str) -> None:
    uuid = str(UUID(bytes=RAW))
    texts = [near.format(uuid), near.format(uuid)[:36], uuid.replace("-", "_")]
    seed = seed_of("user", 0)
    found = hash_values(pa.array([uuid, *texts]), seed)[0]
    assert len(set(found.tolist())) == len({uuid, *texts})


GROUPS = [
    [pa.int8(), pa.uint64(), pa.float32(), pa.float64(), pa.decimal32(3), pa.decimal256(50, 3)],
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.binary_view(),
        pa.dictionary(pa.int8(), pa.string()),
    ],
    [pa.binary(16), pa.uuid(), pa.binary()],
    [pa.string(), pa.uuid()],
    [pa.date32(), pa.date64(), pa.timestamp("s"), pa.timestamp("ns")],
    [pa.timestamp("s", "UTC"), pa.timestamp("ns", "Asia/Seoul")],
    [pa.time32("s"), pa.time64("ns")],
]
APART = [
    pa.int64(), pa.string(), pa.binary(16), pa.bool_(), pa.float16(), pa.date32(), pa.timestamp("s", "UTC"),
    pa.time32("s"), pa.duration("s"),
]  # fmt: skip


def test_types_whose_equal_values_are_hashed_equal() -> None:
    for group in GROUPS:
        assert not any(may_differ(one, other) for one in group for other in group)
    for position, one in enumerate(APART):
        assert not may_differ(one, one)
        assert not may_differ(one, pa.null())
        assert all(may_differ(one, other) for other in APART[position + 1 :])


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int8()), pa.struct([("a", pa.int8())]), pa.map_(pa.string(), pa.int8())], ids=str
)
def test_nested_values_are_not_told_apart(kind: pa.DataType) -> None:
    assert not is_groupable(kind)


def test_values_in_messages() -> None:
    array = pa.array([b"a\xff", b"x" * 99, None], pa.binary())
    assert [shown(array, row) for row in range(3)] == [r"'a\\xff'", f"'{'x' * 28}...{'x' * 28}'", "None"]
    assert shown(pa.array([timedelta(1)]), 0) == "datetime.timedelta(days=1)"
    assert shown(pa.array([2**62], pa.timestamp("s")), 0).startswith("<value out of range")
