"""Whole batches against a slow, obvious reference in plain Python."""

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.columns.schema import Field, FieldKind, Schema
from qin.prepare.encode import BatchEncoder
from qin.raw.hashing import seed_of
from qin.runtime.errors import DataError
from qin.shards.files import layout
from tests.raw.test_hashing import reference_hash

TEXT_BUCKETS, NUMBER_BUCKETS, SEQ_BUCKETS, MAX_LEN = 11, 300, 70_000, 4
FIELDS = (
    Field("text", FieldKind.CATEGORICAL, vocabulary="text", num_buckets=TEXT_BUCKETS),
    Field("whole", FieldKind.CATEGORICAL, vocabulary="whole", num_buckets=NUMBER_BUCKETS),
    Field("real", FieldKind.CATEGORICAL, vocabulary="real", num_buckets=NUMBER_BUCKETS),
    Field("price", FieldKind.NUMERIC),
    Field("seq", FieldKind.SEQUENCE, vocabulary="seq", num_buckets=SEQ_BUCKETS, max_len=MAX_LEN),
)
SCHEMA = Schema(fields=FIELDS, target=("text",), label="clicked", id="ID", hash_seed=5)

INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 12)
TOKENS = st.integers(-(10**30), 10**30) | st.integers(0, 700)
BLANKS = st.text(" \t", max_size=2)


# Integers between commas, with blanks around them, signs, leading zeros and a trailing comma.
GOOD_TOKENS = st.builds("{}{}{}".format, BLANKS, TOKENS, BLANKS) | st.builds(
    "{}{}{}".format, BLANKS, st.sampled_from(["+", "0", "00", "-0"]), st.integers(0, 700)
)
SEQUENCES = st.builds(
    lambda tokens, end: ",".join(tokens) + (end if tokens else ""),
    st.lists(GOOD_TOKENS, max_size=7),
    st.sampled_from(["", ",", ", "]),
)

ROWS = st.fixed_dictionaries(
    {
        "text": st.none() | st.text(max_size=80) | INTEGERS.map(str),
        "whole": st.none() | INTEGERS,
        "real": st.none() | st.floats(-16777215.0, 16777215.0, width=32) | st.integers(1 - 2**24, 2**24 - 1).map(float),
        "price": st.none() | st.floats(allow_infinity=False, width=32),
        "seq": st.none() | SEQUENCES,
        "clicked": st.integers(0, 1),
    }
)
TYPES = {"text": pa.string(), "whole": pa.int64(), "real": pa.float32(), "price": pa.float32(), "seq": pa.string()}


def bucket(text: str | None, name: str, num_buckets: int) -> int:
    if text is None:
        return 1
    value = reference_hash(text, int(seed_of(name, SCHEMA.hash_seed)))
    return 2 + (((value >> 32) * (num_buckets - 2)) >> 32)


def text_of(value: float | None) -> str | None:
    """The canonical text of a number: that of an integer where it is one."""
    if value is None or math.isnan(value):
        return None
    if float(value).is_integer() and -(2.0**63) <= value < 2.0**63:
        return str(int(value))
    return str(pa.scalar(value, pa.float32()).cast(pa.string()))


def tokens_of(text: str | None) -> list[int]:
    stripped = (text or "").strip(" \t").removesuffix(",").strip(" \t")
    return [int(token) for token in stripped.split(",")] if stripped else []


@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=6))
def test_a_batch_equals_the_reference(rows: list[dict[str, Any]]) -> None:
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in TYPES.items()}
    batch = pa.record_batch({**columns, "clicked": pa.array([row["clicked"] for row in rows], pa.int32())})
    found = BatchEncoder(SCHEMA, layout(SCHEMA, with_label=True), file="log")(0, batch)

    for i, row in enumerate(rows):
        whole = None if row["whole"] is None else str(row["whole"])
        assert found.arrays["categorical"][i].tolist() == [
            bucket(row["text"], "text", TEXT_BUCKETS),
            bucket(whole, "whole", NUMBER_BUCKETS),
            bucket(text_of(row["real"]), "real", NUMBER_BUCKETS),
        ]
        price = math.nan if row["price"] is None else row["price"]
        np.testing.assert_array_equal(found.arrays["numeric"][i], np.array([price], np.float32))
        tokens = tokens_of(row["seq"])
        kept = [bucket(str(token), "seq", SEQ_BUCKETS) for token in tokens[-MAX_LEN:]]
        assert found.arrays["sequence.seq"][i].tolist() == kept + [0] * (MAX_LEN - len(kept))
        assert found.lengths["seq"][i] == len(tokens)
        assert found.arrays["label"][i].tolist() == [row["clicked"]]
    assert found.num_missing.tolist() == [sum(row["price"] is None or math.isnan(row["price"]) for row in rows)]
    assert found.hashes["whole"][1].tolist() == [row["whole"] is None for row in rows]


