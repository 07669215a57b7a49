"""Behaviour sequences to fixed-width bucket arrays, without a Python object per token.

A sequence is text of comma-separated integers, or an Arrow list. The last `max_len` tokens are kept, left-aligned and
oldest first, with 0 (padding) after them. Blanks around a token and one trailing comma are allowed; tokens that are
not kept are counted but not read. A token is hashed by its canonical integer text, so `007` and `+7` equal `7`, and
integers of any size are valid.
"""

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.buckets import FIRST_VALUE_BUCKET, NULL_BUCKET
from qin.column_types import is_list
from qin.raw.hashing import (
    bucket_of,
    hash_int,
    hash_text,
    hash_values,
    utf8_buffers,
)
from qin.runtime.jit import njit

_COMMA, _SPACE, _TAB, _PLUS, _MINUS, _ZERO = 44, 32, 9, 43, 45, 48
_SAFE_DIGITS = 18
_SCAN_BYTES = 64
_SMALL_VALUES = 4096
_BLANKS = " \t"
_INTEGER = re.compile(r"[-+]?[0-9]+")


@njit(nogil=True, inline="always")
def _is_blank(byte: np.uint8) -> bool:
    return byte in (_SPACE, _TAB)


@njit(nogil=True)
def _hash_token(data: Any, start: int, stop: int, seed: np.uint64) -> tuple[bool, np.uint64]:
    """Whether `data[start:stop]` (no blanks around it) is an integer, and the hash of its canonical text."""
    negative = start < stop and data[start] == _MINUS
    if start < stop and (negative or data[start] == _PLUS):
        start += 1
    if start == stop:
        return False, np.uint64(0)
    while start < stop - 1 and data[start] == _ZERO:
        start += 1
    total: Any = np.int64(0)
    for i in range(start, stop):
        digit = np.int64(data[i]) - _ZERO
        if digit < 0 or digit > 9:
            return False, np.uint64(0)
        total = total * 10 + digit
    if stop - start <= _SAFE_DIGITS:
        return True, hash_int(-total if negative else total, seed)
    text = np.empty(stop - start + 1, np.uint8)
    text[0] = _MINUS
    text[1:] = data[start:stop]
    return True, hash_text(text, 0 if negative else 1, text.size, seed)


@njit(nogil=True)
def _trimmed_stop(data: Any, start: int, stop: int) -> int:
    """Where a sequence's text ends once trailing blanks and one trailing comma are left out."""
    while stop > start and _is_blank(data[stop - 1]):
        stop -= 1
    if stop > start and data[stop - 1] == _COMMA:
        stop -= 1
        while stop > start and _is_blank(data[stop - 1]):
            stop -= 1
    return stop


@njit(nogil=True)
def _count_commas(text: Any) -> Any:
    count: Any = 0
    for byte in text:  # by value, not by index: only then does the compiler vectorise
        count += np.int64(byte == _COMMA)
    return count


@njit(nogil=True)
def _tail_start(data: Any, start: int, stop: int, max_len: int) -> tuple[int, int]:
    """Where the last `max_len` tokens begin, and how many there are."""
    num_commas = 0
    while stop - start > _SCAN_BYTES:
        more = _count_commas(data[stop - _SCAN_BYTES : stop])
        if num_commas + more >= max_len:
            break
        num_commas += more
        stop -= _SCAN_BYTES
    while stop > start:
        if data[stop - 1] == _COMMA:
            num_commas += 1
            if num_commas == max_len:
                return stop, max_len
        stop -= 1
    return start, num_commas + 1


@njit(nogil=True)
def _hash_padded_token(data: Any, start: int, stop: int, seed: np.uint64) -> tuple[bool, np.uint64]:
    while start < stop and _is_blank(data[start]):
        start += 1
    while stop > start and _is_blank(data[stop - 1]):
        stop -= 1
    return _hash_token(data, start, stop, seed)


@njit(nogil=True)
def _small_buckets(seed: np.uint64, num_values: np.uint64, out: Any) -> None:
    for value in range(out.size):
        out[value] = bucket_of(hash_int(np.int64(value), seed), num_values)


@njit(nogil=True)
def _parse_digits(text: Any, seed: np.uint64, num_values: np.uint64, small: Any, row: Any) -> bool:
    """Fill one row of buckets from plain digits and commas; False where the text holds anything else."""
    total, num_digits, num_tokens = np.int64(0), 0, 0
    for byte in text:
        digit = np.uint8(byte - np.uint8(_ZERO))
        if digit <= 9:
            total = total * 10 + np.int64(digit)
            num_digits += 1
        elif byte == _COMMA and 0 < num_digits <= _SAFE_DIGITS:
            row[num_tokens] = small[total] if total < small.size else bucket_of(hash_int(total, seed), num_values)
            total, num_digits, num_tokens = np.int64(0), 0, num_tokens + 1
        else:
            return False
    if not 0 < num_digits <= _SAFE_DIGITS:
        return False
    row[num_tokens] = small[total] if total < small.size else bucket_of(hash_int(total, seed), num_values)
    return True


