"""Rows in any form as an Arrow table: Arrow itself, pandas, whatever speaks Arrow's C interface, and dictionaries."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from qin.columns.schema import FieldKind
from qin.columns.types import is_datetime, is_string, is_time_span, may_differ, type_of
from qin.runtime.errors import SchemaError
from qin.serving.columns import Column

_SHOWN_CHARACTERS = 60


class ArrowStream(Protocol):
    """A data frame that hands out its columns by Arrow's C stream interface, as polars and DuckDB do."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """A capsule with the stream."""
        ...


Rows: TypeAlias = pa.Table | pa.RecordBatch | ArrowStream | Sequence[Mapping[str, Any]] | Any


def to_table(rows: Rows, columns: Mapping[str, Column], *, may_miss: bool, name: str) -> pa.Table:
    """Make a table of rows in any form, with the columns that they have.

    Values of dictionaries get the type that the column had in training, so that rows without a single value, or with
    whole numbers alone, mean what they would mean among others.

    Args:
        rows: `pyarrow.Table` or `RecordBatch`, a pandas data frame, anything with `__arrow_c_stream__`, or a sequence
            of mappings from column to value.
        columns: Those that the model reads; the values of others are left out where they would have to be converted.
        may_miss: Whether a dictionary may lack a column that others have; it is null then.
        name: What messages call the rows.

    Raises:
        SchemaError: Naming each column that has no Arrow type, or each value that is of another type than its column.
        TypeError: If it is none of these.
    """
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    # By what it can do, so that pandas need not be installed; and before Arrow's stream, which its frames have, too.
    if hasattr(rows, "iloc") and hasattr(rows, "columns"):
        return _of_pandas(rows, columns, name=name)
    if hasattr(rows, "__arrow_c_stream__"):
        try:
            return pa.table(rows)
        except pa.ArrowInvalid as error:  # a stream of values rather than of rows, as a series of pandas is
            raise TypeError(f"{name}: a {type(rows).__name__} has no columns ({_first_line(error)})") from error
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        return _of_mappings(rows, columns, may_miss=may_miss, name=name)
    raise TypeError(
        f"{name}: expected a pyarrow Table or RecordBatch, a data frame of pandas or polars, or a list of "
        f"dictionaries, got {type(rows).__name__}"
    )


def _of_pandas(frame: Any, columns: Mapping[str, Column], *, name: str) -> pa.Table:
    labels = [str(label) for label in frame.columns]
    arrays, problems = [], []
    for position, label in enumerate(labels):
        if label not in columns:
            # Named all the same, so that a misspelt column is told.
            arrays.append(pa.nulls(len(frame)))
            continue
        try:
            arrays.append(pa.array(frame.iloc[:, position], from_pandas=True))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            problems.append(f"{name}: column {label}: values of several types ({_first_line(error)})")
    if problems:
        raise SchemaError(*problems)
    return pa.Table.from_arrays(arrays, names=labels)


def _of_mappings(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Column], *, may_miss: bool, name: str
) -> pa.Table:
    arrays: dict[str, pa.Array] = {}
    problems: list[str] = []
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key) for row in rows]
        if key not in columns:
            arrays[key] = pa.nulls(len(rows))
            continue
        without = [] if may_miss else [number for number, row in enumerate(rows) if key not in row]
        problems += [f"{name}: column {key}, row {number}: missing" for number in without]
        array = _typed(values, columns[key])
        if array is None:
            problems.append(_misfit(values, columns[key], name=name))
        else:
            arrays[key] = array
    if problems:
        raise SchemaError(*problems)
    return pa.Table.from_arrays(list(arrays.values()), names=list(arrays)) if arrays else _without_columns(len(rows))


def _without_columns(num_rows: int) -> pa.Table:
    return pa.table({"": pa.nulls(num_rows)}).select([])


def _typed(values: Sequence[Any], column: Column) -> pa.Array | None:
    """Values as an array of the type that the column had in training, or of one like it; None where they are neither.

    The type that the values have by themselves comes first: Arrow would turn 2.5 into an integer without a word.
    """
    try:
        array = pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
    kind = type_of(column.type) if column.type else array.type
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind)
    # Text or lists, whichever training had; and where it had no value at all, any will do.
    if array.type == kind or column.kind == FieldKind.SEQUENCE or pa.types.is_null(kind):
        return array
    if may_differ(array.type, kind) and not (is_string(array.type) and _is_written(kind)):
        return None
    try:
        return array.cast(kind)
    except pa.ArrowException:  # such as a fraction among whole numbers, which are no categories of training then
        is_alike = is_string(array.type) and not may_differ(array.type, kind)  # the text of a UUID, say
        return array if column.kind == FieldKind.NUMERIC or is_alike else None


def _is_written(kind: pa.DataType) -> bool:
    """Whether JSON has no such values, so that they come as text."""
    return bool(is_datetime(kind) or is_time_span(kind) or pa.types.is_decimal(kind))


def _misfit(values: Sequence[Any], column: Column, *, name: str) -> str:
    """A line about the first value that is not of its column's type."""
    for number, value in enumerate(values):
        if value is not None and _typed([value], column) is None:
            shown = repr(value)
            shown = shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}..."
            return f"{name}: column {column.name}, row {number}: {shown} is not of type {column.type or 'any known'}"
    return f"{name}: column {column.name}: values of several types, expected {column.type or 'one'}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
