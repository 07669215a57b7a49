"""Features of a row within its impression, the rows that were shown together; they read no label.

1. The file is read once: each row's impression as a hash, and the numbers to compare, a column after the other on disk.
2. The rows are grouped by impression (see `ranks`), the hashes are given back.
3. Each column is ranked within the impressions, one at a time, and its results are written for the rows to be prepared.
4. Each number is compared with that of the shown row whose value was last in a history: where in a list of hotels the
   one lies that the session looked at last says more about the next click than what is known of any hotel.

Memory is 36 bytes per row, whatever the number of columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qin.features.columns import ColumnFile, ColumnTable
from qin.features.ranks import difference_from_first, group_rows, rank_within, sizes
from qin.raw.hashing import HashedColumn, Hashes, hash_column, hash_rows, seed_of
from qin.raw.log import Chunk, RawLog, map_batches, open_log, read_batches
from qin.raw.values import refuse_rounded
from qin.runtime.progress import Progress
from qin.runtime.sources import Source

SIZE, RANK, RELATIVE, FROM_LAST = "impression.size", "rank", "relative", "from_last"


Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Compared:
    """Numbers of each row that are compared within impressions, made together.

    Attributes:
        names: Of numeric fields, of columns whose text is numbers, or of measures of a history.
        columns: Columns of the file that they are made from.
        values: The numbers `(n,)` of a batch in the order of `names`, NaN where missing, given its file, the number of
            its first row there, and it.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    values: Callable[[str, int, pa.RecordBatch], Sequence[Values]]


class Distance(NamedTuple):
    """A number's difference from that of the shown row whose value was in a history last.

    Attributes:
        column: The number's position among what is compared.
        since: Position of how long ago the row's value was in the history.
        name: Of the feature.
    """

    column: int
    since: int
    name: str


def feature_names(compared: Sequence[str], distances: Sequence[Distance] = ()) -> list[str]:
    """Names of the features, in order, given the names of what is compared."""
    ranked = [f"impression.{name}.{measure}" for name in compared for measure in (RANK, RELATIVE)]
    return [SIZE, *ranked, *(distance.name for distance in distances)]


def impression_hashes(columns: Sequence[HashedColumn], *, first_row: int) -> Hashes:
    """One hash per row that rows of an impression share, `(n,)`; a row without one of its keys is alone.

    Args:
        columns: The key's columns.
        first_row: Number of the first row in the file.
    """
    hashes = hash_rows(columns, seed_of("impression", 0))
    is_alone = np.logical_or.reduce([column.is_null for column in columns])
    # With a seed of their own, or a row's number might be another impression's key.
    rows = HashedColumn((first_row + np.flatnonzero(is_alone)).astype(np.uint64), np.zeros(is_alone.sum(), np.bool_))
    hashes[is_alone] = hash_rows([rows], seed_of("impression.row", 0))
    return hashes


def impression_features(hashes: Hashes, compared: Sequence[Values], distances: Sequence[Distance] = ()) -> ColumnTable:
    """Compute the features of `feature_names` for rows in memory.

    Args:
        hashes: Each row's impression, `(num_rows,)`.
        compared: The numbers that are compared, `(num_rows,)` each.
        distances: Which of them are compared with the last one in a history, too.
    """
    groups = group_rows(hashes)
    ranked = [column for values in compared for column in rank_within(groups, values)]
    apart = [difference_from_first(groups, compared[one.since], compared[one.column]) for one in distances]
    return ColumnTable(np.column_stack([sizes(groups), *ranked, *apart]))


def build_impression_features(
    source: Source | RawLog,
    *,
    key: Sequence[str],
    compared: Sequence[Compared],
    distances: Sequence[Distance] = (),
    folder: Path,
    batch_rows: int,
    num_threads: int,
) -> ColumnFile:
    """Compute the features of all rows of a log, by the four steps above.

    Args:
        source: The raw log.
        key: Columns whose values rows of an impression share.
        compared: What is compared.
        distances: Which of it is compared with the last one in a history, too.
        folder: Folder for two temporary files.
        batch_rows: Rows decoded at a time.
        num_threads: Threads that encode.

    Returns:
        The features of `feature_names`, a column each.

    Raises:
        DataError: Naming the first bad value.
    """
    log = open_log(source)
    compared_names = [name for numbers in compared for name in numbers.names]
    names = feature_names(compared_names, distances)
    numbers = ColumnFile(folder / "compared.bin", log.num_rows, len(compared_names))
    features = ColumnFile(folder / "impression.bin", log.num_rows, len(names))
    # Not named, so that the hashes are given back once the rows are grouped: 8 bytes a row.
    groups = group_rows(_read(log, key, compared, numbers, batch_rows=batch_rows, num_threads=num_threads))
    features.write(0, 0, sizes(groups))
    with Progress(len(compared_names) + len(distances), label=f"impressions of {log}", unit="columns") as progress:
        for number in range(len(compared_names)):
            # To the places that `feature_names` gives them: the size, then two for each number, then distances.
            ranked = rank_within(groups, numbers.read_column(number))
            features.write(1 + 2 * number, 0, ranked.rank)
            features.write(2 + 2 * number, 0, ranked.relative)
            progress.advance(1)
        numbered = enumerate(distances, start=1 + 2 * len(compared_names))
        # Distances come history by history, so each history's column is read once.
        for at, of_history in groupby(numbered, key=lambda each: each[1].since):
            since = numbers.read_column(at)
            for number, distance in of_history:
                features.write(number, 0, difference_from_first(groups, since, numbers.read_column(distance.column)))
                progress.advance(1)
    numbers.path.unlink(missing_ok=True)
    return features


def _read(
    log: RawLog,
    key: Sequence[str],
    compared: Sequence[Compared],
    numbers: ColumnFile,
    *,
    batch_rows: int,
    num_threads: int,
) -> Hashes:
    """Each row's impression, `(num_rows,)`; what is compared goes to `numbers`."""

    def encode(chunk: Chunk) -> tuple[Hashes, list[Values]]:
        for name in key:
            # Large integers that came as floats: rounded to the same number, two impressions would be one.
            refuse_rounded(chunk.batch.column(name), file=chunk.part.name, column=name, first_row=chunk.row)
        keys = [hash_column(chunk.batch.column(name)) for name in key]
        place = (chunk.part.name, chunk.row, chunk.batch)
        values = [column for numbers in compared for column in numbers.values(*place)]
        return impression_hashes(keys, first_row=chunk.first_row), values

    out = np.empty(numbers.num_rows, np.uint64)
    columns = list(dict.fromkeys([*key, *(name for number in compared for name in number.columns)]))
    chunks = read_batches(log, columns=columns, batch_rows=batch_rows)
    with Progress(numbers.num_rows, label=f"impressions of {log}") as progress:
        for chunk, (hashes, values) in map_batches(encode, chunks, num_threads=num_threads):
            out[chunk.first_row : chunk.first_row + hashes.size] = hashes
            for number, column in enumerate(values):
                numbers.write(number, chunk.first_row, column)
            progress.advance(hashes.size)
    return out
