"""What prepare compares within impressions: numbers of any column, and each row's own value in its histories."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.columns.schema import Field
from qin.columns.types import is_string
from qin.config import PrepareParams
from qin.features.columns import ColumnFile, ColumnTable
from qin.features.derived import COMPARED_MATCHES, Impressions, may_be_numbers
from qin.features.impression import Compared, build_impression_features, impression_features, impression_hashes
from qin.prepare.derived import steps_since
from qin.prepare.encode import BatchEncoder
from qin.raw.canonical import shown
from qin.raw.hashing import hash_column
from qin.raw.log import RawLog
from qin.raw.values import plain_values, refuse_rounded
from qin.runtime.errors import DataError, SchemaError

_NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"

Values = npt.NDArray[np.float32]


def build_impressions(
    log: RawLog, impressions: Impressions, encoder: BatchEncoder, *, folder: Path, knobs: PrepareParams
) -> ColumnFile:
    """Compute the features of impressions of a raw log; see `build_impression_features`."""
    return build_impression_features(
        log,
        key=impressions.key,
        compared=_compared(impressions, encoder),
        distances=impressions.distances,
        folder=folder,
        batch_rows=knobs.batch_rows,
        num_threads=knobs.num_threads,
    )


def impressions_of_batch(
    batch: pa.RecordBatch, impressions: Impressions, encoder: BatchEncoder, *, file: str
) -> ColumnTable:
    """The features of impressions that lie whole in a batch.

    Args:
        batch: Rows with the columns that are read.
        impressions: What the features are made of.
        encoder: Of the rows.
        file: What messages call the batch.

    Raises:
        DataError: Naming the first bad value.
    """
    for name in impressions.key:
        refuse_rounded(batch.column(name), file=file, column=name, first_row=0)
    hashes = impression_hashes([hash_column(batch.column(name)) for name in impressions.key], first_row=0)
    compared = [column for numbers in _compared(impressions, encoder) for column in numbers.values(file, 0, batch)]
    return impression_features(hashes, compared, impressions.distances)


def _compared(impressions: Impressions, encoder: BatchEncoder) -> list[Compared]:
    numbers = [_number(name, encoder) for name in impressions.columns]
    # In the order of `Impressions.names`, by which the columns are found again.
    return [*numbers, *(_matches(field, encoder) for field in impressions.histories)]


def _number(name: str, encoder: BatchEncoder) -> Compared:
    def values(file: str, row: int, batch: pa.RecordBatch) -> list[Values]:
        out = np.empty(batch.num_rows, np.float32)
        numbers = parsed(batch.column(name), file=file, column=name, first_row=row)
        encoder.of_file(file).numeric(numbers, name, row, out)
        return [out]

    return Compared((name,), (name,), values)


def _matches(field: Field, encoder: BatchEncoder) -> Compared:
    """`COMPARED_MATCHES` of a history, which is searched once for all of them."""

    def values(file: str, row: int, batch: pa.RecordBatch) -> list[Values]:
        matches = encoder.of_file(file).matches(row, batch, field)
        return [matches.hits.astype(np.float32), steps_since(matches).astype(np.float32)]

    names = tuple(f"{field.name}.{measure}" for measure in COMPARED_MATCHES)
    return Compared(names, (field.name, field.vocabulary), values)


def parsed(array: pa.Array, *, file: str, column: str, first_row: int) -> pa.Array:
    """A column as numbers, from text where it is that.

    Raises:
        DataError: Naming the first text that is no number.
        SchemaError: If the type is neither of numbers nor of text.
    """
    array = plain_values(array)
    if not is_string(array.type):
        if not may_be_numbers(array.type):  # rows to score, which no stage has looked at before
            raise SchemaError(f"{file}: column {column}: type {array.type} holds no numbers")
        return array
    text = array.cast(pa.large_string())  # string views have no regular expressions
    is_bad = pc.fill_null(pc.invert(pc.match_substring_regex(text, _NUMBER)), False).to_numpy(zero_copy_only=False)
    if is_bad.any():
        row = int(np.flatnonzero(is_bad)[0])
        raise DataError(
            f"{file}: column {column}, row {first_row + row}: not a number: {shown(array, row)}; "
            "features.impression.columns takes numbers, and text that is numbers"
        )
    return text.cast(pa.float64())
