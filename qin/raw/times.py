"""A time column of any type as numbers that keep its order, and moments of params.yaml in the same numbers.

Datetimes, dates and ISO text are microseconds since 1970: in UTC where the column has a zone, else by the column's own
clock. Numbers and numeric text are themselves. What is beyond 64 bits, such as the open end of a log kept in other
units, is the first or last number there is: it keeps its place instead of wrapping.
"""

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.columns.types import is_binary, is_datetime, is_number, is_string, value_type
from qin.raw.canonical import shown
from qin.raw.log import RawLog, open_log, read_batches
from qin.raw.values import plain_values
from qin.runtime.errors import DataError, SchemaError
from qin.runtime.sources import Source

MICROSECONDS = 1_000_000
_EPOCH = datetime(1970, 1, 1)
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_PER_UNIT = {"s": MICROSECONDS, "ms": 1000, "us": 1, "day": 86_400 * MICROSECONDS}

_NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_INTEGER = r"^-?\d{1,18}$"  # 18 digits always fit 64 bits
_MOMENT = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?$"
_OFFSET = r"( ?UTC|Z|[-+]\d\d(:?\d\d)?)$"
_ZONED_MOMENT = rf"^\d{{4}}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?{_OFFSET}"
_FIXED_ZONE = re.compile(r"([-+])(\d\d):?(\d\d)?")
_WHOLE = re.compile(r"[-+]?[0-9]+")
_FAR_YEAR = re.compile(r"[-+]?\d{5,}-.*")  # which Python's datetime has not


class TimeForm(StrEnum):
    """How a column tells the time."""

    DATETIME = "datetime"
    NUMBER = "number"
    NUMBER_TEXT = "text of numbers"
    DATETIME_TEXT = "text of datetimes without an offset"
    ZONED_TEXT = "text of datetimes with an offset"