@njit(nogil=True)
def _parse_tokens(data: Any, start: int, stop: int, seed: np.uint64, num_values: np.uint64, row: Any) -> bool:
    """Fill one row of buckets from the text `data[start:stop]`; False at the first token that is no integer."""
    num_tokens = 0
    while True:
        position = start
        while position < stop and data[position] != _COMMA:
            position += 1
        is_int, value = _hash_padded_token(data, start, position, seed)
        if not is_int:
            return False
        row[num_tokens] = bucket_of(value, num_values)
        num_tokens += 1
        if position == stop:
            return True
        start = position + 1


@njit(nogil=True)
def _parse_rows(
    data: Any, offsets: Any, is_null: Any, seed: np.uint64, num_values: np.uint64, small: Any, out: Any, lengths: Any
) -> int:
    """Parse every row into `out`; returns the first bad row, or -1."""
    max_len = out.shape[1]
    for i in range(out.shape[0]):
        start, stop = offsets[i], _trimmed_stop(data, offsets[i], offsets[i + 1])
        while start < stop and _is_blank(data[start]):
            start += 1
        if is_null[i] or start == stop:
            # A lone comma is trimmed to nothing, but it does hold a blank token.
            if not is_null[i] and _count_commas(data[offsets[i] : offsets[i + 1]]):
                return i
            continue
        tail, num_tokens = _tail_start(data, start, stop, max_len)
        lengths[i] = num_tokens + _count_commas(data[start:tail])
        is_plain = _parse_digits(data[tail:stop], seed, num_values, small, out[i])
        if not is_plain and not _parse_tokens(data, tail, stop, seed, num_values, out[i]):
            return i
    return -1


@njit(nogil=True)
def _fill_lists(
    hashes: Any, is_null: Any, starts: Any, stops: Any, num_values: np.uint64, out: Any, lengths: Any
) -> None:
    for i in range(out.shape[0]):
        lengths[i] = stops[i] - starts[i]
        first = max(starts[i], stops[i] - out.shape[1])
        for k in range(first, stops[i]):
            out[i, k - first] = np.uint64(NULL_BUCKET) if is_null[k] else bucket_of(hashes[k], num_values)


class BadTokenError(ValueError):
    """A kept token is not an integer; `row` counts from the start of the batch."""

    def __init__(self, row: int, token: str) -> None:
        super().__init__(f"row {row}: a token is not an integer: {token!r}")
        self.row = row
        self.token = token


def encode_sequence(
    array: pa.Array, *, num_buckets: int, seed: np.uint64, out: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """Encode a column of sequences.

    Args:
        array: Strings of comma-separated integers, or lists of values; null is an empty sequence.
        num_buckets: Buckets of the vocabulary, padding (0) and null (1) included.
        seed: From `hashing.seed_of` for the vocabulary.
        out: Zeroed unsigned integers `(num_rows, max_len)` to fill.

    Returns:
        Full lengths `(num_rows,)` in tokens, before truncation to `max_len`.

    Raises:
        BadTokenError: At the first row in which a kept token is no integer.
    """
    lengths = np.zeros(len(array), np.int64)
    num_values = np.uint64(num_buckets - FIRST_VALUE_BUCKET)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if is_list(array.type):
        _encode_lists(array, num_values, seed, out, lengths)
        return lengths
    is_null = array.is_null().to_numpy(zero_copy_only=False)
    small = np.empty(_SMALL_VALUES, out.dtype)  # item ids are mostly small: looking their bucket up beats hashing it
    _small_buckets(seed, num_values, small)
    bad = _parse_rows(*utf8_buffers(array), is_null, seed, num_values, small, out, lengths)
    if bad >= 0:
        raise BadTokenError(bad, _bad_token(array[bad].as_py(), out.shape[1]))
    return lengths


def _bad_token(text: str, max_len: int) -> str:
    """The first kept token that is no integer, in a row that has one."""
    tokens = text.strip(_BLANKS).removesuffix(",").split(",")[-max_len:]
    return next(token for token in tokens if not _INTEGER.fullmatch(token.strip(_BLANKS)))


def _encode_lists(array: pa.Array, num_values: np.uint64, seed: np.uint64, out: Any, lengths: Any) -> None:
    counts = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    stops = np.cumsum(counts)
    values = array.flatten()  # leaves out the values behind null lists, so that counts and values agree
    hashes, is_null = hash_values(values, seed)
    _fill_lists(hashes, is_null, stops - counts, stops, num_values, out, lengths)
