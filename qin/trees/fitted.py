"""Fitted trees, which score prepared rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.columns.schema import Schema
from qin.shards.files import Arrays, RowReader
from qin.trees.columns import CHUNK_ROWS, Mask, Matrix, TreeColumns
from qin.trees.forest import Forest


@dataclass(frozen=True)
class FittedTrees:
    """Fitted trees and the columns they read.

    Attributes:
        forest: LightGBM's model, cut at its best round.
        columns: What it reads.
        num_leaves: Of one tree.
        num_threads: To score with.
    """

    forest: Forest
    columns: TreeColumns
    num_leaves: int
    num_threads: int

    @property
    def num_rounds(self) -> int:
        """Trees."""
        return self.forest.num_rounds

    def logit(
        self, rows: RowReader, is_selected: Mask | None = None, *, on_rows: Callable[[int], None] | None = None
    ) -> npt.NDArray[np.float64]:
        """Logits of the selected rows of a file in its order, `(num_selected,)`, on the natural scale.

        Args:
            rows: The file.
            is_selected: Its rows to score; None for all.
            on_rows: Called with the number of rows that were scored since the last call.
        """
        source = SelectedRows(rows, self.columns, is_selected)
        out = np.empty(len(source))
        # A chunk at a time: as float64, the matrix of a whole file would be several times the prepared rows.
        for start in range(0, len(source), CHUNK_ROWS):
            chunk = out[start : start + CHUNK_ROWS]
            chunk[:] = self._predict(source[start : start + CHUNK_ROWS])
            if on_rows is not None:
                on_rows(chunk.size)
        return out

    def logit_of(self, schema: Schema, arrays: Arrays) -> npt.NDArray[np.float64]:
        """Logits of rows in memory, `(num_rows,)`; arguments as of `TreeColumns.of_arrays`."""
        return self._predict(self.columns.of_arrays(schema, arrays))

    def _predict(self, matrix: Matrix) -> npt.NDArray[np.float64]:
        return self.forest.predict(matrix, num_threads=self.num_threads)


class SelectedRows:
    """Selected rows of a file as trees read them: whole ranges, or one row at a time in ascending order."""

    def __init__(self, rows: RowReader, columns: TreeColumns, is_selected: Mask | None) -> None:
        self._rows, self._columns = rows, columns
        self._selected = None if is_selected is None else np.flatnonzero(is_selected)
        self._chunk = (-1, np.empty((0, 0)))

    def __len__(self) -> int:
        return self._rows.num_rows if self._selected is None else self._selected.size

    def __getitem__(self, index: Any) -> Matrix:
        # LightGBM asks for slices where it fills the bins, and for single rows where it samples their limits.
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return self._range(start, stop)
        number, position = divmod(int(index), CHUNK_ROWS)
        if number != self._chunk[0]:  # sampled rows come in ascending order: each chunk is read once
            start = number * CHUNK_ROWS
            self._chunk = (number, self._range(start, min(start + CHUNK_ROWS, len(self))))
        row: Matrix = self._chunk[1][position]
        return row

    def _range(self, start: int, stop: int) -> Matrix:
        if self._selected is None:
            return self._columns.matrix(self._rows, start, stop)
        wanted = self._selected[start:stop]
        out = np.empty((wanted.size, len(self._columns.names)))
        # Selected rows may lie far apart (a small fold): read the file by ranges that hold some of them.
        cuts = np.flatnonzero(np.diff(wanted // CHUNK_ROWS)) + 1
        for part in np.split(np.arange(wanted.size), cuts):
            if part.size:
                first, last = int(wanted[part[0]]), int(wanted[part[-1]])
                out[part] = self._columns.matrix(self._rows, first, last + 1)[wanted[part] - first]
        return out
