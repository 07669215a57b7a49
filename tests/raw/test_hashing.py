"""Hashes pinned by value and against the definition in plain Python integers."""

import ctypes
import re
import struct
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qin.raw.hashing import bucket_of, hash_column, hash_int, hash_rows, hash_values, seed_of, unhash_int

MASK = 2**64 - 1
SEED = seed_of("item", 0)
INT_TYPES = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOAT_TYPES = [pa.float16(), pa.float32(), pa.float64()]
TEXT_TYPES = [pa.string(), pa.large_string(), pa.string_view()]

# text: hash with SEED. These must never change: prepared logs and trained models depend on them.
PINNED = {
    "0": 0xD50469CF0882C995,
    "3": 0x4BEC0FBA68BA1711,
    "-1": 0xE0BD92B277E97D70,
    "9223372036854775807": 0xD2A1EE8FC1467C8F,
    "9223372036854775808": 0x0DB224A0C4966D19,
    "": 0x4AD8C04504713F6C,
    "03": 0x2A7862D1AB5C38BF,
    "3.5": 0xA36B4F7A82BC8D10,
    "shop": 0xEC36A22966D7C1C9,
    "한국어": 0xED9BA3E0F8A62D21,
}


def reference_mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def reference_hash(text: str, seed: int) -> int:
    """The definition: a canonical 64-bit integer by its number, other text by its bytes, FNV-1a or eight at a time."""
    if re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        return reference_bytes_hash(bytes.fromhex(text.replace("-", "")), seed)
    if re.fullmatch(r"-?(0|[1-9][0-9]*)", text, re.ASCII) and text != "-0" and -(2**63) <= int(text) < 2**63:
        return reference_mix(reference_mix(((int(text) & MASK) + 0x9E3779B97F4A7C15) & MASK) ^ seed)
    return reference_bytes_hash(text.encode(), seed)


def reference_bytes_hash(data: bytes, seed: int) -> int:
    """Of anything that is no integer."""
    state = 0xCBF29CE484222325
    if len(data) > 64:
        words = len(data) // 8
        for word in struct.unpack(f"<{words}Q", data[: 8 * words]):
            state = reference_mix(state ^ word)
        data = data[8 * words :]
    for byte in data:
        state = ((state ^ byte) * 0x100000001B3) & MASK
    return reference_mix(reference_mix(state ^ 0xD6E8FEB86659FD93) ^ seed)


def hashes(values: list[Any], kind: pa.DataType, seed: Any = SEED) -> list[int]:
    found, is_null = hash_values(pa.array(values, kind), seed)
    assert not is_null.any()
    return [int(value) for value in found]


def row_hashes(*columns: pa.Array) -> Any:
    return hash_rows([hash_column(column) for column in columns], SEED)


def test_pinned_values() -> None:
    assert int(SEED) == 0x3EEAB7D2A97D4092
    assert dict(zip(PINNED, hashes(list(PINNED), pa.string()), strict=True)) == PINNED


def test_seeds_are_hashes_of_their_text() -> None:
    assert int(seed_of("split.row", 12)) == reference_hash("12:split.row", 0)
    assert len({int(seed_of(name, seed)) for name in ("a", "b", "split.row") for seed in range(50)}) == 150


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.text() | st.text(min_size=60, max_size=90) | st.from_regex(r"[-+]?[0-9]{1,21}", fullmatch=True), min_size=1
    ),
    st.integers(0, MASK),
)
def test_text_of_every_type_equals_the_definition(texts: list[str], seed: int) -> None:
    expected = [reference_hash(text, seed) for text in texts]
    for kind in TEXT_TYPES:
        assert hashes(texts, kind, np.uint64(seed)) == expected
    assert hashes(texts, pa.dictionary(pa.int16(), pa.string()), np.uint64(seed)) == expected


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**63), 2**64 - 1))
@example(2**63 - 1)
@example(2**63)
@example(-(2**63))
@example(2**64 - 1)
@example(0)
def test_integers_equal_their_text(value: int) -> None:
    expected = [reference_hash(str(value), int(SEED))]
    for kind in INT_TYPES:
        bounds = np.iinfo(kind.to_pandas_dtype())
        if bounds.min <= value <= bounds.max:
            assert hashes([value], kind) == expected


@settings(max_examples=100, deadline=None)
@given(st.integers(2**63, 10**40))
def test_integers_beyond_64_bits_are_text(value: int) -> None:
    for text in (str(value), str(-value - 1)):
        assert hashes([text], pa.string()) == [reference_hash(text, int(SEED))]


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53).map(float))
@example(2.0**63 - 1024)
@example(-(2.0**63))
@example(2.0**63)
@example(-0.0)
def test_floats_equal_their_integer_or_their_shortest_text(value: float) -> None:
    assert hashes([value], pa.float64()) == [reference_hash(float_text(value), int(SEED))]


