"""Parquet row groups larger than memory."""

from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

_COMPRESSION_LEVEL = 1  # of a file that is read once or twice
_NEVER_REPEATED = frozenset(("seq", "feat_c_2", "ID", "probability"))  # a dictionary of them would be a second copy


class RowGroupWriter:
    """Write a parquet file with row groups of a given size from tables of any size.

    `ParquetWriter` makes a row group of each table it is given. A group's rows are therefore spooled into
    an Arrow file beside the target, and written from a memory map of it: what must stay in memory is one
    table and the encoded pages, while the map's pages can be dropped by the system at any time.

    Args:
        path: The parquet file.
        schema: Its columns.
        group_rows: Rows of each row group; the last one may be smaller.
    """

    def __init__(self, path: Path, *, schema: pa.Schema, group_rows: int) -> None:
        self._schema = schema
        self._group_rows = group_rows
        self._spool_path = path.with_suffix(".spool")
        self._spool: pa.ipc.RecordBatchFileWriter | None = None
        self._spooled_rows = 0
        self._parquet = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            compression_level=_COMPRESSION_LEVEL,
            use_dictionary=[name for name in schema.names if name not in _NEVER_REPEATED],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish_group()
        finally:
            if self._spool is not None:
                self._spool.close()
            self._spool_path.unlink(missing_ok=True)
            self._parquet.close()

    def write(self, table: pa.Table) -> None:
        """Append a table's rows.

        Args:
            table: Rows with the file's schema.
        """
        while table.num_rows > 0:
            head = table.slice(0, self._group_rows - self._spooled_rows)
            if self._spool is None:
                self._spool = pa.ipc.new_file(self._spool_path, self._schema)
            self._spool.write_table(head)
            self._spooled_rows += head.num_rows
            table = table.slice(head.num_rows)
            if self._spooled_rows == self._group_rows:
                self._finish_group()

    def _finish_group(self) -> None:
        if self._spool is None:
            return
        self._spool.close()
        self._spool = None
        with pa.memory_map(str(self._spool_path)) as source:
            group = pa.ipc.open_file(source).read_all()
            self._parquet.write_table(group, row_group_size=self._group_rows)
        self._spooled_rows = 0
