"""What one token of a history in text is: where it begins and ends, and its hash.

A token is read as a value of its vocabulary's column. As a *number* it is an integer in decimal digits, whatever its
sign and leading zeros; a fraction of zeros (`12.0`, of a column that once had gaps) is left out. As *text* it is hashed
as text columns are, so `00042` is another value than `42`.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from qin.columns.buckets import FIRST_VALUE_BUCKET
from qin.columns.schema import Field
from qin.raw.hashing import hash_int, hash_text
from qin.runtime.jit import njit

SAFE_DIGITS = 18  # always fit 64 bits
BAD, SKIPPED, VALUE = -1, 0, 1
_EXACT_FLOATS = 2**53  # below it, a whole number in 64-bit floats was not rounded
_SPACE, _TAB, _PLUS, _MINUS, _POINT, _ZERO, _BACKSLASH = 32, 9, 43, 45, 46, 48, 92
_QUOTES = (34, 39)
_BRACKETS = ((91, 93), (123, 125), (40, 41))


class TokenRules(NamedTuple):
    """How a sequence's text is read; no arrays, which would be counted at every call.

    Attributes:
        separator: Byte between tokens.
        is_blank: Whether that is a blank, of which several count as one.
        is_text: Whether tokens are text rather than numbers.
        has_padding: Whether there is a token that means nothing.
        is_padding_word: Whether that is a word among numbers, rather than a value in any of its spellings.
        is_padding_blank: Whether it is the empty token.
        padding_hash: Its hash, as a value or as a word.
        seed: Hash seed of the vocabulary.
        num_values: Buckets of the vocabulary without padding and null.
    """

    separator: np.uint8
    is_blank: bool
    is_text: bool
    has_padding: bool
    is_padding_word: bool
    is_padding_blank: bool
    padding_hash: np.uint64
    seed: np.uint64
    num_values: np.uint64


@cache
def token_rules(field: Field, seed: np.uint64) -> TokenRules:
    """The rules of a sequence field.

    Args:
        field: Whose `tokens` is known.
        seed: From `hashing.seed_of` for the field's vocabulary.
    """
    padding = np.frombuffer((field.padding or "").encode(), np.uint8)
    rules = TokenRules(
        separator=np.uint8(ord(field.separator)),
        is_blank=field.separator in " \t",
        is_text=field.tokens == "text",
        has_padding=field.padding is not None,
        is_padding_word=False,
        is_padding_blank=field.padding == "",
        padding_hash=np.uint64(0),
        seed=seed,
        num_values=np.uint64(field.num_buckets - FIRST_VALUE_BUCKET),
    )
    is_value, value = hash_token(padding, 0, padding.size, rules)
    if not is_value:
        value = hash_text(padding, 0, padding.size, seed)
    return rules._replace(is_padding_word=not is_value, padding_hash=np.uint64(value))


@njit(nogil=True, inline="always")
def is_blank(byte: np.uint8) -> bool:
    """Whether a byte is a space or a tab."""
    return byte in (_SPACE, _TAB)


@njit(nogil=True)
def hash_token(data: Any, start: int, stop: int, rules: TokenRules) -> tuple[bool, np.uint64]:
    """Whether `data[start:stop]` (no blanks around it) is a token, and its hash."""
    if rules.is_text:
        return stop > start, hash_text(data, start, stop, rules.seed)
    return _hash_number(data, start, stop, rules.seed)


@njit(nogil=True)
def _hash_number(data: Any, start: int, stop: int, seed: np.uint64) -> tuple[bool, np.uint64]:
    """Whether `data[start:stop]` is an integer, and the hash of its canonical text."""
    if stop - start <= SAFE_DIGITS:  # nearly all are plain digits: no sign, no fraction to look for
        total: Any = np.int64(0)
        for i in range(start, stop):
            digit = np.uint8(data[i] - np.uint8(_ZERO))
            if digit > 9:
                return _hash_signed(data, start, stop, seed)
            total = total * 10 + np.int64(digit)
        return stop > start, hash_int(total, seed)
    return _hash_signed(data, start, stop, seed)


@njit(nogil=True)
def _hash_signed(data: Any, start: int, stop: int, seed: np.uint64) -> tuple[bool, np.uint64]:
    """The same for any spelling and length."""
    negative = start < stop and data[start] == _MINUS
    if start < stop and (negative or data[start] == _PLUS):
        start += 1
    end = _without_zero_fraction(data, start, stop)
    if start >= end:
        return False, np.uint64(0)
    while start < end - 1 and data[start] == _ZERO:
        start += 1
    total: Any = np.int64(0)
    for i in range(start, end):
        digit = np.int64(data[i]) - _ZERO
        if digit < 0 or digit > 9:
            return False, np.uint64(0)
        total = total * 10 + digit
    is_safe = end - start <= SAFE_DIGITS
    if end < stop and not (is_safe and total < _EXACT_FLOATS):  # of a float that may have been rounded
        return False, np.uint64(0)
    if is_safe:
        return True, hash_int(-total if negative else total, seed)
    # Beyond 64 bits an integer is hashed as text, in its one plain spelling: no plus, no zeros in front.
    text = np.empty(end - start + 1, np.uint8)
    text[0] = _MINUS
    text[1:] = data[start:end]
    return True, hash_text(text, 0 if negative else 1, text.size, seed)


@njit(nogil=True)
def _without_zero_fraction(data: Any, start: int, stop: int) -> int:
    """Where a number's point is if only zeros follow it, or `stop`."""
    end = stop
    while end > start and data[end - 1] == _ZERO:
        end -= 1
    return end - 1 if end > start and data[end - 1] == _POINT else stop


