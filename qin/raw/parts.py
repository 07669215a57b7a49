"""One file of a log: what it holds, and its rows by batches in bounded memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from qin.columns.types import read_type
from qin.runtime.errors import DataError
from qin.runtime.sources import SourceFile, first_line

# One buffered stream per column: with no buffer, Arrow holds a row group's whole column chunks at once.
_BUFFER_BYTES = 1 << 18
_REMOTE_BUFFER_BYTES = 1 << 20  # a request each


@dataclass(frozen=True)
class RawPart:
    """One file of a log.

    Attributes:
        file: Where it is.
        stored: Where it is read: the same, or what a CSV file was converted to.
        schema: Its columns, and those that its folders are named by.
        num_rows: Its rows.
        first_row: Number of its first row in the log.
        group_rows: Rows of each of its row groups.
    """

    file: SourceFile
    stored: SourceFile
    schema: pa.Schema
    num_rows: int
    first_row: int = 0
    group_rows: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Path or URI, for messages."""
        return self.file.name

    def batches(
        self, columns: Sequence[str], batch_rows: int, *, groups: Sequence[int] | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield `(row, batch)`, rows counted from the file's first.

        Args:
            columns: Names of `schema`, in the order that batches have them.
            batch_rows: Rows of a batch at most.
            groups: Row groups to read; None for all.

        Raises:
            DataError: If the file cannot be read to its end; the message names the first row that was not read.
        """
        row, stop = 0, self.num_rows if groups is None else sum(self.group_rows[group] for group in groups)
        own = [name for name in columns if name not in dict(self.file.partition)]
        # No threads of Arrow's: whole batches are worked on side by side already, in `map_batches`.
        options = {"columns": own, "use_threads": False, **({} if groups is None else {"row_groups": list(groups)})}
        with open_part(self.stored) as opened:
            try:
                for batch in opened.iter_batches(batch_rows, **options):
                    yield row, self._complete(batch, columns)
                    row += batch.num_rows
            except MemoryError:  # Arrow's own is an ArrowException too, and says nothing of the file
                raise
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self.name}: row {row}: cannot be read from here on ({first_line(error)})") from error
        if row != stop:
            raise DataError(f"{self.name}: row {row}: the file ends here, its footer promises rows up to {stop}")

    def _complete(self, batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
        """The batch as the log has it: with the columns of its folders, and the types that all files agree on."""
        partition, arrays = dict(self.file.partition), []
        for name in columns:
            kind = self.schema.field(name).type
            if name in partition:
                arrays.append(pa.repeat(_partition_value(partition[name], kind), batch.num_rows))
                continue
            array = batch.column(name)
            arrays.append(array if array.type == kind else array.cast(kind))
        return pa.record_batch(arrays, names=list(columns))


def read_part(file: SourceFile, *, stored: Path | None = None) -> RawPart:
    """Read what a file holds: its own columns, without those of its folders.

    Args:
        file: The file.
        stored: The Parquet file that a CSV file was converted to.

    Raises:
        DataError: If it is missing, or is not a readable Parquet file.
    """
    place = file if stored is None else SourceFile(str(stored))
    with open_part(place) as opened:
        meta = opened.metadata
        groups = tuple(meta.row_group(number).num_rows for number in range(meta.num_row_groups))
        schema = pa.schema([field.with_type(read_type(field.type)) for field in opened.schema_arrow])
        return RawPart(file, place, schema, meta.num_rows, group_rows=groups)


@contextmanager
def open_part(file: SourceFile) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file.

    Raises:
        DataError: If it is missing, or is not a readable Parquet file.
    """
    is_local = file.filesystem is None
    source = Path(file.name) if is_local else file.open()
    try:
        opened = pq.ParquetFile(
            source,
            pre_buffer=False,  # it would hold a row group's columns whole
            buffer_size=_BUFFER_BYTES if is_local else _REMOTE_BUFFER_BYTES,
            page_checksum_verification=True,  # of files whose writer left checksums
            coerce_int96_timestamp_unit="us",  # in nanoseconds, Spark's 9999-12-31 would wrap to 1816
        )
    except FileNotFoundError as error:
        raise DataError(f"{file.name}: file not found") from error
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.name}: not a readable Parquet file ({first_line(error)})") from error
    with opened:
        yield opened


def _partition_value(value: str | None, kind: pa.DataType) -> pa.Scalar:
    if value is None:
        return pa.scalar(None, kind)
    return pa.scalar(int(value) if pa.types.is_integer(kind) else value, kind)
