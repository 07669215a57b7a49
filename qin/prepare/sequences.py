"""Behaviour sequences to fixed-width bucket arrays, without a Python object per token.

A sequence is text of tokens divided by one character, such text in brackets (`[1, 2]`, `["a", "b"]`), or an Arrow list;
`qin.prepare.tokens` says what a token is. The last `max_len` tokens are kept, left-aligned and oldest first, with 0
(padding) after them. Blanks around a token and one separator at the end are allowed. Tokens that the settings call
padding are left out and not counted, wherever they stand.

Plain text is read in two steps, because most histories are longer than `max_len`:

1. from its end, how far the kept tokens reach; what lies before is counted and not read;
2. the kept tokens as digits and separators. Only where that fails are they read token by token.

With padding, blanks as separators, or brackets around what is not plain numbers, every token is read.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.columns.buckets import NULL_BUCKET
from qin.columns.schema import Field
from qin.columns.types import is_binary, is_list, is_string, value_type
from qin.prepare.tokens import (
    BAD,
    SAFE_DIGITS,
    SKIPPED,
    VALUE,
    TokenRules,
    closing_bracket,
    is_blank,
    is_null_word,
    next_token,
    read_token,
    token_rules,
    trimmed,
    unquoted,
)
from qin.raw.hashing import bucket_of, hash_int, hash_text, hash_values, nulls_of, utf8_buffers
from qin.runtime.jit import njit

_ZERO = 48
_SCAN_BYTES = 64  # whole vector registers
_SMALL_VALUES = 4096  # their buckets stay in the nearest cache
_POWERS = 10 ** np.arange(SAFE_DIGITS + 1, dtype=np.int64)


@njit(nogil=True)
def _count_separators(text: Any, separator: np.uint8) -> Any:
    count: Any = 0
    for byte in text:  # by value, not by index: only then does the compiler vectorise
        count += np.int64(byte == separator)
    return count


@njit(nogil=True)
def _tail_start(data: Any, start: int, stop: int, separator: np.uint8, max_len: int) -> tuple[int, int]:
    """Where the last `max_len` tokens begin, and how many there are."""
    num_separators = 0
    while stop - start > _SCAN_BYTES:
        # Whole blocks from the end, until the next one holds the begin of the first token that is kept.
        more = _count_separators(data[stop - _SCAN_BYTES : stop], separator)
        if num_separators + more >= max_len:
            break
        num_separators += more
        stop -= _SCAN_BYTES
    while stop > start:
        if data[stop - 1] == separator:
            num_separators += 1
            if num_separators == max_len:
                return stop, max_len
        stop -= 1
    return start, num_separators + 1


@njit(nogil=True)
def _small_buckets(rules: TokenRules, out: Any) -> None:
    for value in range(out.size):
        out[value] = bucket_of(hash_int(np.int64(value), rules.seed), rules.num_values)


@njit(nogil=True)
def _parse_digits(text: Any, rules: TokenRules, small: Any, row: Any) -> bool:
    """Fill one row of buckets from digits, separators and blanks before tokens; False if there is anything else."""
    total, num_digits, num_tokens = np.int64(0), 0, 0
    for byte in text:
        digit = np.uint8(byte - np.uint8(_ZERO))
        if digit <= 9:
            total = total * 10 + np.int64(digit)
            num_digits += 1
        elif byte == rules.separator and is_plain(total, num_digits, rules.is_text):
            row[num_tokens] = _bucket_of_int(total, rules, small)
            total, num_digits, num_tokens = np.int64(0), 0, num_tokens + 1
        elif num_digits or not is_blank(byte):  # blanks before a token, as in `12, 7`, cost no second reading
            return False
    if not is_plain(total, num_digits, rules.is_text):
        return False
    row[num_tokens] = _bucket_of_int(total, rules, small)
    return True


@njit(nogil=True, inline="always")
def is_plain(total: Any, num_digits: int, is_text: bool) -> bool:
    """Whether so many digits are one number that fits 64 bits; as text, it must not begin with a zero besides."""
    if not 0 < num_digits <= SAFE_DIGITS:
        return False
    return not is_text or num_digits == 1 or total >= _POWERS[num_digits - 1]


@njit(nogil=True, inline="always")
def _bucket_of_int(value: Any, rules: TokenRules, small: Any) -> Any:
    return small[value] if value < small.size else bucket_of(hash_int(value, rules.seed), rules.num_values)


@njit(nogil=True)
def _parse_tail(data: Any, start: int, stop: int, rules: TokenRules, row: Any, bad: Any) -> bool:
    """Fill one row of buckets from tokens that are all kept; False if one is bad."""
    number, position = 0, start
    while position <= stop:
        first, last, position = next_token(data, position, stop, rules)
        kind, value = read_token(data, first, last, rules)
        if kind == BAD:
            bad[1], bad[2] = first, last
            return False
        row[number] = bucket_of(value, rules.num_values)
        number += 1
    return True


@njit(nogil=True)
def _read_element(data: Any, start: int, stop: int, rules: TokenRules, in_brackets: bool) -> tuple[int, np.uint64]:
    """Read one token, which may stand in quotes or be missing where it is an element of a list; and its bucket."""
    first, last = start, stop
    if in_brackets:
        is_well_formed, first, last = unquoted(data, start, stop)
        if not is_well_formed:
            return BAD, np.uint64(0)
        if first == start and is_null_word(data, first, last):
            return VALUE, np.uint64(NULL_BUCKET)
    kind, value = read_token(data, first, last, rules)
    return kind, bucket_of(value, rules.num_values)


@njit(nogil=True)
def _parse_all(data: Any, start: int, stop: int, rules: TokenRules, in_brackets: bool, row: Any, bad: Any) -> int:
    """Fill one row of buckets token by token, and return how many tokens there are; -1 if one that is kept is bad.

    The row is a ring while the number of tokens is unknown: a token takes the place of the one `max_len` before it.
    """
    count, place, has_bad = 0, 0, False
    position = start
    while position <= stop:
        first, last, position = next_token(data, position, stop, rules)
        kind, bucket = _read_element(data, first, last, rules, in_brackets)
        if kind == SKIPPED:
            continue
        if place == row.size:
            place = 0
        row[place] = bucket
        has_bad |= kind == BAD
        place += 1
        count += 1
    # Read a second time only now: whether a bad token is among those kept is known when all are counted.
    if has_bad and _find_bad(data, start, stop, rules, in_brackets, count - row.size, bad):
        return -1
    if count > row.size > place:
        row[:] = np.concatenate((row[place:], row[:place]))
    return count


@njit(nogil=True)
def _find_bad(
    data: Any, start: int, stop: int, rules: TokenRules, in_brackets: bool, num_left_out: int, bad: Any
) -> bool:
    """Whether a token after the first ones, which are left out, is bad; where it is goes to `bad`."""
    number, position = 0, start
    while position <= stop:
        first, last, position = next_token(data, position, stop, rules)
        kind, _ = _read_element(data, first, last, rules, in_brackets)
        number += kind != SKIPPED
        if kind == BAD and number > num_left_out:
            bad[1], bad[2] = first, last
            return True
    return False


@njit(nogil=True, inline="always")
def reads_all(rules: TokenRules) -> bool:
    """Whether what a token means is known only once all are read."""
    return rules.has_padding or rules.is_blank


@njit(nogil=True)
def _parse_brackets(data: Any, start: int, stop: int, rules: TokenRules, small: Any, row: Any, bad: Any) -> int:
    """Fill one row from a list in brackets; see `_parse_all`, which is left what is not plain numbers."""
    if stop - start < 2 or data[stop - 1] != closing_bracket(data[start]):
        bad[1], bad[2] = start, stop
        return -1
    first, last = trimmed(data, start + 1, stop - 1)
    if first == last:
        return 0
    if not reads_all(rules):
        tail, num_tokens = _tail_start(data, first, last, rules.separator, row.size)
        if _parse_digits(data[tail:last], rules, small, row):
            return num_tokens + int(_count_separators(data[first:tail], rules.separator))
    return _parse_all(data, first, last, rules, True, row, bad)


@njit(nogil=True)
def _parse_plain(data: Any, start: int, stop: int, rules: TokenRules, small: Any, row: Any, bad: Any) -> int:
    """Fill one row from text of which only the kept end is read; see `_parse_all`."""
    end = stop
    if data[stop - 1] == rules.separator:
        end = trimmed(data, start, stop - 1)[1]
    if start == end:  # a lone separator, which does divide two blank tokens
        bad[1], bad[2] = start, start
        return -1
    tail, num_tokens = _tail_start(data, start, end, rules.separator, row.size)
    # The second reading gets the separator at the end, too: `next_token` begins no token behind it.
    if not (_parse_digits(data[tail:end], rules, small, row) or _parse_tail(data, tail, stop, rules, row, bad)):
        return -1
    return num_tokens + int(_count_separators(data[start:tail], rules.separator))


@njit(nogil=True)
def _parse_rows(
    data: Any, offsets: Any, is_null: Any, rules: TokenRules, small: Any, out: Any, lengths: Any, bad: Any
) -> None:
    """Parse every row into `out`; at the first bad token, its row, begin and end go to `bad`."""
    for i in range(out.shape[0]):
        start, stop = trimmed(data, offsets[i], offsets[i + 1])
        if is_null[i] or start == stop:
            continue
        if closing_bracket(data[start]):
            length = _parse_brackets(data, start, stop, rules, small, out[i], bad)
        elif reads_all(rules):
            length = _parse_all(data, start, stop, rules, False, out[i], bad)
        else:
            length = _parse_plain(data, start, stop, rules, small, out[i], bad)
        if length < 0:
            bad[0] = i
            return
        lengths[i] = length


@njit(nogil=True)
def _hash_texts(
    data: Any, offsets: Any, is_null: Any, rules: TokenRules, hashes: Any, is_skipped: Any, is_bad: Any
) -> None:
    """Hash the elements of lists of text, each a token."""
    for k in range(hashes.size):
        if is_null[k]:
            continue
        start, stop = offsets[k], offsets[k + 1]
        if not rules.is_text:
            start, stop = trimmed(data, start, stop)
        kind, value = read_token(data, start, stop, rules)
        if start == stop and rules.is_text:  # an empty text is a value of a list, as of a column
            value = hash_text(data, start, stop, rules.seed)
        hashes[k], is_skipped[k] = value, kind == SKIPPED
        is_bad[k] = kind == BAD and not rules.is_text  # in a list, any text is a value


@njit(nogil=True)
def _fill_lists(
    hashes: Any, is_null: Any, is_skipped: Any, is_bad: Any, stops: Any, num_values: np.uint64, out: Any, lengths: Any
) -> tuple[int, int]:
    """Fill rows from the end of each list; returns row and element of the first bad value that is kept, or -1."""
    start = 0
    for i in range(out.shape[0]):
        for k in range(start, stops[i]):
            lengths[i] += not is_skipped[k]
        place = min(lengths[i], out.shape[1])
        k = stops[i]
        while place > 0:
            k -= 1
            if is_skipped[k]:
                continue
            if is_bad[k]:
                return i, k
            place -= 1
            out[i, place] = np.uint64(NULL_BUCKET) if is_null[k] else bucket_of(hashes[k], num_values)
        start = stops[i]
    return -1, -1


class BadTokenError(ValueError):
    """A kept token cannot be read; `row` counts from the start of the batch, `token` is its bytes."""

    def __init__(self, row: int, token: bytes) -> None:
        super().__init__(f"row {row}: bad token: {token!r}")
        self.row = row
        self.token = token


def encode_sequence(array: pa.Array, field: Field, *, seed: np.uint64, out: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Encode a column of sequences.

    Args:
        array: Text, or lists of values; null is an empty sequence.
        field: Vocabulary, separator, padding, and what its tokens are.
        seed: From `hashing.seed_of` for the vocabulary.
        out: Zeroed unsigned integers `(num_rows, max_len)` to fill.

    Returns:
        Full lengths `(num_rows,)` in tokens that are no padding, before truncation to `max_len`.

    Raises:
        BadTokenError: At the first row in which a kept token cannot be read.
    """
    lengths = np.zeros(len(array), np.int64)
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        # Where rows share histories, as the candidates of one user do, each is read once.
        if len(array.dictionary) < len(array) and _encode_distinct(array, field, seed=seed, out=out, lengths=lengths):
            return lengths
        array = array.dictionary.take(array.indices)  # lists cannot be cast
    if pa.types.is_null(array.type):
        return lengths
    rules = token_rules(field, seed)
    if is_list(array.type):
        _encode_lists(array, rules, out, lengths)
        return lengths
    is_null = nulls_of(array)
    # Item ids are mostly small: looking their bucket up beats hashing it, where there are more of them than of buckets.
    small = np.empty(_SMALL_VALUES if out.size > _SMALL_VALUES else 0, out.dtype)
    _small_buckets(rules, small)
    data, offsets = utf8_buffers(array)
    bad = np.full(3, -1, np.int64)
    _parse_rows(data, offsets, is_null, rules, small, out, lengths, bad)
    if bad[0] >= 0:
        raise BadTokenError(int(bad[0]), data[bad[1] : bad[2]].tobytes())
    return lengths


