"""The ids of a sample submission, and which row of the test file each of them is."""

import codecs
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from qin.runtime.errors import DataError

_BLOCK_BYTES = 1 << 20


def read_sample_ids(file: str) -> tuple[list[str], pa.ChunkedArray]:
    """The header and the ids of a sample submission.

    Args:
        file: CSV with two columns, the id first.

    Raises:
        DataError: If the file is missing, is no CSV in UTF-8, has not two columns, has no rows, or an id is empty.
    """
    _check_utf8(file)
    ids: list[pa.Array] = []
    serially = pacsv.ReadOptions(use_threads=False)  # with threads, an error does not name its line
    try:
        header = pacsv.open_csv(file, read_options=serially).schema.names
        if len(header) != 2:
            raise DataError(f"{file}: expected two columns, the id and the probability, got {', '.join(header)}")
        options = pacsv.ConvertOptions(column_types={header[0]: pa.string()}, include_columns=header[:1])
        with pacsv.open_csv(file, read_options=serially, convert_options=options) as reader:
            ids.extend(batch.column(0) for batch in reader)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable CSV file ({str(error).splitlines()[0]})") from error
    column = pa.chunked_array(ids, pa.string())
    if not len(column):
        raise DataError(f"{file}: has no rows")
    is_empty = pc.equal(column, "").to_numpy()
    if is_empty.any():
        raise DataError(f"{file}: column {header[0]}, row {int(np.flatnonzero(is_empty)[0])}: id is missing")
    return header, column


def match_ids(
    wanted: pa.ChunkedArray, ids: pa.ChunkedArray, *, file: str, column: str, test: str, at: Callable[[int], str]
) -> npt.NDArray[np.int64]:
    """Row of the test file for each row of the sample submission.

    Args:
        wanted: Ids of the sample submission, `(n,)`.
        ids: Ids of the test file, `(n,)`, all different.
        file: The sample submission, for messages.
        column: The id column, for messages.
        test: The test log, for messages.
        at: What messages say of where the id of a row of it is.

    Raises:
        DataError: If the ids are not the same set, or one occurs twice.
    """
    if wanted.equals(ids):  # as mostly they do
        return np.arange(len(ids), dtype=np.int64)
    position = pc.index_in(wanted.combine_chunks(), value_set=ids.combine_chunks())
    if position.null_count:
        row = int(np.flatnonzero(position.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{file}: column {column}, row {row}: id is not in {test}: {wanted[row].as_py()!r}")
    rows = np.asarray(position.to_numpy(), np.int64)
    counts = np.bincount(rows, minlength=len(ids))
    if counts.max() > 1:
        first = np.full(len(ids), -1)
        # Written from the end, so that the first place of each id is what stays.
        first[rows[::-1]] = np.arange(rows.size)[::-1]
        row = int(np.flatnonzero(first[rows] != np.arange(rows.size))[0])
        raise DataError(f"{file}: column {column}, row {row}: id occurs twice: {wanted[row].as_py()!r}")
    if counts.min() == 0:
        row = int(np.flatnonzero(counts == 0)[0])
        raise DataError(f"{at(row)}: id is not in {file}: {ids[row].as_py()!r}")
    return rows


def _check_utf8(file: str) -> None:
    """Refuse what is no text in UTF-8; Arrow checks the ids, but neither the header nor which encoding it is instead.

    Raises:
        DataError: If the file is missing, a folder, or holds other bytes.
    """
    decoder, line = codecs.getincrementaldecoder("utf-8-sig")(), 1
    try:
        if stat.S_IFMT(Path(file).stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise DataError(f"{file}: a device or a pipe, which may never end; a sample submission is one CSV file")
        with Path(file).open("rb") as source:
            while block := source.read(_BLOCK_BYTES):
                decoder.decode(block)
                line += block.count(b"\n")
            decoder.decode(b"", final=True)
    except FileNotFoundError as error:
        raise DataError(f"{file}: file not found") from error
    except IsADirectoryError as error:
        raise DataError(f"{file}: is a folder; a sample submission is one CSV file") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        raise DataError(
            f"{file}: line {line}: not a readable CSV file (not UTF-8: byte 0x{error.object[error.start]:02x}); "
            "save it as UTF-8, in Excel as `CSV UTF-8`"
        ) from error
