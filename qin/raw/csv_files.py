"""CSV files of a log, converted once to Parquet in `.qin/csv`, which all stages read in their place.

1. A file is read once with all columns as text, and each column gets the narrowest type that holds all its values:
   none, integers, numbers, text. Integers are plain (`-?(0|[1-9][0-9]*)`, up to 18 digits) and numbers have no zeros
   in front, so that `007` stays text; moments stay text as well, which time columns read.
2. The types of all files of the log are joined, so that its columns agree.
3. A file is read again, its columns get these types, and it is written as Parquet, rows in their order.

Both results are kept for as long as the file's size, time and place are what they were. An empty cell is null, a quoted
one is an empty text; among numbers the words of `_NULL_WORDS` are null too. Memory is bounded by a block of the file.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from qin.columns.types import digits_field
from qin.runtime.errors import ArtifactError, DataError
from qin.runtime.files import atomic_file, fingerprint, read_exact_json, write_exact_json
from qin.runtime.paths import CSV
from qin.runtime.sources import SourceFile, first_line

_VERSION = 2  # of the conversion: another one makes what is kept anew
_BLOCK_BYTES = 1 << 22  # read at a time; Arrow refuses a row that is longer
_GROUP_BYTES = 1 << 25  # in memory, of a row group
_NULL_WORDS = pa.array(["NA", "N/A", "NaN", "nan", "null", "NULL", "None", "\\N"])
# Up to 18 digits, which always fit 64 bits. What is longer is an id: a float would round it, so it stays text.
_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
_NUMBER = r"^[-+]?((0|[1-9][0-9]{0,17})(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$"
_KINDS = ("null", "integer", "number", "text")  # each holds what those before it hold
_TYPES = {"null": pa.null(), "integer": pa.int64(), "number": pa.float64(), "text": pa.string()}

Kinds = Mapping[str, str]


def converted(files: Sequence[SourceFile], pool: Executor) -> dict[str, Path]:
    """The Parquet files of a log's CSV files, by name, made now where they are not there.

    Args:
        files: CSV files of one log.
        pool: Does several at a time.

    Raises:
        DataError: If one is missing or is no CSV file.
    """
    kinds: dict[str, str] = {}
    headers: list[list[str]] = []
    for names, found in pool.map(_known, files):
        headers.append(names)
        for name, kind in found.items():
            kinds[name] = max(kinds.get(name, "null"), kind, key=_KINDS.index)
    # Only now, when all files have been read: a column has one type in the whole log.
    places = pool.map(partial(_convert, kinds=kinds), files, headers)
    return dict(zip((file.name for file in files), places, strict=True))


def _known(file: SourceFile) -> tuple[list[str], Kinds]:
    """The header of a file, and the narrowest kind of each of its columns."""
    known = _folder_of(file) / f"kinds-{_state_of(file)}.json"
    if known.exists():
        with suppress(ArtifactError):  # damaged: what it says is found out again
            tree = read_exact_json(known)
            return list(tree["names"]), dict(tree["kinds"])
    names = _header(file)
    kinds = dict.fromkeys(names, "null")
    for batch in _rows(file, names):
        for name, column in zip(names, batch.columns, strict=True):
            kinds[name] = _widened(kinds[name], column)
    _make_room(known.parent, "kinds-*")
    write_exact_json(known, {"names": names, "kinds": kinds})
    return names, kinds


def _widened(kind: str, column: pa.Array) -> str:
    if kind == "text":
        return kind
    values = column.drop_null()
    # `NA` says missing only among numbers: a column of nothing else counts as one of them, beside text it stays a word.
    values = values.filter(pc.invert(pc.is_in(values, value_set=_NULL_WORDS)))
    if not len(values):
        return "null" if kind == "null" and not len(column.drop_null()) else max(kind, "integer", key=_KINDS.index)
    for narrowest, pattern in (("integer", _INTEGER), ("number", _NUMBER)):
        if pc.all(pc.match_substring_regex(values, pattern)).as_py():
            return max(kind, narrowest, key=_KINDS.index)
    return "text"


def _convert(file: SourceFile, names: Sequence[str], *, kinds: Kinds) -> Path:
    state = _state_of(file)
    place = _folder_of(file) / f"{fingerprint(state, [kinds[name] for name in names])}.parquet"
    if place.exists():
        return place
    schema = pa.schema([digits_field(name, _TYPES[kinds[name]]) for name in names])
    _make_room(place.parent, "*.parquet")
    with atomic_file(place) as staging, pq.ParquetWriter(staging, schema) as writer:
        for table in _groups(_rows(file, names), schema):
            writer.write_table(table)
    return place


def _make_room(folder: Path, pattern: str) -> None:
    """Drop what earlier states of a file were converted to."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(pattern):
        old.unlink(missing_ok=True)


def _groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Rows with their types, as row groups of some size."""
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        arrays = [_typed(column, field.type) for column, field in zip(batch.columns, schema, strict=True)]
        pending.append(pa.record_batch(arrays, schema=schema))
        if sum(part.nbytes for part in pending) >= _GROUP_BYTES:
            yield pa.Table.from_batches(pending, schema=schema)
            pending = []
    if pending:
        yield pa.Table.from_batches(pending, schema=schema)


def _typed(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return column
    if pa.types.is_null(kind):
        return pa.nulls(len(column))
    values = pc.if_else(pc.is_in(column, value_set=_NULL_WORDS), pa.scalar(None, pa.string()), column)
    return pc.replace_substring_regex(values, r"^\+", "").cast(kind)  # Arrow's cast knows no plus


def _header(file: SourceFile) -> list[str]:
    with _said(file), file.open_text() as stream, pacsv.open_csv(stream, **_options(file)) as reader:
        return list(reader.schema.names)


def _rows(file: SourceFile, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a file by batches, every column as text."""
    convert = pacsv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    with file.open_text() as stream:
        with _said(file):
            reader = pacsv.open_csv(stream, convert_options=convert, **_options(file))
        with reader:
            while True:
                try:
                    with _said(file):
                        batch = reader.read_next_batch()
                except StopIteration:
                    return
                yield batch


def _options(file: SourceFile) -> dict[str, Any]:
    return {
        "read_options": pacsv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),  # with threads, no row is named
        # A quoted text may go on in the next line.
        "parse_options": pacsv.ParseOptions(delimiter=file.delimiter, newlines_in_values=True),
    }


@contextmanager
def _said(file: SourceFile) -> Iterator[None]:
    """Put what the reader says, which names the row, into one line with the file.

    Raises:
        DataError: If the file is no CSV file, or cannot be read.
    """
    try:
        yield
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.name}: not a readable CSV file ({first_line(error)})") from error


def _folder_of(file: SourceFile) -> Path:
    return CSV / fingerprint(file.name)


def _state_of(file: SourceFile) -> str:
    return fingerprint(_VERSION, json.dumps(file.state()))