@dataclass(frozen=True)
class TimeColumn:
    """How a file's time column is read.

    Attributes:
        file: File, for messages.
        name: Column.
        form: How it tells the time; of text, the first row decides for all.
        zone: Zone of its datetimes; None for their own clock, and for numbers.
    """

    file: str
    name: str
    form: TimeForm
    zone: str | None = None

    @classmethod
    def of(cls, source: Source | RawLog, name: str) -> "TimeColumn":
        """Look at a column's type and, where it is text, at its first row.

        Raises:
            SchemaError: If the type is none that tells the time.
            DataError: If the file cannot be read, or its first row is no time.
        """
        log = open_log(source)
        kind = value_type(log.schema.field(name).type)
        if is_datetime(kind):
            return cls(log.name, name, TimeForm.DATETIME, kind.tz if pa.types.is_timestamp(kind) else None)
        if is_number(kind):
            return cls(log.name, name, TimeForm.NUMBER)
        if not (is_string(kind) or is_binary(kind)):
            raise SchemaError(
                f"{log}: column {name}: type {kind} is no time; datetime, date, number, numeric text or ISO text is"
            )
        # To look at all rows would be a pass of its own; one of another form is refused when it is met.
        first = next(iter(read_batches(log, columns=[name], batch_rows=1)))
        return cls(log.name, name, *_form_of_text(first.batch.column(0), f"{first.part.name}: column {name}"))

    @property
    def is_moment(self) -> bool:
        """Whether the numbers are microseconds since 1970."""
        return self.form not in (TimeForm.NUMBER, TimeForm.NUMBER_TEXT)

    def values(self, array: pa.Array, *, first_row: int) -> npt.NDArray[Any]:
        """Convert a batch.

        Args:
            array: Of the column.
            first_row: Row number of the first value in the file.

        Returns:
            `(num_rows,)`, int64 for moments and integers, float64 otherwise.

        Raises:
            DataError: If a time is missing, NaN or infinite, or text of another form than the first row's.
        """
        array = plain_values(array)
        if array.null_count:
            self._refuse(array, np.asarray(array.is_null().to_numpy(zero_copy_only=False)), first_row)
        if self.form == TimeForm.DATETIME:
            return _microseconds(array)
        if self.form == TimeForm.NUMBER:
            return self._numbers(array, first_row)
        return self._of_text(array, first_row)

    def _numbers(self, array: pa.Array, first_row: int) -> npt.NDArray[Any]:
        kind = array.type
        if pa.types.is_uint64(kind):
            return np.asarray(np.minimum(array.to_numpy(), np.uint64(_LARGEST)).astype(np.int64))
        if not pa.types.is_floating(kind):
            with suppress(pa.ArrowInvalid):  # decimals that are fractions, or beyond 64 bits
                return np.asarray(array.cast(pa.int64()).to_numpy(zero_copy_only=False))
        values = np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        if not np.isfinite(values).all():
            self._refuse(array, ~np.isfinite(values), first_row)
        return values

    def _of_text(self, array: pa.Array, first_row: int) -> npt.NDArray[Any]:
        text = _as_text(array)
        pattern = _PATTERNS[self.form]
        is_good = np.asarray(pc.match_substring_regex(text, pattern).to_numpy(zero_copy_only=False))
        if not is_good.all():
            self._refuse(array, ~is_good, first_row)
        if self.form == TimeForm.NUMBER_TEXT:
            # Of this batch: where a later one has fractions, whoever joins them makes all of them floats.
            is_integer = pc.all(pc.match_substring_regex(text, _INTEGER)).as_py()
            values = text.cast(pa.int64() if is_integer else pa.float64()).to_numpy(zero_copy_only=False)
            if not np.isfinite(values).all():  # such as 1e999
                self._refuse(array, ~np.isfinite(values), first_row)
            return np.asarray(values)
        zone = "UTC" if self.form == TimeForm.ZONED_TEXT else None
        try:
            moments = _moments(text, zone)
        except pa.ArrowInvalid:  # such as 2022-13-01
            self._refuse(
                # Arrow does not say which row it is: each is tried by itself, now that one is bad.
                array,
                np.array([not _is_moment(text.slice(row, 1), zone) for row in range(len(text))]),
                first_row,
            )
            raise
        return np.asarray(moments.cast(pa.int64()).to_numpy(zero_copy_only=False))

    def _refuse(self, array: pa.Array, is_bad: npt.NDArray[np.bool_], first_row: int) -> None:
        row = int(np.flatnonzero(is_bad)[0])
        rule = "not a time"
        if self.form in _PATTERNS and _form_or_none(array.slice(row, 1)) not in (self.form, None):
            rule = f"not {self.form}, as the first row is"
        raise DataError(f"{self.file}: column {self.name}, row {first_row + row}: {rule}: {shown(array, row)}")

    def parse(self, text: str | float) -> float | int:
        """A time of params.yaml in the column's numbers; a datetime without an offset is in the column's own zone.

        Raises:
            ValueError: If it is not a datetime for a column of moments, or not a number for another.
        """
        if not self.is_moment:
            return text if isinstance(text, int) else _parse_number(text)
        try:
            if _FAR_YEAR.fullmatch(str(text)):
                return int(np.datetime64(str(text).removesuffix("+00:00"), "us").astype(np.int64))
            moment = datetime.fromisoformat(str(text))
        except ValueError as error:
            raise ValueError(f"not a datetime such as 2022-05-04 or 2022-05-04T12:00: {text!r}") from error
        if moment.tzinfo is None and self.zone is not None:
            moment = moment.replace(tzinfo=self._zone())
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
        return (moment - _EPOCH) // timedelta(microseconds=1)

    def show(self, value: float | int) -> str | float | int:
        """Inverse of `parse`: a datetime in the column's zone, with its offset if it has one; or a number."""
        if not self.is_moment:
            return value
        in_utc = f"{np.datetime64(int(value), 'us')}"
        if self.zone is None:
            return in_utc
        try:
            moment = _EPOCH.replace(tzinfo=UTC) + timedelta(microseconds=int(value))
            return moment.astimezone(self._zone()).isoformat()
        except (OverflowError, ValueError):  # beyond the year 9999, or a zone that is unknown here
            return f"{in_utc}+00:00"

    def _zone(self) -> tzinfo:
        assert self.zone is not None, "asked for where there is one"
        if found := _FIXED_ZONE.fullmatch(self.zone):
            offset = timedelta(hours=int(found[2]), minutes=int(found[3] or 0))
            return timezone(-offset if found[1] == "-" else offset)
        try:
            return ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(
                f"{self.file}: column {self.name}: its time zone {self.zone!r} is unknown on this machine; "
                "write time_val_start with an offset, such as 2022-05-04T00:00:00+09:00"
            ) from error


