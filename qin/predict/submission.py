"""The submission: probabilities in the order of the sample submission, ids checked one to one."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from qin.errors import DataError
from qin.runtime.files import atomic_file

_WRITE_ROWS = 65536
_SPECIAL = '[,"\\r\\n]'


def read_submission_ids(file: str) -> tuple[list[str], pa.ChunkedArray]:
    """The header and the ids of a sample submission.

    Args:
        file: CSV with two columns, the id first.

    Raises:
        DataError: If the file is missing, is no CSV, has not two columns, has no rows, or an id is empty.
    """
    ids: list[pa.Array] = []
    serially = pacsv.ReadOptions(use_threads=False)  # with threads, an error does not name its line
    try:
        header = pacsv.open_csv(file, read_options=serially).schema.names
        if len(header) != 2:
            raise DataError(f"{file}: expected two columns, the id and the probability, got {', '.join(header)}")
        options = pacsv.ConvertOptions(column_types={header[0]: pa.string()}, include_columns=header[:1])
        with pacsv.open_csv(file, read_options=serially, convert_options=options) as reader:
            ids.extend(batch.column(0) for batch in reader)
    except FileNotFoundError as error:
        raise DataError(f"{file}: file not found") from error
    except pa.ArrowInvalid as error:
        raise DataError(f"{file}: not a readable CSV file ({str(error).splitlines()[0]})") from error
    column = pa.chunked_array(ids, pa.string())
    if not len(column):
        raise DataError(f"{file}: has no rows")
    is_empty = pc.equal(column, "").to_numpy()
    if is_empty.any():
        raise DataError(f"{file}: column {header[0]}, row {int(np.flatnonzero(is_empty)[0])}: id is missing")
    return header, column


def match_ids(
    wanted: pa.ChunkedArray, ids: pa.ChunkedArray, *, file: str, column: str, test: str
) -> npt.NDArray[np.int64]:
    """Row of the test file for each row of the sample submission.

    Args:
        wanted: Ids of the sample submission, `(n,)`.
        ids: Ids of the test file, `(n,)`, all different.
        file: The sample submission, for messages.
        column: The id column, for messages.
        test: The test file, for messages.

    Raises:
        DataError: If the ids are not the same set, or one occurs twice.
    """
    if wanted.equals(ids):
        return np.arange(len(ids), dtype=np.int64)
    position = pc.index_in(wanted.combine_chunks(), value_set=ids.combine_chunks())
    if position.null_count:
        row = int(np.flatnonzero(position.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{file}: column {column}, row {row}: id is not in {test}: {wanted[row].as_py()!r}")
    rows = np.asarray(position.to_numpy(), np.int64)
    counts = np.bincount(rows, minlength=len(ids))
    if counts.max() > 1:
        first = np.full(len(ids), -1)
        first[rows[::-1]] = np.arange(rows.size)[::-1]
        row = int(np.flatnonzero(first[rows] != np.arange(rows.size))[0])
        raise DataError(f"{file}: column {column}, row {row}: id occurs twice: {wanted[row].as_py()!r}")
    if counts.min() == 0:
        row = int(np.flatnonzero(counts == 0)[0])
        raise DataError(f"{test}: column {column}, row {row}: id is not in {file}: {ids[row].as_py()!r}")
    return rows


def write_submission(
    path: Path, *, header: list[str], ids: pa.ChunkedArray, probability: npt.NDArray[np.float64]
) -> None:
    """Write the CSV, probabilities as the shortest text that gives back their 32-bit value.

    Ids are quoted only if one of them must be; Arrow's style `needed` alone would quote all text.
    """
    must_quote = pc.any(pc.match_substring_regex(ids, _SPECIAL)).as_py()
    with atomic_file(path) as staging, staging.open("wb") as file:
        file.write((",".join(map(_quoted, header)) + "\n").encode())
        options = pacsv.WriteOptions(include_header=False, quoting_style="needed" if must_quote else "none")
        for start, part in _slices(ids):
            values = pa.array(probability[start : start + len(part)].astype(np.float32))
            pacsv.write_csv(pa.record_batch([part, values], names=header), file, options)


def _quoted(name: str) -> str:
    """Quote a header name where CSV demands it."""
    return '"' + name.replace('"', '""') + '"' if re.search(_SPECIAL, name) else name


def _slices(ids: pa.ChunkedArray) -> Iterator[tuple[int, pa.Array]]:
    for start in range(0, len(ids), _WRITE_ROWS):
        yield start, ids.slice(start, _WRITE_ROWS).combine_chunks()
