"""Stable 64-bit hashing of column values by their canonical text.

The hash of a value is a function of its canonical text alone (see `qin.raw.canonical`), so `3`, `3.0` and `"3"` are
equal, in every column type, process and release. Text that is a canonical integer of 64 bits (`-?(0|[1-9][0-9]*)`, no
`-0`) is hashed by its number, which spares number columns the detour over text; the text of a UUID by its 16 bytes,
which is how other writers store it; all other text by its UTF-8 bytes, one at a time up to 64 of them and else eight
at a time, because whole histories may serve as keys.

A hash has two steps: the value's own, which needs no seed and is the costly one, and a mix with a seed.

Source: FNV-1a (Fowler, Noll, Vo) over bytes; the finalizer is SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qin.columns.buckets import FIRST_VALUE_BUCKET
from qin.columns.types import is_binary, is_string
from qin.raw.canonical import byte_text, float_texts
from qin.runtime.jit import njit
from qin.runtime.seeds import GOLDEN, mix, unmix

Hashes = npt.NDArray[np.uint64]
_Flags = npt.NDArray[np.bool_]

# None of these may ever change: every model, and every fold that was frozen, is made of hashes.
_FNV_BASIS = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
# Parts the words of texts from those of integers, because both go through the same `mix`.
_TEXT_SALT = np.uint64(0xD6E8FEB86659FD93)
_MAX_INT_DIGITS = 19  # a word without sign holds any so many; the bound of 63 bits is looked at afterwards
_LONG_TEXT_BYTES = 64
_UUID_TEXT_BYTES = 36
_DASH = 45


@njit(nogil=True, inline="always")
def _unseeded_int(value: np.int64) -> np.uint64:
    return mix(np.uint64(value) + GOLDEN)


@njit(nogil=True)
def unhash_int(value: np.uint64, seed: np.uint64) -> np.int64:
    """The integer whose `hash_int` this is: every hash is one integer's, because `mix` is a bijection."""
    return np.int64(unmix(unmix(value) ^ seed) - GOLDEN)


@njit(nogil=True, inline="always")
def hash_int(value: np.int64, seed: np.uint64) -> np.uint64:
    """Hash of the text of an integer."""
    return mix(_unseeded_int(value) ^ seed)


@njit(nogil=True, inline="always")
def bucket_of(value: np.uint64, num_values: np.uint64) -> np.uint64:
    """Reduce a hash to a bucket; 0 and 1 are padding and null. A multiplication is several times faster than `%`."""
    return np.uint64(FIRST_VALUE_BUCKET) + (((value >> np.uint64(32)) * num_values) >> np.uint64(32))


@njit(nogil=True)
def parse_int(data: npt.NDArray[np.uint8], start: int, stop: int) -> tuple[bool, np.int64]:
    """Whether `data[start:stop]` is an integer in canonical decimal form that fits 64 bits, and its value."""
    first = start
    negative = stop > start and data[start] == 45
    if negative:
        first += 1
    digits = stop - first
    if digits < 1 or digits > _MAX_INT_DIGITS:
        return False, np.int64(0)
    if data[first] == 48 and (digits > 1 or negative):
        return False, np.int64(0)
    total = np.uint64(0)
    for i in range(first, stop):
        digit = data[i] - np.uint8(48)
        if digit > 9:
            return False, np.int64(0)
        total = total * np.uint64(10) + np.uint64(digit)
    limit = np.uint64(9223372036854775808) if negative else np.uint64(9223372036854775807)
    if total > limit:
        return False, np.int64(0)
    value = np.int64(total)
    return True, (-value if negative else value)


@njit(nogil=True, inline="always")
def _word(data: npt.NDArray[np.uint8], start: int) -> np.uint64:
    value = np.uint64(0)
    for i in range(8):
        value |= np.uint64(data[start + i]) << np.uint64(8 * i)
    return value


@njit(nogil=True, inline="always")
def _hex_digit(byte: np.uint8) -> int:
    """The value of a hexadecimal digit of either case, or -1."""
    if 48 <= byte <= 57:
        return int(byte) - 48
    letter = int(byte) | 32
    return letter - 87 if 97 <= letter <= 102 else -1


@njit(nogil=True)
def _unseeded_uuid(data: npt.NDArray[np.uint8], start: int) -> tuple[bool, np.uint64]:
    """Whether 36 characters are a UUID (8-4-4-4-12 hexadecimal digits), and the hash of its 16 bytes."""
    state = _FNV_BASIS
    position = 0
    while position < _UUID_TEXT_BYTES:
        if position in (8, 13, 18, 23):
            if data[start + position] != _DASH:
                return False, state
            position += 1
        high, low = _hex_digit(data[start + position]), _hex_digit(data[start + position + 1])
        if high < 0 or low < 0:
            return False, state
        state = (state ^ np.uint64(16 * high + low)) * _FNV_PRIME
        position += 2
    return True, mix(state ^ _TEXT_SALT)