def _encode_distinct(array: pa.Array, field: Field, *, seed: np.uint64, out: Any, lengths: Any) -> bool:
    """Encode each distinct history once; False where one cannot be read, which is an error only if a row has it."""
    distinct = np.zeros((len(array.dictionary), out.shape[1]), out.dtype)
    try:
        distinct_lengths = encode_sequence(array.dictionary, field, seed=seed, out=distinct)
    except BadTokenError:
        return False
    rows = np.flatnonzero(array.indices.is_valid().to_numpy(zero_copy_only=False))
    codes = array.indices.fill_null(0).to_numpy(zero_copy_only=False)[rows]
    out[rows], lengths[rows] = distinct[codes], distinct_lengths[codes]
    return True


def _encode_lists(array: pa.Array, rules: TokenRules, out: Any, lengths: Any) -> None:
    counts = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    stops = np.cumsum(counts)
    values = array.flatten()  # leaves out the values behind null lists, so that counts and values agree
    hashes, is_null, is_skipped, is_bad = hash_elements(values, rules)
    row, element = _fill_lists(hashes, is_null, is_skipped, is_bad, stops, rules.num_values, out, lengths)
    if row >= 0:
        raise BadTokenError(row, str(values[element].as_py()).encode())


def hash_elements(values: pa.Array, rules: TokenRules) -> tuple[Any, Any, Any, Any]:
    """Hashes of list elements; which are null, padding, or no token."""
    num_values = len(values)
    is_skipped, is_bad = np.zeros(num_values, np.bool_), np.zeros(num_values, np.bool_)
    if pa.types.is_null(values.type):
        return np.zeros(num_values, np.uint64), np.ones(num_values, np.bool_), is_skipped, is_bad
    if pa.types.is_dictionary(values.type):
        hashes, *masks = hash_elements(values.dictionary, rules)
        missing = values.indices.is_null().to_numpy(zero_copy_only=False)
        codes = values.indices.fill_null(0).to_numpy(zero_copy_only=False)
        if not len(values.dictionary):
            return hash_elements(pa.nulls(num_values), rules)
        of_code = [mask[codes] for mask in masks]
        return hashes[codes], of_code[0] | missing, of_code[1] & ~missing, of_code[2] & ~missing
    kind = value_type(values.type)
    if is_string(kind) or (is_binary(kind) and not pa.types.is_fixed_size_binary(kind)):
        is_null = values.is_null().to_numpy(zero_copy_only=False)
        hashes = np.zeros(num_values, np.uint64)
        _hash_texts(*utf8_buffers(values), is_null, rules, hashes, is_skipped, is_bad)
        return hashes, is_null, is_skipped, is_bad
    hashes, is_null = hash_values(values, rules.seed)
    if rules.has_padding:
        is_skipped = (hashes == rules.padding_hash) & ~is_null
    return hashes, is_null, is_skipped, is_bad
