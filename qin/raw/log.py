"""A raw log, one file or many, in bounded memory; rows count through it, messages name the file and the row in it."""

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import pyarrow as pa

from qin.columns.types import common_type, digits_field, is_digits_of_text
from qin.raw.csv_files import converted
from qin.raw.parts import RawPart, read_part
from qin.runtime.errors import DataError, SchemaError
from qin.runtime.sources import Source, SourceFile, list_files, source_name

_SAMPLED_GROUPS = 8  # places of a sample; in object storage each is a request
_NUM_OPENED = 8  # at a time; more is of no use on a disk, and object storage answers in tens of milliseconds
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")  # 18 digits always fit 64 bits

T = TypeVar("T")


@dataclass(frozen=True)
class RawLog:
    """A log: its files in order, with their rows counted through.

    Attributes:
        name: What messages about the whole of it call it.
        parts: Its files that hold rows.
        schema: Its columns; those that folders are named by come last.
    """

    name: str
    parts: tuple[RawPart, ...]
    schema: pa.Schema

    @property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(part.num_rows for part in self.parts)

    def __str__(self) -> str:
        return self.name

    def at(self, column: str, row: int) -> str:
        """Where a value is, as messages say it: the file, the column, and the row in the file."""
        part = self.parts[bisect_right(self.parts, row, key=lambda part: part.first_row) - 1]
        return f"{part.name}: column {column}, row {row - part.first_row}"


class Chunk(NamedTuple):
    """Some rows of a log, all of one file.

    Attributes:
        part: The file.
        row: Number of the first of them in the file, which messages name.
        batch: The rows.
    """

    part: RawPart
    row: int
    batch: pa.RecordBatch

    @property
    def first_row(self) -> int:
        """Number of the first of them in the log."""
        return self.part.first_row + self.row


def open_log(source: "Source | RawLog") -> RawLog:
    """Find a log's files and read what they hold; nothing stays open.

    Args:
        source: File, folder of parts or of folders `column=value`, URI, or several of them; an opened log is itself.

    Raises:
        DataError: If a file is missing or is not readable, or there are no rows.
        SchemaError: If the files have different columns.
    """
    if isinstance(source, RawLog):
        return source
    files, name = list_files(source), source_name(source)
    with ThreadPoolExecutor(min(_NUM_OPENED, len(files))) as pool:
        stored = converted([file for file in files if file.is_text], pool)
        parts = list(pool.map(lambda file: read_part(file, stored=stored.get(file.name)), files))
    schema = _with_partitions(_common_schema(parts), files)
    placed, row = [], 0
    for part in parts:
        # A file without rows has had its columns compared, and is not opened again.
        if part.num_rows:
            placed.append(replace(part, schema=schema, first_row=row))
        row += part.num_rows
    if not row:
        raise DataError(f"{name}: has no rows")
    return RawLog(name, tuple(placed), schema)


def _common_schema(parts: Sequence[RawPart]) -> pa.Schema:
    """The columns of the first file, which all others must have, with types that agree."""
    first = parts[0]
    types = {field.name: field.type for field in first.schema}
    # Digits are only as they stood there if all files are text: beside Parquet's they are numbers like any others.
    plain = {field.name for part in parts for field in part.schema if not is_digits_of_text(field)}
    for part in parts[1:]:
        found = {field.name: field.type for field in part.schema}
        for name in {**types, **found}:
            common = common_type(types[name], found[name]) if name in types and name in found else None
            if common is None:
                kinds = [columns.get(name, "missing") for columns in (found, types)]
                raise SchemaError(f"{part.name}: column {name}: {kinds[0]}, but {kinds[1]} in {first.name}")
            types[name] = common
    if len(parts) == 1:
        return first.schema  # as it is: a name that occurs twice is for others to tell
    return pa.schema(
        [pa.field(name, kind) if name in plain else digits_field(name, kind) for name, kind in types.items()]
    )


def _with_partitions(schema: pa.Schema, files: Iterable[SourceFile]) -> pa.Schema:
    """Add the columns that folders are named by: integers where all values are, else text.

    Raises:
        SchemaError: If the files have a column of that name.
    """
    values: dict[str, list[str]] = {}
    first = ""
    for file in files:
        first = first or file.name
        for name, value in file.partition:
            values.setdefault(name, []).extend([] if value is None else [value])
    for name, found in values.items():
        if name in schema.names:
            raise SchemaError(f"{first}: column {name}: in the file and in the name of its folder; keep one of them")
        are_integers = bool(found) and all(_INTEGER.fullmatch(value) for value in found)
        schema = schema.append(pa.field(name, pa.int64() if are_integers else pa.string()))
    return schema


def read_batches(source: Source | RawLog, *, columns: Sequence[str], batch_rows: int) -> Iterator[Chunk]:
    """Yield the rows of a whole log; memory is bounded by the batch, not by the row group.

    Raises:
        DataError: If a file cannot be read to its end; the message names the first row that was not read.
    """
    for part in open_log(source).parts:
        for row, batch in part.batches(columns, batch_rows):
            yield Chunk(part, row, batch)
    pa.default_memory_pool().release_unused()  # what was decoded into, or the caller's next step would pay for it


def read_sample(source: Source | RawLog, *, columns: Sequence[str], num_rows: int) -> pa.Table:
    """Rows from the beginnings of some row groups, evenly spread over the log, in its order.

    Args:
        source: The log.
        columns: Their names.
        num_rows: Rows to read, or fewer where the log or its row groups are small.

    Raises:
        DataError: If a file cannot be read.
    """
    log = open_log(source)
    places = [(part, group) for part in log.parts for group, group_rows in enumerate(part.group_rows) if group_rows]
    chosen = sorted({number * len(places) // _SAMPLED_GROUPS for number in range(_SAMPLED_GROUPS)})
    batches = []
    for part, group in (places[number] for number in chosen):
        _, batch = next(part.batches(columns, max(num_rows // len(chosen), 1), groups=[group]))
        batches.append(batch)
    return pa.Table.from_batches(batches)


def map_batches(
    function: Callable[[Chunk], T], chunks: Iterable[Chunk], *, num_threads: int
) -> Iterator[tuple[Chunk, T]]:
    """Yield each chunk with `function` of it, in the order of the log.

    The calling thread decodes, the others compute; at most `num_threads + 1` batches are in memory.
    """
    pending: deque[tuple[Chunk, Future[T]]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for chunk in chunks:
            pending.append((chunk, pool.submit(function, chunk)))
            if len(pending) > num_threads:
                done, future = pending.popleft()
                yield done, future.result()
        for done, future in pending:
            yield done, future.result()
