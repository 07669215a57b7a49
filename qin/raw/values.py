"""Columns as numbers, or one line of error: labels, and times of any type."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.errors import DataError, SchemaError
from qin.column_types import is_string

MICROSECONDS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_values(array: pa.Array, *, file: str, column: str, first_row: int) -> npt.NDArray[Any]:
    """Convert times to numbers that keep their order.

    Args:
        array: Datetimes or dates (to microseconds since 1970, UTC), numbers, or numeric text.
        file: For messages.
        column: For messages.
        first_row: Row number of the first value in the file.

    Returns:
        `(num_rows,)`, int64 for datetimes, dates and integers, float64 otherwise.

    Raises:
        DataError: If a time is missing, NaN, infinite, or text that is not a number.
        SchemaError: If the column's type is none of these.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        array, kind = array.cast(kind.value_type), kind.value_type
    if array.null_count:
        _refuse(array, np.asarray(array.is_null().to_numpy(zero_copy_only=False)), file, column, first_row)
    if is_datetime(kind):
        micros = array.cast(pa.timestamp("us")) if pa.types.is_date(kind) else pc.cast(array, _micros(kind), safe=False)
        return np.asarray(micros.cast(pa.int64()).to_numpy(zero_copy_only=False))
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return np.asarray(array.cast(pa.int64()).to_numpy(zero_copy_only=False))
    if is_string(kind):
        array = array.cast(pa.large_string())  # string views have no regular expressions
        is_number = np.asarray(pc.match_substring_regex(array, _NUMBER).to_numpy(zero_copy_only=False))
        if not is_number.all():
            _refuse(array, ~is_number, file, column, first_row)
        array, kind = array.cast(pa.float64()), pa.float64()
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise SchemaError(f"{file}: column {column}: type {kind} is no time; datetime, date, number or numeric text is")
    values = np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    if not np.isfinite(values).all():
        _refuse(array, ~np.isfinite(values), file, column, first_row)
    return values


_NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"


def is_datetime(kind: pa.DataType) -> bool:
    """Whether a type is a datetime or a date, whose unit here is the microsecond."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def parse_start(text: str | float, kind: pa.DataType) -> float | int:
    """The first time of validation, in the numbers of `time_values`; a datetime without an offset is UTC.

    Raises:
        ValueError: If it is not a datetime for a datetime column, or not a number for another.
    """
    if not is_datetime(kind):
        return text if isinstance(text, int) else _parse_number(text)
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise ValueError(f"not a datetime such as 2022-05-04 or 2022-05-04T12:00: {text!r}") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _parse_number(text: str | float) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise ValueError(f"time_val_start is not a number: {text!r}") from error
    if not math.isfinite(number):
        raise ValueError(f"time_val_start is not a finite number: {text!r}")
    return number


def _micros(kind: pa.DataType) -> pa.DataType:
    return pa.timestamp("us", tz=kind.tz)


def _refuse(array: pa.Array, is_bad: npt.NDArray[np.bool_], file: str, column: str, first_row: int) -> None:
    row = int(np.flatnonzero(is_bad)[0])
    raise DataError(f"{file}: column {column}, row {first_row + row}: not a time: {array[row].as_py()!r}")


def encode_label(array: pa.Array, *, file: str, column: str, first_row: int) -> npt.NDArray[np.uint8]:
    """Check and convert labels.

    Args:
        array: Booleans or numbers, each 0 or 1.
        file: File that the labels come from, for messages.
        column: Column that the labels come from, for messages.
        first_row: Row number of the first label in the file.

    Returns:
        Labels `(num_rows,)`.

    Raises:
        DataError: If a label is null, NaN, or neither 0 nor 1, or the column does not hold numbers.
    """
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"{file}: column {column}: labels must be numbers 0 and 1, the type is {kind}")
    values = np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    is_bad = (values != 0) & (values != 1)  # NaN and null are neither
    if is_bad.any():
        row = int(np.flatnonzero(is_bad)[0])
        raise DataError(f"{file}: column {column}, row {first_row + row}: label must be 0 or 1: {array[row].as_py()!r}")
    return values.astype(np.uint8)
