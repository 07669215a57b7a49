"""Names of Arrow types, from which they come back."""

import pyarrow as pa
import pytest

from qin.columns.types import type_name, type_of

PLAIN = [
    *(pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()),
    *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()),
    *(pa.binary(16), pa.date32(), pa.date64(), pa.time32("s"), pa.time64("ns"), pa.duration("ms")),
    *(pa.timestamp("us"), pa.timestamp("s", tz="UTC"), pa.timestamp("ns", tz="America/New_York")),
    *(pa.decimal32(5, 2), pa.decimal64(9, 0), pa.decimal128(38, -3), pa.decimal256(60, 7), pa.uuid()),
]


@pytest.mark.parametrize("kind", [*PLAIN, *(pa.list_(kind) for kind in PLAIN), pa.list_(pa.list_(pa.int64()))], ids=str)
def test_a_type_comes_back_from_its_name(kind: pa.DataType) -> None:
    assert type_of(type_name(kind)) == kind


def test_how_values_are_stored_is_left_out() -> None:
    assert type_name(pa.dictionary(pa.int8(), pa.string())) == "string"
    assert type_name(pa.dictionary(pa.int32(), pa.list_(pa.int64()))) == "list<int64>"
    lists = (pa.large_list(pa.int8()), pa.list_(pa.int8(), 3), pa.list_view(pa.int8()), pa.large_list_view(pa.int8()))
    assert {type_name(kind) for kind in lists} == {"list<int8>"}
    assert type_name(pa.list_(pa.dictionary(pa.int8(), pa.uuid()))) == "list<uuid>"
    assert type_name(pa.json_()) == "string"


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="integer"):
        type_of("integer")
