"""Encoding of record batches: raw columns to the arrays that shards hold. Stateless, so nothing is fitted here."""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.columns.buckets import FIRST_VALUE_BUCKET, NULL_BUCKET
from qin.columns.schema import Field, FieldKind, Schema
from qin.features.columns import RowColumns
from qin.prepare.derived import DerivedNumbers
from qin.prepare.histories import bad_token
from qin.prepare.matches import Matches
from qin.prepare.sequences import BadTokenError, encode_sequence
from qin.raw.hashing import bucket_of, hash_column, hash_values, hash_whole_floats, seed_of, with_seed
from qin.raw.values import FIRST_ROUNDED, encode_label, plain_values, refuse_rounded
from qin.runtime.errors import DataError
from qin.runtime.jit import njit
from qin.shards.files import Arrays, Group, label_groups

_FLOATS = (pa.float32(), pa.float64())
_FEW_ROWS = 2048  # up to which a call for each column costs more than what it reads


@njit(nogil=True)
def _to_buckets(hashes: Any, is_null: Any, places: Any, seeds: Any, num_values: Any, out: Any) -> None:
    """Give hashes of fields, `(places, n)`, their seeds, in place, and fill the fields' columns of `out`."""
    for row in range(places.size):
        place = places[row]
        for i in range(out.shape[0]):
            hashes[row, i] = with_seed(hashes[row, i], seeds[place])
            is_value = not is_null[row, i]
            out[i, place] = bucket_of(hashes[row, i], num_values[place]) if is_value else np.uint64(NULL_BUCKET)


@njit(nogil=True)
def _copy_columns(values: Any, places: Any, out: Any, num_missing: Any) -> bool:
    """Copy columns to their places and count what is NaN of each; False where a value is infinite as 32 bits."""
    is_finite = True
    for i in range(out.shape[0]):
        for column in range(places.size):
            value = np.float32(values[i, column])
            out[i, places[column]] = value
            if np.isnan(value):
                num_missing[places[column]] += 1
            elif np.isinf(value):
                is_finite = False
    return is_finite


@njit(nogil=True)
def _copy_finite(values: Any, out: Any) -> tuple[int, int]:
    """Copy values; returns how many are NaN, and the first infinite one's position or -1."""
    num_missing, first_infinite = 0, -1
    for i in range(values.size):
        value = values[i]
        out[i] = value
        if not np.isfinite(value):
            if np.isnan(value):
                num_missing += 1
            elif first_infinite < 0:
                first_infinite = i
    return num_missing, first_infinite


@dataclass(frozen=True)
class EncodedBatch:
    """One encoded batch.

    Attributes:
        arrays: The shard groups' arrays.
        hashes: Per categorical field, its values' hashes and which are null.
        lengths: Per sequence, full lengths in tokens.
        num_missing: Per numeric field of the file, missing values.
    """

    arrays: Arrays
    hashes: Mapping[str, tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]]
    lengths: Mapping[str, npt.NDArray[np.int64]]
    num_missing: npt.NDArray[np.int64]


