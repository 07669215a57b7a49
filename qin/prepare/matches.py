"""How often, and how long ago, the row's own item is in its history: on values, not on the buckets they fall into.

The row's value and the tokens are compared by their 64-bit hashes, which are equal where the values are, because both
are made with the seed of the vocabulary that they share. Every token of a history is read, those too that are not kept.

Where a text holds nothing but digits and separators, which is nearly always, the tokens need not be hashed: the hash of
an integer is a bijection, so the one integer with the hash of the row's value is looked for.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.columns.types import is_list
from qin.prepare.sequences import hash_elements, is_plain
from qin.prepare.tokens import (
    SKIPPED,
    VALUE,
    TokenRules,
    closing_bracket,
    is_null_word,
    next_token,
    read_token,
    trimmed,
    unquoted,
)
from qin.raw.hashing import Hashes, unhash_int, utf8_buffers
from qin.raw.values import plain_values
from qin.runtime.jit import njit

_Flags = npt.NDArray[np.bool_]
_Counts = npt.NDArray[np.int64]


class Matches(NamedTuple):
    """The row's own value in its history, `(num_rows,)` each.

    Attributes:
        hits: How often it is there.
        since: How many tokens follow its last occurrence; -1 where there is none.
    """

    hits: _Counts
    since: _Counts


@njit(nogil=True)
def _element(data: npt.NDArray[np.uint8], start: int, stop: int, rules: TokenRules, in_brackets: bool) -> Any:
    """What the token is (see `read_token`), and its hash; a missing or malformed element counts and matches nothing."""
    if in_brackets:
        is_well_formed, first, last = unquoted(data, start, stop)
        if not is_well_formed or (first == start and is_null_word(data, first, last)):
            return True, False, np.uint64(0)
        start, stop = first, last
    kind, value = read_token(data, start, stop, rules)
    return kind != SKIPPED, kind == VALUE, value


@njit(nogil=True)
def _match_text(
    data: npt.NDArray[np.uint8], start: int, stop: int, rules: TokenRules, in_brackets: bool, own: np.uint64
) -> tuple[int, int]:
    hits, since, position = 0, -1, start
    while position <= stop:
        first, last, position = next_token(data, position, stop, rules)
        counts, is_value, value = _element(data, first, last, rules, in_brackets)
        if is_value and value == own:
            hits, since = hits + 1, 0
        elif counts and since >= 0:
            since += 1
    return hits, since


@njit(nogil=True)
def _match_digits(
    text: npt.NDArray[np.uint8], rules: TokenRules, wanted: np.int64, padding: np.int64
) -> tuple[bool, int, int]:
    """The same for text of digits and separators; whether it is that comes first."""
    hits, since, num_digits = 0, -1, 0
    total: Any = np.int64(0)
    for i in range(text.size + 1):  # one beyond the end, which closes the last token
        is_end = i == text.size
        digit = np.uint8(0) if is_end else np.uint8(text[i] - np.uint8(48))
        if not is_end and digit <= 9:
            total = total * 10 + np.int64(digit)
            num_digits += 1
            continue
        if is_end and num_digits == 0 and i > 0:  # one separator at the end begins no further token
            break
        if not is_end and text[i] != rules.separator:
            return False, 0, -1
        if not is_plain(total, num_digits, rules.is_text):
            return False, 0, -1
        if not rules.has_padding or total != padding:
            if total == wanted:
                hits, since = hits + 1, 0
            elif since >= 0:
                since += 1
        total, num_digits = np.int64(0), 0
    return True, hits, since


@njit(nogil=True)
def _match_texts(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.integer],
    is_empty: _Flags,
    rules: TokenRules,
    own: Hashes,
    hits: _Counts,
    since: _Counts,
) -> None:
    padding = unhash_int(rules.padding_hash, rules.seed)
    # A padding that is a word, or the empty token, is no integer to compare with.
    is_simple = not rules.is_blank and not (rules.has_padding and (rules.is_padding_word or rules.is_padding_blank))
    for i in range(hits.size):
        start, stop = trimmed(data, offsets[i], offsets[i + 1])
        if is_empty[i] or start == stop:
            continue
        if is_simple:
            is_digits, num_hits, num_since = _match_digits(
                data[start:stop], rules, unhash_int(own[i], rules.seed), padding
            )
            if is_digits:
                hits[i], since[i] = num_hits, num_since
                continue
        in_brackets = closing_bracket(data[start]) != 0
        if in_brackets:
            start, stop = trimmed(data, start + 1, stop - 1)
        if start < stop:
            hits[i], since[i] = _match_text(data, start, stop, rules, in_brackets, own[i])


@njit(nogil=True)
def _match_lists(
    hashes: Hashes, is_null: _Flags, is_skipped: _Flags, stops: _Counts, own: Hashes, has_own: _Flags, out: Matches
) -> None:
    start = 0
    for i in range(stops.size):
        for k in range(start, stops[i]):
            if is_skipped[k] or not has_own[i]:
                continue
            if not is_null[k] and hashes[k] == own[i]:
                out.hits[i] += 1
                out.since[i] = 0
            elif out.since[i] >= 0:
                out.since[i] += 1
        start = stops[i]


def match_history(array: pa.Array, rules: TokenRules, own: Hashes, is_missing: _Flags) -> Matches:
    """Look for each row's own value in its history.

    Args:
        array: Text, or lists of values, that `encode_sequence` takes; null is an empty history.
        rules: How text is read, with the seed of the vocabulary.
        own: Hash of the row's value with that seed, `(num_rows,)`.
        is_missing: Where there is none, `(num_rows,)`.
    """
    out = Matches(np.zeros(len(array), np.int64), np.full(len(array), -1, np.int64))
    array = plain_values(array)
    if pa.types.is_null(array.type):
        return out
    is_null = array.is_null().to_numpy(zero_copy_only=False)
    if is_list(array.type):
        counts = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        hashes, is_null, is_skipped, _ = hash_elements(array.flatten(), rules)
        _match_lists(hashes, is_null, is_skipped, np.cumsum(counts), own, ~is_missing, out)
    else:
        _match_texts(*utf8_buffers(array), is_null | is_missing, rules, own, *out)
    return out