@njit(nogil=True)
def read_token(data: Any, start: int, stop: int, rules: TokenRules) -> tuple[int, np.uint64]:
    """Read the token `data[start:stop]`: `BAD`, `SKIPPED` (it means nothing) or `VALUE`, and its hash."""
    if start == stop:
        return SKIPPED if rules.is_padding_blank else BAD, np.uint64(0)
    is_value, value = hash_token(data, start, stop, rules)
    if rules.has_padding:
        if rules.is_padding_word:
            if not is_value and hash_text(data, start, stop, rules.seed) == rules.padding_hash:
                return SKIPPED, value
        elif is_value and value == rules.padding_hash:
            return SKIPPED, value
    return VALUE if is_value else BAD, value


@njit(nogil=True)
def next_token(data: Any, start: int, stop: int, rules: TokenRules) -> tuple[int, int, int]:
    """Begin and end of the first token of `data[start:stop]`, and where to go on; beyond `stop` it was the last.

    There are no blanks at the end of `data[start:stop]`. A separator there begins no further token.
    """
    if rules.is_blank:
        while is_blank(data[start]):  # ends, as the last byte is none
            start += 1
        end = start
        while end < stop and not is_blank(data[end]):
            end += 1
        return start, end, end if end < stop else stop + 1
    end = start
    while end < stop and data[end] != rules.separator:
        end += 1
    following = end + 1 if end + 1 != stop else stop + 1
    first, last = trimmed(data, start, end)
    return first, last, following


@njit(nogil=True)
def trimmed(data: Any, start: int, stop: int) -> tuple[int, int]:
    """Begin and end of `data[start:stop]` without the blanks around it."""
    while start < stop and is_blank(data[start]):
        start += 1
    while stop > start and is_blank(data[stop - 1]):
        stop -= 1
    return start, stop


@njit(nogil=True)
def closing_bracket(byte: np.uint8) -> int:
    """The bracket that closes an opening one; 0 for any other byte."""
    for opening, closing in _BRACKETS:
        if byte == opening:
            return closing
    return 0


@njit(nogil=True)
def unquoted(data: Any, start: int, stop: int) -> tuple[bool, int, int]:
    """Whether an element of a bracketed list is well formed, and where its text is: inside its quotes, if it has any.

    Escapes are not read, and neither are lists inside lists.
    """
    if stop == start:
        return True, start, stop
    quote = data[start]
    if quote not in _QUOTES:
        return closing_bracket(quote) == 0, start, stop
    if stop - start < 2 or data[stop - 1] != quote:
        return False, start, stop
    for i in range(start + 1, stop - 1):
        if data[i] == quote or data[i] == _BACKSLASH:
            return False, start, stop
    return True, start + 1, stop - 1


@njit(nogil=True)
def is_null_word(data: Any, start: int, stop: int) -> bool:
    """Whether an element of a bracketed list, without quotes, is a missing value of JSON, Python or NumPy."""
    if not 3 <= stop - start <= 4:
        return False
    first, second, third = data[start], data[start + 1], data[start + 2]
    if stop - start == 3:  # nan, NaN
        return first == third and (first, second) in ((110, 97), (78, 97))
    fourth = data[start + 3]
    if first == 110:  # null
        return (second, third, fourth) == (117, 108, 108)
    return (first, second, third, fourth) == (78, 111, 110, 101)  # None
