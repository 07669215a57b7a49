"""Encoding of record batches: raw columns to the arrays that shards hold. Stateless, so nothing is fitted here."""

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.columns.buckets import FIRST_VALUE_BUCKET, NULL_BUCKET
from qin.columns.schema import Field, FieldKind, Schema
from qin.errors import DataError
from qin.features.columns import RowColumns
from qin.prepare.derived import DerivedNumbers
from qin.prepare.histories import bad_token
from qin.prepare.matches import Matches
from qin.prepare.sequences import BadTokenError, encode_sequence
from qin.raw.hashing import bucket_of, hash_values, seed_of
from qin.raw.values import encode_label, refuse_rounded
from qin.runtime.jit import njit
from qin.shards.files import Arrays, Group


@njit(nogil=True)
def _to_buckets(hashes: Any, is_null: Any, num_values: np.uint64, out: Any) -> None:
    for i in range(out.size):
        out[i] = np.uint64(NULL_BUCKET) if is_null[i] else bucket_of(hashes[i], num_values)


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
        self._derived = DerivedNumbers(schema, self._seeds, None)

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
        hashes = {}
        for position, field in enumerate(self._schema.categorical):
            column = batch.column(field.name)
            values, is_null = self._categorical(column, field, first_row)
            num_values = np.uint64(field.num_buckets - FIRST_VALUE_BUCKET)
            _to_buckets(values, is_null, num_values, arrays["categorical"][:, position])
            hashes[field.name] = (values, is_null)
        missing = np.zeros(len(self._numbers), np.int64)
        for position, field in enumerate(self._numbers):
            out = arrays["numeric"][:, position]
            missing[position] = self.numeric(batch.column(field.name), field.name, first_row, out)
        lengths = {
            field.name: self._sequence(batch.column(field.name), field, first_row, arrays[f"sequence.{field.name}"])
            for field in self._schema.sequences
        }
        self._derived.fill(self._offset + first_row, batch, arrays["numeric"], own=hashes, lengths=lengths)
        if "label" in self._groups:
            label = batch.column(self._schema.label)
            arrays["label"][:, 0] = encode_label(label, file=self._file, column=self._schema.label, first_row=first_row)
        return EncodedBatch(arrays, hashes, lengths, missing)

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
