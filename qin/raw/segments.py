"""Columns of a raw file that group rows without being inputs of the model: segments by name, clusters by number."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.columns.types import is_groupable
from qin.raw.canonical import canonical_text
from qin.raw.hashing import hash_values, seed_of
from qin.raw.log import RawLog, open_log, read_batches
from qin.runtime.errors import DataError, SchemaError
from qin.runtime.sources import Source

NULL = "null"
_QUOTE = pa.scalar('"', pa.large_string())
_IS_NULL_WORD = r'^"*null"*$'
_BATCH_ROWS = 65536

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """Which value of a column each row has.

    Attributes:
        names: Distinct values as canonical text; null and NaN are `null`, the text of this word, in any number of
            quotes, has a pair of quotes more: `"null"`.
        code: Index into `names` of each row, `(num_rows,)`.
    """

    names: tuple[str, ...]
    code: npt.NDArray[np.int32]

    def where(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> "Segments":
        """The rows of a mask `(num_rows,)`, or those at some positions, with all names."""
        return Segments(self.names, self.code[rows])


def read_segments(source: Source | RawLog, column: str, rows: Rows) -> Segments:
    """Read a column's values at some rows; memory is bounded by the batch and the number of distinct values.

    Args:
        source: The log.
        column: Its name.
        rows: Row numbers, ascending, `(num_rows,)`.

    Raises:
        SchemaError: If the file has no such column, or its values cannot be compared.
        DataError: If the file cannot be read, or has fewer rows than that.
    """
    number: dict[str, int] = {}
    code = np.empty(rows.size, np.int32)
    for place, values in _selected(source, column, rows):
        encoded = _names(values).dictionary_encode()
        known = [number.setdefault(name, len(number)) for name in encoded.dictionary.to_pylist()]
        code[place] = np.array(known, np.int32)[encoded.indices.to_numpy()]
    # Numbered by name in the end: in order of their first rows, codes would depend on the order of the file.
    names = sorted(number)
    rank = np.empty(len(names), np.int32)
    rank[[number[name] for name in names]] = np.arange(len(names))
    return Segments(tuple(names), rank[code])


def read_segments_of_folds(source: Source | RawLog, column: str, folds: Sequence[Rows]) -> list[Segments]:
    """Read a column's values at the rows of several folds, in one pass over the log.

    Args:
        source: The log.
        column: Its name.
        folds: Row numbers of each, ascending; folds may share rows.

    Returns:
        Of each fold what `read_segments` gives.

    Raises:
        SchemaError: As of `read_segments`.
        DataError: As of `read_segments`.
    """
    if len(folds) == 1:
        return [read_segments(source, column, folds[0])]
    rows = np.unique(np.concatenate(folds))
    found = read_segments(source, column, rows)
    return [_with_own_names(found.where(np.searchsorted(rows, own))) for own in folds]


def _with_own_names(segments: Segments) -> Segments:
    used, code = np.unique(segments.code, return_inverse=True)
    return Segments(tuple(segments.names[number] for number in used), code.astype(np.int32))


def segments_of(values: pa.Array) -> Segments:
    """Which value each row of a column in memory has."""
    encoded = _names(values).dictionary_encode()
    return Segments(tuple(encoded.dictionary.to_pylist()), encoded.indices.to_numpy())


def read_clusters(source: Source | RawLog, column: str, rows: Rows) -> npt.NDArray[np.int64]:
    """Number the groups of rows that share a value of a key column; a row whose key is null is a group of its own.

    Args:
        source: The log.
        column: Its name.
        rows: Row numbers, ascending, `(num_rows,)`.

    Returns:
        Numbers from 0 on without a gap, `(num_rows,)`, in no meaningful order.

    Raises:
        SchemaError: If the file has no such column, or its values cannot be compared.
        DataError: If the file cannot be read, or has fewer rows than that.
    """
    # By hash and not by text: a key may have as many values as there are rows, and two that collide among 2^64 would
    # only be one cluster of a standard error.
    hashes, is_null = np.empty(rows.size, np.uint64), np.empty(rows.size, np.bool_)
    for place, values in _selected(source, column, rows):
        hashes[place], is_null[place] = hash_values(values, seed_of("cluster", 0))
    cluster = np.empty(rows.size, np.int64)
    keys, cluster[~is_null] = np.unique(hashes[~is_null], return_inverse=True)
    cluster[is_null] = keys.size + np.arange(np.count_nonzero(is_null))
    return cluster


def _names(values: pa.Array) -> pa.Array:
    text = canonical_text(values)
    is_word = pc.match_substring_regex(text, _IS_NULL_WORD)
    quoted = pc.binary_join_element_wise(*[_QUOTE, text, _QUOTE, pa.scalar("", pa.large_string())])
    return pc.fill_null(pc.if_else(is_word, quoted, text), NULL)


def value_text(name: str) -> str | None:
    """The canonical text of the value that a segment's name stands for; None where it is missing."""
    if name == NULL:
        return None
    return name[1:-1] if re.fullmatch(_IS_NULL_WORD, name) else name


def _selected(source: Source | RawLog, column: str, rows: Rows) -> Iterator[tuple[slice, pa.Array]]:
    """The column's values at the wanted rows of each batch, and their place among the wanted rows."""
    log = open_log(source)
    if column not in log.schema.names:
        raise SchemaError(f"{log}: no column {column}")
    kind = log.schema.field(column).type
    if not is_groupable(kind):
        raise SchemaError(f"{log}: column {column}: values of type {kind} cannot group rows")
    if rows.size and rows[-1] >= log.num_rows:
        raise DataError(f"{log}: has {log.num_rows} rows, row {rows[-1]} was asked for; it is not the file of this run")
    done = 0
    for chunk in read_batches(log, columns=[column], batch_rows=_BATCH_ROWS):
        stop = int(np.searchsorted(rows, chunk.first_row + chunk.batch.num_rows))
        if stop > done:
            yield slice(done, stop), chunk.batch.column(0).take(pa.array(rows[done:stop] - chunk.first_row))
        done = stop
