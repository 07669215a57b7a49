"""Reading raw Parquet files in bounded memory, with errors that name the file."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from qin.columns.patterns import natural_key
from qin.errors import DataError, SchemaError

# One buffered stream per column: with no buffer, Arrow holds a row group's whole column chunks at once.
_BUFFER_BYTES = 1 << 18
_SAMPLED_GROUPS = 8

T = TypeVar("T")


@dataclass(frozen=True)
class RawLog:
    """A Parquet file, or a folder of them as Spark and warehouses write it: one log, rows in the order of the names.

    Attributes:
        parts: Open files by path, each with the same columns.
    """

    parts: Mapping[Path, pq.ParquetFile]

    @property
    def schema_arrow(self) -> pa.Schema:
        """The Arrow schema, that of the first part."""
        return next(iter(self.parts.values())).schema_arrow

    @property
    def num_rows(self) -> int:
        """Rows of all parts."""
        return sum(file.metadata.num_rows for file in self.parts.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self.parts.values():
            file.close()


def open_parquet(path: str | Path) -> RawLog:
    """Open a Parquet file, or a folder of parts, for reading by batches.

    Raises:
        DataError: If a file is missing, is not a readable Parquet file, or there are no rows.
        SchemaError: If the parts of a folder have different columns.
    """
    path = Path(path)
    log = RawLog({part: _open_part(part) for part in (_parts(path) if path.is_dir() else [path])})
    _check_same_columns(log)
    if log.num_rows == 0:
        with log:
            raise DataError(f"{path}: has no rows")
    return log


def _parts(folder: Path) -> list[Path]:
    """The files of a folder in natural order of their names, without what writers leave beside them (`_SUCCESS`)."""
    found = [path for path in folder.iterdir() if not path.name.startswith(("_", "."))]
    for path in sorted(found):
        if path.is_dir():
            raise DataError(
                f"{path}: a folder inside a folder of parts; a column that is in folder names alone is not read: "
                f"write one file, or all parts into {folder}"
            )
        if path.suffix not in (".parquet", ".parq"):
            raise DataError(f"{path}: no Parquet file by its name; a folder of parts holds nothing but *.parquet")
    if not found:
        raise DataError(f"{folder}: an empty folder; expected a Parquet file or a folder of *.parquet")
    return sorted(found, key=lambda path: natural_key(path.name))


def _open_part(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(
            path,
            pre_buffer=False,
            buffer_size=_BUFFER_BYTES,
            page_checksum_verification=True,
            coerce_int96_timestamp_unit="us",  # in nanoseconds, Spark's 9999-12-31 would wrap to 1816
        )
    except FileNotFoundError as error:
        raise DataError(f"{path}: file not found") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({_first_line(error)})") from error


def _check_same_columns(log: RawLog) -> None:
    first, *others = log.parts.items()
    expected = {field.name: field.type for field in first[1].schema_arrow}
    for path, file in others:
        found = {field.name: field.type for field in file.schema_arrow}
        for name in {**expected, **found}:
            if found.get(name) != expected.get(name):
                types = [columns.get(name, "missing") for columns in (found, expected)]
                raise SchemaError(f"{path}: column {name}: {types[0]}, but {types[1]} in {first[0]}")


def read_batches(path: str | Path, *, columns: Sequence[str], batch_rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield `(first_row, batch)` over a whole log; memory is bounded by the batch, not by the row group.

    Raises:
        DataError: If a file cannot be read to its end; the message names the first row that was not read.
    """
    row = 0
    with open_parquet(path) as log:
        for part, file in log.parts.items():
            stop = row + file.metadata.num_rows
            try:
                for batch in file.iter_batches(batch_size=batch_rows, columns=list(columns), use_threads=False):
                    yield row, batch
                    row += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{part}: row {row}: cannot be read from here on ({_first_line(error)})") from error
            if row != stop:
                raise DataError(f"{part}: row {row}: the file ends here, its footer promises rows up to {stop}")
    pa.default_memory_pool().release_unused()  # what was decoded into, or the caller's next step would pay for it


def read_sample(path: str | Path, *, columns: Sequence[str], num_rows: int) -> pa.Table:
    """Rows from the beginnings of some row groups, evenly spread over the log, in its order.

    Args:
        path: Parquet file, or folder of parts.
        columns: Their names.
        num_rows: Rows to read, or fewer where the file or its row groups are small.

    Raises:
        DataError: If a file cannot be read.
    """
    with open_parquet(path) as log:
        places = [
            (part, group)
            for part, file in log.parts.items()
            for group in range(file.metadata.num_row_groups)
            if file.metadata.row_group(group).num_rows
        ]
        chosen = sorted({number * len(places) // _SAMPLED_GROUPS for number in range(_SAMPLED_GROUPS)})
        batches = []
        for part, group in (places[number] for number in chosen):
            options = {"row_groups": [group], "columns": list(columns), "use_threads": False}
            try:
                batches.append(next(log.parts[part].iter_batches(num_rows // len(chosen), **options)))
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{part}: cannot be read ({_first_line(error)})") from error
    return pa.Table.from_batches([batch.select(list(columns)) for batch in batches])


def map_batches(
    function: Callable[[int, pa.RecordBatch], T],
    batches: Iterator[tuple[int, pa.RecordBatch]],
    *,
    num_threads: int,
) -> Iterator[tuple[int, pa.RecordBatch, T]]:
    """Yield `(first_row, batch, function(first_row, batch))` in the order of the file.

    The calling thread decodes, the others compute; at most `num_threads + 1` batches are in memory.
    """
    pending: deque[tuple[int, pa.RecordBatch, Future[T]]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for first_row, batch in batches:
            pending.append((first_row, batch, pool.submit(function, first_row, batch)))
            if len(pending) > num_threads:
                row, raw, future = pending.popleft()
                yield row, raw, future.result()
        for row, raw, future in pending:
            yield row, raw, future.result()


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