@njit(nogil=True)
def _unseeded_text(data: npt.NDArray[np.uint8], start: int, stop: int) -> np.uint64:
    # The text of an integer is hashed as the integer: one column may be stored as numbers here and as text there.
    is_int, value = parse_int(data, start, stop)
    if is_int:
        return _unseeded_int(value)
    if stop - start == _UUID_TEXT_BYTES and data[start + 8] == _DASH:
        is_uuid, value_of_uuid = _unseeded_uuid(data, start)
        if is_uuid:
            return value_of_uuid
    state = _FNV_BASIS
    if stop - start > _LONG_TEXT_BYTES:  # a history or a page of text as one value: by words of 8 bytes
        while stop - start >= 8:
            state = mix(state ^ _word(data, start))
            start += 8
    for i in range(start, stop):
        state = (state ^ np.uint64(data[i])) * _FNV_PRIME
    return mix(state ^ _TEXT_SALT)


@njit(nogil=True)
def hash_text(data: npt.NDArray[np.uint8], start: int, stop: int, seed: np.uint64) -> np.uint64:
    """Hash of the text `data[start:stop]`."""
    return mix(_unseeded_text(data, start, stop) ^ seed)


@njit(nogil=True)
def _unseeded_texts(data: Any, offsets: Any, out: Hashes) -> None:
    for i in range(out.size):
        out[i] = _unseeded_text(data, offsets[i], offsets[i + 1])


@njit(nogil=True)
def _unseeded_ints(values: Any, out: Hashes) -> None:
    for i in range(out.size):
        out[i] = _unseeded_int(np.int64(values[i]))


@njit(nogil=True)
def _unseeded_whole_floats(values: Any, out: Hashes, is_other: Any) -> int:
    """Hash the floats that are 64-bit integers; mark the others in `is_other` and count them."""
    num_others = 0
    for i in range(out.size):
        value = np.float64(values[i])
        if -(2.0**63) <= value < 2.0**63 and value == np.floor(value):
            out[i] = _unseeded_int(np.int64(value))
        else:
            is_other[i] = True
            num_others += 1
    return num_others


@njit(nogil=True)
def _fill_whole_floats(values: Any, limits: Any, out: Any, is_null: Any, is_done: _Flags) -> None:
    for i in range(values.shape[0]):
        for column in range(limits.size):
            value = np.float64(values[i, column])
            is_null[column, i] = np.isnan(value)
            # Infinity, NaN and what may have been rounded fail this, and are left to be told by name.
            if abs(value) < limits[column] and value == np.floor(value):
                out[column, i] = _unseeded_int(np.int64(value))
            elif not np.isnan(value):
                is_done[column] = False


def hash_whole_floats(
    values: npt.NDArray[np.floating[Any]], limits: npt.NDArray[np.float64]
) -> tuple[Hashes, _Flags, _Flags]:
    """Hash columns of floats that are whole numbers, all at once, as `hash_column` hashes each.

    Args:
        values: `(n, columns)`, NaN where null.
        limits: Of each column, above which its values are left.

    Returns:
        Hashes before any seed, arbitrary where null, and what is null, `(columns, n)` each; and which columns are
        nothing else, `(columns,)`: the others are left for `hash_column`.
    """
    shape = values.shape[::-1]
    out, is_null, is_done = np.empty(shape, np.uint64), np.empty(shape, np.bool_), np.ones(shape[0], np.bool_)
    _fill_whole_floats(values, limits, out, is_null, is_done)
    return out, is_null, is_done


@njit(nogil=True, inline="always")
def with_seed(unseeded: np.uint64, seed: np.uint64) -> np.uint64:
    """The hash of a value whose own part is known."""
    return mix(unseeded ^ seed)


@njit(nogil=True)
def _seeded(values: Hashes, seed: np.uint64) -> Hashes:
    out = np.empty_like(values)
    for i in range(values.size):
        out[i] = with_seed(values[i], seed)
    return out


@njit(nogil=True)
def _combine(total: Hashes, values: Hashes) -> None:
    for i in range(total.size):  # the factor makes the order of columns count: (1, 2) is not (2, 1)
        total[i] = mix(total[i] * _FNV_PRIME + values[i])