_PATTERNS = {
    TimeForm.NUMBER_TEXT: _NUMBER,
    TimeForm.DATETIME_TEXT: _MOMENT,
    TimeForm.ZONED_TEXT: _ZONED_MOMENT,
}


def _moments(text: pa.Array, zone: str | None) -> pa.Array:
    """ISO text as timestamps in microseconds; further digits are cut off."""
    text = pc.replace_substring_regex(text, r"(\.\d{6})\d+", r"\1")
    return pc.replace_substring_regex(text, " ?UTC$", "Z").cast(pa.timestamp("us", zone))


def _is_moment(text: pa.Array, zone: str | None) -> bool:
    try:
        _moments(text, zone)
    except pa.ArrowInvalid:
        return False
    return True


def _form_of_text(array: pa.Array, place: str) -> tuple[TimeForm, str | None]:
    """The form of the first value, and its offset as the zone."""
    form = _form_or_none(array)
    if form is None:
        raise DataError(
            f"{place}, row 0: not a time: {shown(array, 0)}; numbers are, and ISO text such as 2022-05-04 or "
            "2022-05-04T12:00:00+09:00"
        )
    if form != TimeForm.ZONED_TEXT:
        return form, None
    offset = re.search(_OFFSET, str(_as_text(array)[0]))
    assert offset is not None, "the pattern ends with it"
    return form, "+00:00" if offset[1].strip() in ("Z", "UTC") else offset[1]


def _form_or_none(array: pa.Array) -> TimeForm | None:
    text = _as_text(plain_values(array))
    matching = (form for form, pattern in _PATTERNS.items() if pc.match_substring_regex(text, pattern)[0].as_py())
    return next(matching, None)


def _as_text(array: pa.Array) -> pa.Array:
    """Text or bytes as `large_string`; views have no regular expressions."""
    return pc.cast(array, options=pc.CastOptions(pa.large_string(), allow_invalid_utf8=True))


def _microseconds(array: pa.Array) -> npt.NDArray[np.int64]:
    """Datetimes and dates as microseconds; what does not fit is the first or last moment there is."""
    kind = array.type
    is_days = pa.types.is_date32(kind)
    values = np.asarray(array.cast(pa.int32() if is_days else pa.int64()).to_numpy(zero_copy_only=False)).astype(
        np.int64
    )
    unit = "day" if is_days else "ms" if pa.types.is_date(kind) else kind.unit
    if unit == "ns":
        return values // 1000
    scale = _PER_UNIT[unit]
    first, last = -(-_SMALLEST // scale), _LARGEST // scale
    # Clipped first, so that the product cannot wrap; then what was beyond goes to the very end, behind all others.
    scaled = np.clip(values, first, last) * scale
    scaled[values > last], scaled[values < first] = _LARGEST, _SMALLEST
    return scaled


def _parse_number(text: str | float) -> float | int:
    try:
        number = int(text) if isinstance(text, str) and _WHOLE.fullmatch(text) else float(text)
    except ValueError as error:
        raise ValueError(f"time_val_start is not a number: {text!r}") from error
    if not math.isfinite(number):
        raise ValueError(f"time_val_start is not a finite number: {text!r}")
    return number
