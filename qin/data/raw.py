"""Reading raw Parquet files in bounded memory, with errors that name the file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from qin.errors import DataError

# One buffered stream per column: with no buffer, Arrow holds a row group's whole column chunks at once.
_BUFFER_BYTES = 1 << 18


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """Open a Parquet file for reading by batches.

    Raises:
        DataError: If the file is missing, is not a readable Parquet file, or has no rows.
    """
    try:
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
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


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