def seed_of(name: str, seed: int) -> np.uint64:
    """The hash seed of a named purpose: a field's vocabulary, a fold, a sampler."""
    data = np.frombuffer(f"{seed}:{name}".encode(), dtype=np.uint8)
    return np.uint64(hash_text(data, 0, data.size, np.uint64(0)))


def utf8_buffers(array: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """The bytes and the `num_rows + 1` offsets of strings or binary, without a copy where Arrow allows it."""
    kind = array.type
    if pa.types.is_string_view(kind):
        array = array.cast(pa.large_string())
    elif is_binary(kind) and not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        array = array.cast(pa.large_binary())
    is_large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    offset_type = np.dtype(np.int64 if is_large else np.int32)
    _, offset_buffer, data_buffer = array.buffers()
    if len(array) == 0 or offset_buffer is None:
        return np.zeros(0, np.uint8), np.zeros(len(array) + 1, offset_type)
    # A slice shares the buffers of what it was cut from, so its offsets may begin anywhere in them.
    offsets = np.frombuffer(offset_buffer, offset_type)[array.offset : array.offset + len(array) + 1]
    data = np.zeros(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    return data, offsets


class HashedColumn(NamedTuple):
    """A column's hashes before any seed.

    Attributes:
        unseeded: `(num_rows,)`, arbitrary where null.
        is_null: `(num_rows,)`; NaN counts as null.
    """

    unseeded: Hashes
    is_null: npt.NDArray[np.bool_]


def hash_values(array: pa.Array, seed: np.uint64) -> tuple[Hashes, npt.NDArray[np.bool_]]:
    """Hash each value's canonical text.

    Args:
        array: See `hash_column`.
        seed: From `seed_of`.

    Returns:
        Hashes `(num_rows,)`, arbitrary where null, and `is_null (num_rows,)`; NaN counts as null.
    """
    column = hash_column(array)
    return _seeded(column.unseeded, seed), column.is_null


def nulls_of(array: pa.Array) -> npt.NDArray[np.bool_]:
    """Which values are null, `(num_rows,)`."""
    if not array.null_count:
        return np.zeros(len(array), np.bool_)
    is_null: npt.NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return is_null


def hash_column(array: pa.Array) -> HashedColumn:
    """The part of hashing that does not depend on a seed.

    Args:
        array: Of any type that `qin.columns.types.is_groupable` accepts.
    """
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _hash_dictionary(array)
    if pa.types.is_floating(kind):
        return _hash_floats(array)
    is_null = nulls_of(array)
    out = np.empty(len(array), np.uint64)
    if pa.types.is_integer(kind) and kind != pa.uint64():  # whose upper half is text here
        _unseeded_ints(array.fill_null(0).to_numpy(zero_copy_only=False), out)
    else:
        _unseeded_texts(*utf8_buffers(array if is_string(kind) else byte_text(array)), out)
    return HashedColumn(out, is_null)


def _hash_dictionary(array: pa.Array) -> HashedColumn:
    if len(array) < len(array.dictionary):  # a few rows of a table bring its whole dictionary
        return hash_column(array.dictionary.take(array.indices))
    # Each distinct value is hashed once. A row is null by its code or by the value that its code names.
    values = hash_column(array.dictionary)
    codes = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
    missing = array.indices.is_null().to_numpy(zero_copy_only=False)
    if not values.unseeded.size:
        return HashedColumn(np.zeros(len(array), np.uint64), np.ones(len(array), np.bool_))
    return HashedColumn(values.unseeded[codes], missing | values.is_null[codes])


def _hash_floats(array: pa.Array) -> HashedColumn:
    if pa.types.is_float16(array.type):  # Numba has no half floats
        array = array.cast(pa.float32())
    values = array.to_numpy(zero_copy_only=False)
    out = np.empty(len(array), np.uint64)
    is_null = np.isnan(values)
    is_other = np.zeros(len(array), np.bool_)
    # Whole numbers are hashed by their digits, without a text; only the others need the text that gives them back.
    if _unseeded_whole_floats(values, out, is_other) > is_null.sum():
        rows = np.flatnonzero(is_other & ~is_null)
        for at, text in float_texts(values[rows]):
            part = np.empty(at.size, np.uint64)
            _unseeded_texts(*utf8_buffers(text), part)
            out[rows[at]] = part
    return HashedColumn(out, is_null)


def hash_rows(columns: Sequence[HashedColumn], seed: np.uint64) -> Hashes:
    """One hash per row over several columns in order; null is a value like any other."""
    total = np.full(columns[0].unseeded.size, seed, np.uint64)
    for column in columns:
        hashes = _seeded(column.unseeded, seed)
        # The same word whatever the column's type: null equals null.
        hashes[column.is_null] = GOLDEN
        _combine(total, hashes)
    return total
