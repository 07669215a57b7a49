"""The ids of a file to predict: streamed to disk as text, checked to be all different."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.columns.types import is_binary, is_string
from qin.raw.hashing import hash_values, seed_of
from qin.raw.values import plain_values
from qin.runtime.errors import DataError
from qin.runtime.files import named_errors

IDS = "ids.arrow"
# Of the file, whatever batches the ids come in: equal ids give equal bytes.
_BLOCK_ROWS = 65536
_SCHEMA = pa.schema([("id", pa.string())])


class IdWriter:
    """Writes ids in row order, in blocks of fixed size, and holds one block and a hash of 8 bytes per id.

    Args:
        folder: Existing folder.
        at: What messages say of where the id of a row is: file, column, row.
    """

    def __init__(self, folder: Path, *, at: Callable[[int], str]) -> None:
        self._path, self._at = folder / IDS, at
        self._seed = seed_of("id", 0)
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self._pending: list[pa.Array] = []
        self._sink = pa.OSFile(str(self._path), "wb")
        self._writer = pa.ipc.new_file(self._sink, _SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with named_errors(self._path):
            if kind is None:
                self._write(sum(len(part) for part in self._pending))
            self._writer.close()
            self._sink.close()
        if kind is None:
            # With the file closed, because the message reads the id from it.
            self._check_different()

    def append(self, array: pa.Array, *, first_row: int) -> None:
        """Add the ids of a batch.

        Raises:
            DataError: If one is missing, or is no text in UTF-8, which no sample submission could name.
        """
        text = texts_of_ids(array, at=lambda row: self._at(first_row + row))
        is_missing = pc.fill_null(pc.equal(text, ""), True).to_numpy(zero_copy_only=False)
        if is_missing.any():
            raise DataError(f"{self._at(first_row + int(np.flatnonzero(is_missing)[0]))}: id is missing")
        self._hashes.append(hash_values(text, self._seed)[0])
        self._pending.append(text)
        num_pending = sum(len(part) for part in self._pending)
        with named_errors(self._path):
            self._write(num_pending - num_pending % _BLOCK_ROWS)

    def _write(self, num_rows: int) -> None:
        """Write so many pending rows, in blocks that do not show how rows were batched."""
        if not num_rows:
            return
        pending = pa.concat_arrays(self._pending)
        for start in range(0, num_rows, _BLOCK_ROWS):
            # Copied below: of a slice Arrow may write neighbours as padding, which depend on where it was cut.
            block = pending.slice(start, min(_BLOCK_ROWS, num_rows - start))
            self._writer.write_batch(pa.record_batch([pa.concat_arrays([block])], schema=_SCHEMA))
        # Copied, or a few rows that are left would keep the whole batch in memory.
        self._pending = [pa.concat_arrays([pending.slice(num_rows)])]

    def _check_different(self) -> None:
        # By hash, because the texts would be most of prepare's memory: of ten million different ids two share a hash in
        # 3 of a million files. The sort says whether there are any; only a file that fails pays for where.
        hashes = np.concatenate(self._hashes)
        ordered = np.sort(hashes)
        if not (ordered[1:] == ordered[:-1]).any():
            return
        is_first = np.zeros(hashes.size, np.bool_)
        is_first[np.unique(hashes, return_index=True)[1]] = True
        row = int(np.flatnonzero(~is_first)[0])
        value = read_ids(self._path.parent)[row].as_py()
        raise DataError(f"{self._at(row)}: id occurs twice: {value!r}")


def texts_of_ids(array: pa.Array, *, at: Callable[[int], str]) -> pa.Array:
    """The texts of ids, which are those of a CSV file, null where one is missing.

    Args:
        array: Ids.
        at: What messages say of where the id of a row of it is.

    Raises:
        DataError: If one is no text in UTF-8, which no sample submission could name.
    """
    array = _uuid_texts(array) if isinstance(array.type, pa.UuidType) else plain_values(array)
    if not (is_string(array.type) or is_binary(array.type)):
        return array.cast(pa.string())
    raw = array.cast(pa.large_binary())  # a string array may hold any bytes; only this way they are checked
    try:
        return raw.cast(pa.string())
    except pa.ArrowInvalid as error:
        row = next(row for row, value in enumerate(raw.to_pylist()) if value is not None and not _is_utf8(value))
        raise DataError(f"{at(row)}: id is no text in UTF-8: {raw[row].as_py()!r}") from error


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _uuid_texts(array: pa.Array) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in array.to_pylist()], pa.string())


def read_ids(folder: Path) -> pa.ChunkedArray:
    """The ids of a prepared file, in row order, as text."""
    with pa.OSFile(str(folder / IDS)) as source:
        return pa.ipc.open_file(source).read_all().column("id")