def float_text(value: float) -> str:
    """The definition: digits of a whole number; of a fraction the shortest that give back its narrowest float."""
    if value.is_integer():
        return str(int(value))
    narrow = ctypes.c_float(value).value
    text = np.format_float_positional(np.float32(value) if narrow == value else value, trim="0")
    shown = str(pa.scalar(value, pa.float32() if narrow == value else pa.float64()).cast(pa.string()))
    assert float(shown) == float(text)
    return shown


@settings(max_examples=100, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
@example(np.float32(0.1).item())
def test_32_bit_floats_equal_their_values_in_64_bits(value: float) -> None:
    assert (
        hashes([value], pa.float32()) == hashes([value], pa.float64()) == [reference_hash(float_text(value), int(SEED))]
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(-(10**6), 10**6), st.integers(0, 5))
@example(1, 1)
def test_a_short_decimal_is_one_value_in_text_floats_and_decimals(digits: int, scale: int) -> None:
    exact = Decimal(digits).scaleb(-scale)
    value = float(exact)
    expected = hashes([value], pa.float64())
    assert hashes([np.float32(value).item()], pa.float64()) == expected  # as widened from 32 bits
    for kind in (pa.float32(), *(pa.decimal128(12, scale + more) for more in (0, 3)), pa.decimal256(40, 20)):
        assert hashes([exact if pa.types.is_decimal(kind) else value], kind) == expected
    assert hashes([float_text(value)], pa.string()) == expected


@settings(max_examples=100, deadline=None)
@given(st.integers(-(10**37), 10**37), st.integers(0, 30))
@example(2**63, 0)
@example(10**20, 0)
@example(5**30, 30)
def test_decimals_of_many_digits(digits: int, scale: int) -> None:
    exact = Decimal(digits).scaleb(-scale)
    if exact == exact.to_integral_value():
        expected = str(int(exact))
    elif Decimal(float(exact)) == exact or len(str(abs(digits)).rstrip("0")) <= 15:
        expected = float_text(float(exact))
    else:
        expected = f"{exact:f}".rstrip("0")
    for kind in (pa.decimal128(38, scale), pa.decimal256(76, scale)):
        assert hashes([exact], kind) == [reference_hash(expected, int(SEED))]


@pytest.mark.parametrize("kind", [pa.decimal32(5, 2), pa.decimal64(9, 3), pa.decimal128(20, 0), pa.decimal256(50, 4)])
def test_decimals_of_every_width_are_numbers(kind: pa.DataType) -> None:
    array = pa.array([Decimal(7), None, Decimal(-2)], kind)
    found, is_null = hash_values(array, SEED)
    assert is_null.tolist() == [False, True, False]
    assert found[[0, 2]].tolist() == hashes([7, -2], pa.int64())


@pytest.mark.parametrize("value", [3, 0, 100, 127])
def test_one_number_in_every_column_type(value: int) -> None:
    expected = hashes([str(value)], pa.string())
    for kind in (*INT_TYPES, *FLOAT_TYPES):
        assert hashes([value], kind) == expected, kind
    for kind in (*TEXT_TYPES, pa.dictionary(pa.int32(), pa.string())):
        assert hashes([str(value)], kind) == expected, kind
    for kind in (pa.int64(), pa.float64()):
        encoded = pa.array([value], kind).dictionary_encode()
        assert hash_values(encoded, SEED)[0].tolist() == expected


def test_fractions_agree_between_float_widths_and_text() -> None:
    for kind in FLOAT_TYPES:
        assert hashes([0.5, -2.25], kind) == hashes(["0.5", "-2.25"], pa.string())
    assert hashes([0.1], pa.float32()) == hashes([0.1], pa.float64())


def test_other_spellings_are_other_values() -> None:
    spellings = ["3", "03", "3.0", "+3", " 3", "3 ", "-3", "", "٣"]
    assert len(set(hashes(spellings, pa.string()))) == len(spellings)


def test_negative_zero_is_zero() -> None:
    for kind in FLOAT_TYPES:
        assert hashes([-0.0], kind) == hashes(["0"], pa.string())
    assert hashes(["-0"], pa.string()) != hashes(["0"], pa.string())


def test_booleans_are_their_words() -> None:
    assert hashes([True, False], pa.bool_()) == hashes(["true", "false"], pa.string())


def test_dates_are_their_text() -> None:
    assert hashes([19000], pa.date32()) == hashes(["2022-01-08"], pa.string())


@pytest.mark.parametrize("kind", [*INT_TYPES, *FLOAT_TYPES, pa.bool_(), pa.date32()], ids=str)
def test_nulls_are_flagged_in_number_columns(kind: pa.DataType) -> None:
    array = pa.array([None, 1, None, 0], pa.int32()).cast(kind)
    found, is_null = hash_values(array, SEED)
    assert is_null.tolist() == [True, False, True, False]
    assert found[[1, 3]].tolist() == hash_values(array.drop_null(), SEED)[0].tolist()


@pytest.mark.parametrize("kind", [*TEXT_TYPES, pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_nulls_are_flagged_in_text_columns_and_empty_text_is_none(kind: pa.DataType) -> None:
    found, is_null = hash_values(pa.array(["a", None, "", None], kind), SEED)
    assert is_null.tolist() == [False, True, False, True]
    assert found[[0, 2]].tolist() == hashes(["a", ""], pa.string())


def test_nan_is_null() -> None:
    for kind in FLOAT_TYPES:
        array = pa.array(np.array([1.5, np.nan, 2.0, 0.25]), pa.float64()).cast(kind)
        found, is_null = hash_values(array, SEED)
        assert is_null.tolist() == [False, True, False, False]
        assert found[[0, 2, 3]].tolist() == hashes(["1.5", "2", "0.25"], pa.string())


def test_nulls_in_codes_and_in_values_of_a_dictionary() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, None, 1, 2], pa.int8()), pa.array(["a", None, "b"]))
    found, is_null = hash_values(array, SEED)
    assert is_null.tolist() == [False, True, True, False]
    assert found[[0, 3]].tolist() == hashes(["a", "b"], pa.string())
    empty = pa.DictionaryArray.from_arrays(pa.array([None, None], pa.int8()), pa.array([], pa.string()))
    assert hash_values(empty, SEED)[1].tolist() == [True, True]


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["a", None, "cc", "3", "", "e"]),
        pa.array([1, None, 3, 4, 5, 6]),
        pa.array([1.5, None, 3.0, 4.0, 5.25, 6.0]),
        pa.array([True, None, False, True, True, False]),
        pa.array(["a", None, "cc", "3", "", "e"]).dictionary_encode(),
    ],
    ids=lambda array: str(array.type),
)
def test_slices_and_empty_arrays(array: pa.Array) -> None:
    found, is_null = hash_values(array, SEED)
    for start, stop in ((0, 6), (1, 4), (2, 2), (5, 6)):
        part, part_null = hash_values(array.slice(start, stop - start), SEED)
        assert part_null.tolist() == is_null[start:stop].tolist()
        assert part[~part_null].tolist() == found[start:stop][~part_null].tolist()