class _Floats(NamedTuple):
    """Columns of a batch that hold floats of 32 or 64 bits, which Arrow gives all at once, and those that do not.

    Attributes:
        columns: Of the batch.
        places: Of their fields among those of their kind.
        others: Places of the other fields.
        limits: From where on whole numbers may have been rounded.
    """

    columns: list[int]
    places: npt.NDArray[np.int64]
    others: list[int]
    limits: npt.NDArray[np.float64]

    @classmethod
    def of(cls, schema: pa.Schema, fields: Sequence[Field]) -> "_Floats":
        at = {name: position for position, name in enumerate(schema.names)}
        found = [(at[field.name], schema.field(field.name).type) for field in fields]
        is_float = np.array([kind in _FLOATS for _, kind in found], np.bool_)
        # Each by its own width: side by side, Arrow gives columns of 32 bits as 64, which hides where they were
        # rounded.
        limits = [FIRST_ROUNDED[kind.bit_width // 8] for _, kind in found if kind in _FLOATS]
        columns = [column for column, kind in found if kind in _FLOATS]
        return cls(columns, np.flatnonzero(is_float), np.flatnonzero(~is_float).tolist(), np.array(limits, np.float64))

    def read(self, batch: pa.RecordBatch) -> npt.NDArray[Any]:
        """Their values `(n, columns)`, NaN where null."""
        values: npt.NDArray[Any] = batch.select(self.columns).to_tensor(null_to_nan=True, row_major=True).to_numpy()
        return values


def _no_floats(fields: Sequence[Field]) -> _Floats:
    return _Floats([], np.empty(0, np.int64), list(range(len(fields))), np.empty(0))


class _Layout(NamedTuple):
    """Where batches of a schema have what is encoded."""

    schema: pa.Schema
    categorical: _Floats
    numbers: _Floats


class BatchEncoder:
    """Encodes the batches of a log; safe to call from several threads.

    Args:
        schema: The resolved columns.
        groups: Arrays to fill.
        file: What messages call the file that batches come from; `of_file` names it for a log of several.
    """

    def __init__(self, schema: Schema, groups: tuple[Group, ...], *, file: str) -> None:
        self._schema = schema
        self._numbers = [field for field in schema.columns if field.kind == FieldKind.NUMERIC]
        self._groups = {group.name: group for group in groups}
        self._file, self._offset = file, 0
        self._seeds = {name: seed_of(name, schema.hash_seed) for name in schema.vocabularies}
        self._field_seeds = np.array([self._seeds[field.vocabulary] for field in schema.categorical], np.uint64)
        self._num_values = np.array([f.num_buckets - FIRST_VALUE_BUCKET for f in schema.categorical], np.uint64)
        self._derived = DerivedNumbers(schema, self._seeds, None)
        self._layout: _Layout | None = None
        self._one_by_one = _Layout(pa.schema([]), _no_floats(schema.categorical), _no_floats(self._numbers))

    def with_impressions(self, features: RowColumns) -> "BatchEncoder":
        """The same encoder for a file whose features of impressions are known."""
        encoder = copy(self)
        encoder._derived = DerivedNumbers(self._schema, self._seeds, features)
        return encoder

    def of_file(self, file: str, *, first_row: int = 0) -> "BatchEncoder":
        """The encoder of one file of a log: rows count from its first, which has this number in the log."""
        encoder = copy(self)
        encoder._file, encoder._offset = file, first_row
        return encoder

    def __call__(self, first_row: int, batch: pa.RecordBatch) -> EncodedBatch:
        """Encode one batch.

        Raises:
            DataError: Naming the first row that breaks a rule, in the first column that has one.
        """
        arrays = {name: group.empty(batch.num_rows) for name, group in self._groups.items()}
        hashes = self._fill_categorical(first_row, batch, arrays["categorical"])
        missing = self._fill_numbers(first_row, batch, arrays["numeric"])
        lengths = {
            field.name: self._sequence(batch.column(field.name), field, first_row, arrays[f"sequence.{field.name}"])
            for field in self._schema.sequences
        }
        self._derived.fill(self._offset + first_row, batch, arrays["numeric"], own=hashes, lengths=lengths)
        for group, name in label_groups(self._schema).items():
            if group in self._groups:
                label = batch.column(name)
                arrays[group][:, 0] = encode_label(label, file=self._file, column=name, first_row=first_row)
        return EncodedBatch(arrays, hashes, lengths, missing)

    def _fill_categorical(
        self, first_row: int, batch: pa.RecordBatch, out: npt.NDArray[Any]
    ) -> dict[str, tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]]:
        """Fill the buckets; returns each field's hashes, and which values are null."""
        fields, floats = self._schema.categorical, self._layout_of(batch).categorical
        found, others = {}, floats.others
        if floats.columns:
            hashes, is_null, is_done = hash_whole_floats(floats.read(batch), floats.limits)
            _to_buckets(hashes, is_null, floats.places, self._field_seeds, self._num_values, out)
            found = {fields[place].name: (hashes[row], is_null[row]) for row, place in enumerate(floats.places)}
            # In the fields' order, so that of several bad columns the first is named, as where all go one by one.
            others = sorted([*others, *floats.places[~is_done].tolist()])
        for place in others:
            column, name = batch.column(fields[place].name), fields[place].name
            refuse_rounded(column, file=self._file, column=name, first_row=first_row)
            hashes, is_null = found[name] = hash_column(column)
            at = np.array([place])
            # Through a view, so that what is handed on has the seed as well, like the columns above.
            _to_buckets(hashes[None], is_null[None], at, self._field_seeds, self._num_values, out)
        return found

    def _fill_numbers(self, first_row: int, batch: pa.RecordBatch, out: npt.NDArray[np.float32]) -> Any:
        """Fill the numbers; returns how many of each are missing."""
        floats, num_missing = self._layout_of(batch).numbers, np.zeros(len(self._numbers), np.int64)
        others = floats.others
        if floats.columns and not _copy_columns(floats.read(batch), floats.places, out, num_missing):
            others = list(range(len(self._numbers)))  # again, one by one, to name the first column that is wrong
        for place in others:
            name = self._numbers[place].name
            # Set and not added to: where all are read again, the first try has counted them already.
            num_missing[place] = self.numeric(batch.column(name), name, first_row, out[:, place])
        return num_missing

    def _layout_of(self, batch: pa.RecordBatch) -> _Layout:
        if not 0 < batch.num_rows <= _FEW_ROWS:
            return self._one_by_one
        layout, schema = self._layout, batch.schema
        if layout is None or layout.schema != schema:  # batches are mostly of one schema
            categorical, numbers = (_Floats.of(schema, fields) for fields in (self._schema.categorical, self._numbers))
            # Two threads may both make it; the layouts are equal, so it does not matter whose stays.
            layout = self._layout = _Layout(schema, categorical, numbers)
        return layout

    def _categorical(
        self, column: pa.Array, field: Field, first_row: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
        refuse_rounded(column, file=self._file, column=field.name, first_row=first_row)
        return hash_values(column, self._seeds[field.vocabulary])

    def matches(self, first_row: int, batch: pa.RecordBatch, history: Field) -> Matches:
        """Each row's own value in a history that shares its column's vocabulary."""
        field = next(field for field in self._schema.categorical if field.name == history.vocabulary)
        own = {field.name: self._categorical(batch.column(field.name), field, first_row)}
        return self._derived.matches(batch, history, own)

    def numeric(self, column: pa.Array, name: str, first_row: int, out: npt.NDArray[np.float32]) -> int:
        """Fill `out (num_rows,)`, NaN where missing; returns how many are."""
        column = plain_values(column)
        if pa.types.is_decimal(column.type):  # by way of 64 bits: Arrow's direct cast is a digit off
            column = column.cast(pa.float64(), safe=False)
        values = pc.cast(column, pa.float32(), safe=False).to_numpy(zero_copy_only=False)
        num_missing, row = _copy_finite(values, out)
        if row >= 0:
            value = column[row].as_py()
            rule = "infinite" if math.isinf(value) else "too large for 32-bit floats"
            raise DataError(f"{self._file}: column {name}, row {first_row + row}: {rule}: {value!r}")
        return num_missing

    def _sequence(self, column: pa.Array, field: Field, first_row: int, out: npt.NDArray[Any]) -> Any:
        refuse_rounded(column, file=self._file, column=field.name, first_row=first_row)
        try:
            return encode_sequence(column, field, seed=self._seeds[field.vocabulary], out=out)
        except BadTokenError as error:
            place = f"{self._file}: column {field.name}, row {first_row + error.row}"
            raise DataError(f"{place}: {bad_token(error.token, field)}") from error
