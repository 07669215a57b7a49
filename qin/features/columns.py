"""Columns of float32 for the rows of a file: written a column or a part of one at a time, read by ranges of rows."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from qin.runtime.errors import ArtifactError
from qin.runtime.files import named_errors

_DTYPE = np.dtype("<f4")

Values = npt.NDArray[np.float32]


class RowColumns(Protocol):
    """Columns of numbers for the rows of a file or of a table, read by ranges of rows."""

    def read_into(self, start: int, out: Values) -> None:
        """Fill `out (n, num_columns)` with the rows from `start` on."""
        ...


@dataclass(frozen=True)
class ColumnTable:
    """Columns in memory.

    Attributes:
        values: `(num_rows, num_columns)`.
    """

    values: Values

    def read_into(self, start: int, out: Values) -> None:
        """Fill `out (n, num_columns)` with the rows from `start` on."""
        out[:] = self.values[start : start + len(out)]


@dataclass(frozen=True)
class ColumnFile:
    """One column after the other, so that a range of rows is one read per column.

    Attributes:
        path: The file.
        num_rows: Rows of each column.
        num_columns: How many there are.
    """

    path: Path
    num_rows: int
    num_columns: int

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self.num_rows * self.num_columns * _DTYPE.itemsize

    def write(self, column: int, start: int, values: Values) -> None:
        """Write the rows of a column from `start` on, `(n,)`."""
        data = np.ascontiguousarray(values, _DTYPE).view(np.uint8).data
        offset = self._offset(column, start)
        with named_errors(self.path):
            # Made if it is not there and never emptied: columns and their parts come in any order.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                while data:
                    num_bytes = os.pwrite(descriptor, data, offset)
                    data, offset = data[num_bytes:], offset + num_bytes
            finally:
                os.close(descriptor)

    def read_into(self, start: int, out: Values) -> None:
        """Fill `out (n, num_columns)` with the rows from `start` on.

        Raises:
            ArtifactError: If the file is too short.
        """
        if not out.size:
            return
        column = np.empty(len(out), _DTYPE)
        with self.path.open("rb") as file:
            for number in range(self.num_columns):
                offset = self._offset(number, start)
                num_bytes = os.preadv(file.fileno(), [column.data], offset)
                if num_bytes != column.nbytes:
                    raise ArtifactError(
                        f"{self.path}: truncated: {num_bytes} bytes at {offset}, expected {column.nbytes}"
                    )
                out[:, number] = column

    def read_column(self, column: int) -> Values:
        """All rows of a column, `(num_rows,)`."""
        return np.fromfile(self.path, _DTYPE, self.num_rows, offset=self._offset(column, 0)).astype(
            np.float32, copy=False
        )

    def _offset(self, column: int, row: int) -> int:
        return (column * self.num_rows + row) * _DTYPE.itemsize
