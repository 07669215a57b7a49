"""Reading raw Parquet files in bounded memory, with errors that name the file."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from qin.errors import DataError

# One buffered stream per column: with no buffer, Arrow holds a row group's whole column chunks at once.
_BUFFER_BYTES = 1 << 18

T = TypeVar("T")


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """Open a Parquet file for reading by batches.

    Raises:
        DataError: If the file is missing, is not a readable Parquet file, or has no rows.
    """
    try:
        file = pq.ParquetFile(
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
    if file.metadata.num_rows == 0:
        file.close()
        raise DataError(f"{path}: has no rows")
    return file


def read_batches(path: str | Path, *, columns: Sequence[str], batch_rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield `(first_row, batch)` over a whole file; memory is bounded by the batch, not by the row group.

    Raises:
        DataError: If the file cannot be read to its end; the message names the first row that was not read.
    """
    row = 0
    with open_parquet(path) as file:
        try:
            for batch in file.iter_batches(batch_size=batch_rows, columns=list(columns), use_threads=False):
                yield row, batch
                row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: row {row}: cannot be read from here on ({_first_line(error)})") from error
        if row != file.metadata.num_rows:
            raise DataError(f"{path}: row {row}: the file ends here, its footer promises {file.metadata.num_rows} rows")
    pa.default_memory_pool().release_unused()  # what was decoded into, or the caller's next step would pay for it


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
