r"""The canonical text of a value: equal values have equal texts, whatever type, width or layout wrote them.

1. Whole numbers of every type (integers, floats, decimals) are their decimal digits: 3, 3.0 and 3.00 are `3`.
2. A fraction is the shortest text that gives back its float. A 64-bit float that is exactly a 32-bit float takes that
   one's text: 0.1 written as 32 bits, widened afterwards, or written as 64 bits is `0.1` each time. Two 64-bit floats
   share a text only if one of them is the 32-bit rounding of the other's short text.
3. A decimal fraction is the text of its float if it has at most 15 digits or equals that float; else its own digits.
4. Text is itself. Bytes are text where they are UTF-8. UUIDs, as any 16 bytes that are not UTF-8, are their usual text
   of 36 characters, which is hashed by those 16 bytes; in other bytes those that are no UTF-8 are escaped as `\xfc`.
5. Booleans are `true` and `false`. A date is `2022-05-04`, a datetime at midnight too; another is `2022-05-04 12:30:00`
   with the digits of its fraction that are not trailing zeros, in UTC and with a `Z` after it if its column has a zone.
6. Null and NaN have no text.
"""

from collections.abc import Callable, Iterator
from decimal import Context, Decimal
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.columns.types import is_binary, is_datetime, is_string

_EXACT_DIGITS = 15  # a 64-bit float gives back any decimal number of as many
_UUID_BYTES = 16
_SHOWN_CHARACTERS = 60
_DECIMALS = Context(prec=100)  # 256-bit decimals have 76 digits; Python's own context would round to 28


def canonical_text(array: pa.Array) -> pa.Array:
    """The canonical text of each value as `large_string`, null where it is missing."""
    if isinstance(array.type, pa.BaseExtensionType):
        is_uuid = isinstance(array.type, pa.UuidType)
        return _by_distinct(array.storage, _uuid_text) if is_uuid else canonical_text(array.storage)
    kind = array.type
    if pa.types.is_dictionary(kind):
        return canonical_text(array.dictionary).take(array.indices)
    if is_string(kind) or is_binary(kind):
        return _bytes_texts(array.cast(pa.large_binary()), _escaped if is_string(kind) else _text_of_bytes)
    if pa.types.is_floating(kind):
        return _float_texts(array)
    return byte_text(array).cast(pa.large_string())


def byte_text(array: pa.Array) -> pa.Array:
    """What is hashed of values that are neither integers nor floats: their text, or their bytes as they are.

    Args:
        array: Of a type without extension or dictionary.

    Returns:
        Array of one of the string types or of binary, null where the value is missing.
    """
    kind = array.type
    if is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return array
    if is_binary(kind):
        return array.cast(pa.large_binary())
    if pa.types.is_decimal(kind):
        return decimal_texts(array)
    if is_datetime(kind):
        return _moment_texts(array)
    text = array.cast(pa.string())
    return _without_zeros(text) if pa.types.is_time(kind) and kind.unit != "s" else text


def shown(array: pa.Array, row: int) -> str:
    """A value as a message shows it: bytes and text that is not UTF-8 escaped, long values cut in the middle."""
    value = array.slice(row, 1)
    if pa.types.is_dictionary(value.type):
        value = value.dictionary_decode()
    if value.null_count == 0 and (is_string(value.type) or is_binary(value.type)):
        text = repr(_escaped(value.cast(pa.large_binary())[0].as_py()))
    elif value.null_count == 0 and pa.types.is_timestamp(value.type):  # Python's have fewer years and know fewer zones
        text = str(canonical_text(value)[0])
    else:
        text = repr(value[0].as_py())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:29]}...{text[-29:]}"