def test_rows_are_hashed_by_all_columns_in_order() -> None:
    a, b = pa.array(["x", "x", "y", None, "x"]), pa.array([1, 2, 1, 1, 1])
    found = row_hashes(a, b)
    assert found[0] == found[4]
    assert len(set(found.tolist())) == 4
    assert not np.isin(row_hashes(b, a), found).any()
    assert row_hashes(a, b.cast(pa.string())).tolist() == found.tolist()
    assert row_hashes(a.slice(2), b.slice(2)).tolist() == found[2:].tolist()


def test_null_is_one_value_in_rows_of_every_type() -> None:
    a = pa.array(["x", "x"])
    others = [pa.array([None, 0]), pa.array([None, ""]), pa.array([None, 0.5]), pa.array([float("nan"), 1.0])]
    found = [row_hashes(a, other) for other in others]
    assert len({int(row[0]) for row in found}) == 1
    assert all(row[0] != row[1] for row in found)


def test_a_row_hash_equals_the_definition() -> None:
    total = int(SEED)
    for text in ("x", "7"):
        total = reference_mix((total * 0x100000001B3 + reference_hash(text, int(SEED))) & MASK)
    assert row_hashes(pa.array(["x"]), pa.array([7])).tolist() == [total]


@pytest.mark.parametrize("num_values", [1, 7, 1000, 2**31])
def test_buckets_follow_padding_and_null(num_values: int) -> None:
    edges = [0, MASK, 2**32 - 1, 2**63, 0x123456789ABCDEF0]
    buckets = [int(bucket_of(np.uint64(value), np.uint64(num_values))) for value in edges]
    assert buckets == [2 + (((value >> 32) * num_values) >> 32) for value in edges]
    assert (min(buckets), max(buckets)) == (2, num_values + 1)


def test_consecutive_integers_spread_evenly() -> None:
    out, _ = hash_values(pa.array(np.arange(64_000)), SEED)
    buckets = [int(bucket_of(value, np.uint64(64))) - 2 for value in out[:6400]]
    counts = np.bincount(buckets, minlength=64)
    chi_square = float(((counts - 100.0) ** 2 / 100).sum())
    assert 30 < chi_square < 110  # 63 degrees of freedom, about 0.0003 in each tail
    for bit in (0, 31, 63):
        assert abs(((out >> np.uint64(bit)) & np.uint64(1)).mean() - 0.5) < 0.01


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1))
@settings(deadline=None)
def test_an_integer_is_found_again_by_its_hash(value: int, seed: int) -> None:
    hashed = hash_int(np.int64(value), np.uint64(seed))
    assert unhash_int(np.uint64(hashed), np.uint64(seed)) == value