def numeric(array: pa.Array) -> Any:
    fields = (Field("c", FieldKind.CATEGORICAL, vocabulary="c", num_buckets=9), Field("x", FieldKind.NUMERIC))
    schema = Schema(fields=fields, target=("c",), label="y", id="ID", hash_seed=0)
    batch = pa.record_batch({"c": pa.array([1] * len(array)), "x": array})
    return BatchEncoder(schema, layout(schema, with_label=False), file="log")(10, batch)


def test_decimals_are_the_floats_of_their_value() -> None:
    values = [f"{number / 100:.2f}" for number in range(-500, 500, 7)]
    expected = np.array([float(value) for value in values], np.float32)
    for kind in (pa.decimal32(9, 2), pa.decimal64(12, 2), pa.decimal128(30, 4), pa.decimal256(50, 2)):
        found = numeric(pa.array([*(Decimal(value) for value in values), None], kind))
        assert found.arrays["numeric"][:-1, 0].tolist() == expected.tolist()
        assert np.isnan(found.arrays["numeric"][-1, 0])
        assert found.num_missing.tolist() == [1]
    with pytest.raises(DataError, match=r"^log: column x, row 10: too large for 32-bit floats: 1e\+70$"):
        numeric(pa.array([Decimal(10) ** 70], pa.decimal256(76)))


def numbers_of(columns: dict[str, pa.Array]) -> Any:
    fields = [Field("c", FieldKind.CATEGORICAL, vocabulary="c", num_buckets=9)]
    fields += [Field(name, FieldKind.NUMERIC) for name in columns]
    schema = Schema(fields=tuple(fields), target=("c",), label="y", id="ID", hash_seed=0)
    num_rows = len(next(iter(columns.values())))
    batch = pa.record_batch({"more": pa.array([0.5] * num_rows), **columns, "c": pa.array([1] * num_rows)})
    return BatchEncoder(schema, layout(schema, with_label=False), file="log")(10, batch)


def test_numbers_of_several_types_are_each_what_they_are_alone() -> None:
    """Those of 32 and 64 bits are read together, the others one by one; nulls, NaN and offsets among them."""
    values = [1 / 3, None, float("nan"), -0.0, 1e-45, 2.5, 1e30]
    columns = {
        "wide": pa.array([*values, 7.0], pa.float64()).slice(1),
        "narrow": pa.array(values, pa.float32()),
        "whole": pa.array([2**24 + 1, None, 0, -1, 2**53 + 1, 5, 6], pa.int64()),
        "nothing": pa.nulls(7),
    }
    found = numbers_of(columns)
    for position, (name, column) in enumerate(columns.items()):
        alone = numbers_of({name: column})
        expected = alone.arrays["numeric"][:, 0]
        assert found.arrays["numeric"][:, position].tobytes() == expected.tobytes()
        assert found.num_missing[position] == alone.num_missing[0] == np.isnan(expected).sum()
    assert found.arrays["numeric"][:, 2].tolist()[:1] == [2**24]
    assert numbers_of({name: column.slice(0, 0) for name, column in columns.items()}).arrays["numeric"].shape == (0, 4)


def test_the_first_column_that_is_wrong_is_named() -> None:
    good, bad = pa.array([1.0, 2.0]), pa.array([1.0, 1e39])
    decimal = pa.array([Decimal(1), Decimal(10) ** 70], pa.decimal256(76))
    with pytest.raises(DataError, match=r"^log: column b, row 11: too large for 32-bit floats: 1e\+70$"):
        numbers_of({"a": good, "b": decimal, "c": bad})
    with pytest.raises(DataError, match=r"^log: column b, row 11: too large for 32-bit floats: 1e\+39$"):
        numbers_of({"a": good, "b": bad, "c": decimal, "d": bad})


def test_a_numeric_column_without_a_type_is_missing() -> None:
    found = numeric(pa.nulls(3))
    assert np.isnan(found.arrays["numeric"]).all()
    assert found.num_missing.tolist() == [3]


def test_an_id_in_floats_that_may_have_been_rounded_is_refused() -> None:
    row = {name: pa.array([None], kind) for name, kind in TYPES.items()}
    for name, array in (("real", pa.array([2.0**24], pa.float32())), ("seq", pa.array([[2.0**53]]))):
        batch = pa.record_batch({**row, name: array, "clicked": pa.array([0])})
        with pytest.raises(
            DataError, match=rf"^log: column {name}, row 7: an id in \d\d-bit floats, which are rounded"
        ):
            BatchEncoder(SCHEMA, layout(SCHEMA, with_label=True), file="log")(7, batch)