def float_texts(values: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[np.intp], pa.Array]]:
    """Yield the texts of floats that are not integers of 64 bits, in parts: their positions and their texts.

    Args:
        values: `(num_values,)`, 32-bit or 64-bit floats without NaN.
    """
    is_whole = np.isfinite(values) & (values == np.floor(values))  # beyond 64 bits
    if is_whole.any():
        yield np.flatnonzero(is_whole), pa.array([str(int(value)) for value in values[is_whole]], pa.string())
    with np.errstate(over="ignore"):  # what is beyond 32 bits becomes infinite, and so is not equal below
        narrow = values.astype(np.float32)
    for form, is_form in ((narrow, narrow == values), (values, narrow != values)):
        at = np.flatnonzero(is_form & ~is_whole)
        if at.size:
            yield at, pa.array(form[at]).cast(pa.string())


def decimal_texts(array: pa.Array) -> pa.Array:
    """The texts of decimals of any width."""
    try:
        # Arrow refuses a cast that would lose a digit, which tells fractions in one call.
        return array.cast(pa.int64()).cast(pa.string())
    except pa.ArrowInvalid:  # fractions, or integers beyond 64 bits
        kind = array.type  # dictionaries of the narrow decimals do not exist
        is_narrow = pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind)
        wide = array.cast(pa.decimal128(kind.precision, kind.scale)) if is_narrow else array
        return _by_distinct(wide, _decimal_text)


def _float_texts(array: pa.Array) -> pa.Array:
    wide = array.cast(pa.float32()) if pa.types.is_float16(array.type) else array
    values = wide.to_numpy(zero_copy_only=False)
    texts = np.full(values.size, None, np.object_)
    is_int = (values == np.floor(values)) & (values >= -(2.0**63)) & (values < 2.0**63)
    texts[is_int] = values[is_int].astype(np.int64).astype(np.str_)
    rows = np.flatnonzero(~is_int & ~np.isnan(values))
    for at, part in float_texts(values[rows]):
        texts[rows[at]] = part.to_numpy(zero_copy_only=False)
    return pa.array(texts, pa.large_string())


def _decimal_text(value: Decimal) -> str:
    if value == value.to_integral_value(context=_DECIMALS):
        return str(int(value))
    plain, number = value.normalize(_DECIMALS), float(value)
    if len(plain.as_tuple().digits) <= _EXACT_DIGITS or Decimal(number) == value:
        return str(_float_texts(pa.array([number]))[0])
    return format(plain, "f")


def _bytes_texts(array: pa.Array, text_of: Callable[[Any], str]) -> pa.Array:
    try:
        # The cast checks all bytes at once; values are looked at one by one only where it fails.
        return array.cast(pa.large_string())
    except pa.ArrowInvalid:  # not UTF-8
        return _by_distinct(array, text_of)


def _by_distinct(array: pa.Array, text_of: Callable[[Any], str]) -> pa.Array:
    """Call a function of Python once for each distinct value."""
    encoded = array.dictionary_encode()
    return pa.array([text_of(value) for value in encoded.dictionary.to_pylist()], pa.large_string()).take(
        encoded.indices
    )


def _escaped(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


def _text_of_bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _uuid_text(value) if len(value) == _UUID_BYTES else _escaped(value)


def _uuid_text(value: bytes) -> str:
    return str(UUID(bytes=value))


def _moment_texts(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_date(kind):
        # A time of day, which 64-bit dates may hold, is cut off.
        return array.cast(pa.date32(), safe=False).cast(pa.string())
    local = array.cast(pa.int64()).cast(pa.timestamp(kind.unit))  # of UTC: needs no database of time zones
    text = local.cast(pa.string())
    if kind.unit != "s":  # whose text has no fraction: its last zeros are seconds
        text = _without_zeros(text)
    text = pc.replace_substring_regex(text, " 00:00:00$", "")
    return text if kind.tz is None else pc.binary_join_element_wise(text, "Z", "")


def _without_zeros(text: pa.Array) -> pa.Array:
    """Times without their fraction's trailing zeros; each has a fraction."""
    return pc.replace_substring_regex(text, r"\.?0+$", "")
