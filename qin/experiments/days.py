"""A log divided into days: a Parquet file each, so that a walk forward reads what it needs and no row twice."""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qin.raw.canonical import shown
from qin.raw.log import RawLog, open_log, read_batches
from qin.raw.times import MICROSECONDS, TimeColumn
from qin.runtime.errors import DataError, SchemaError, did_you_mean
from qin.runtime.files import atomic_file, csv_text
from qin.runtime.progress import Progress
from qin.runtime.sources import Source
from qin.shards.ids import texts_of_ids

DAY = 86_400 * MICROSECONDS
MOST_DAYS = 1000  # files are written to side by side

_EPOCH = dt.date(1970, 1, 1)
_FIRST, _LAST = (dt.date.min - _EPOCH).days, (dt.date.max - _EPOCH).days

_BATCH_ROWS = 65536
_GROUP_ROWS = 131072  # of a file
_HELD_ROWS = 1 << 20  # of all files


@dataclass(frozen=True)
class Day:
    """One day of a log.

    Attributes:
        name: Such as `2022-05-04`.
        start: Its first moment, as `split.time_val_start` takes it.
        file: Its rows, in the log's order.
        num_rows: How many.
    """

    name: str
    start: str
    file: Path
    num_rows: int


def divide(source: Source, column: str, folder: Path) -> list[Day]:
    """Write the rows of each day to a file of its own; days are UTC's, or by a clock without a zone its own.

    Args:
        source: The log.
        column: Of its time.
        folder: Existing empty folder.

    Raises:
        SchemaError: If there is no such column, or it does not tell moments.
        DataError: If a time is missing or is of no year that has a name, or there are more than a thousand days.
    """
    log = open_log(source)
    if column not in log.schema.names:
        raise SchemaError(f"{log}: split.time_col: no column {column}{did_you_mean(column, log.schema.names)}")
    time = TimeColumn.of(log, column)
    if not time.is_moment:
        raise SchemaError(f"{log}: column {column}: {time.form}; days need datetimes, dates or ISO text")
    counts: dict[int, int] = defaultdict(int)
    with _Files(folder, log.schema) as files, Progress(log.num_rows, label=f"days of {log}") as progress:
        for day, rows in _by_day(log, time):
            counts[day] += rows.num_rows
            files.append(_name(day), rows)
            progress.advance(rows.num_rows)
    return [
        Day(_name(day), str(time.show(day * DAY)), folder / f"{_name(day)}.parquet", counts[day])
        for day in sorted(counts)
    ]


def _by_day(log: RawLog, time: TimeColumn) -> Iterator[tuple[int, pa.RecordBatch]]:
    days: set[int] = set()
    for chunk in read_batches(log, columns=log.schema.names, batch_rows=_BATCH_ROWS):
        moments = replace(time, file=chunk.part.name).values(chunk.batch.column(time.name), first_row=chunk.row)
        number = moments // DAY
        is_named = (number >= _FIRST) & (number <= _LAST)
        if not is_named.all():
            row = int(np.argmin(is_named))
            raise DataError(
                f"{chunk.part.name}: column {time.name}, row {chunk.row + row}: not a day of the years 1 to 9999: "
                f"{shown(chunk.batch.column(time.name), row)}"
            )
        for day in np.unique(number).tolist():
            days.add(day)
            if len(days) > MOST_DAYS:
                raise DataError(f"{log}: column {time.name}: more than {MOST_DAYS} days")
            yield day, chunk.batch.filter(pa.array(number == day))


def _name(day: int) -> str:
    return (_EPOCH + dt.timedelta(days=day)).isoformat()


def _place(day: Day, column: str, first: int, row: int) -> str:
    """Where an id is, as messages say it."""
    return f"{day.file}: column {column}, row {first + row}"


class _Files:
    """Parquet files that are written side by side; memory is bounded by the rows that all hold together."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder, self._schema = folder, schema
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._held: dict[str, list[pa.RecordBatch]] = defaultdict(list)
        self._num_held = 0

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for name in list(self._held):
            self._flush(name)
        for writer in self._writers.values():
            writer.close()

    def append(self, name: str, rows: pa.RecordBatch) -> None:
        """Add rows to a file."""
        self._held[name].append(rows)
        self._num_held += rows.num_rows
        if sum(part.num_rows for part in self._held[name]) >= _GROUP_ROWS:
            self._flush(name)
        # Of all files together: a log whose days are mixed would hold a group of each of them. The fullest is written
        # first.
        while self._num_held > _HELD_ROWS:
            self._flush(max(self._held, key=lambda one: sum(part.num_rows for part in self._held[one])))

    def _flush(self, name: str) -> None:
        rows = pa.Table.from_batches(self._held.pop(name), self._schema)
        if name not in self._writers:
            self._writers[name] = pq.ParquetWriter(self._folder / f"{name}.parquet", self._schema)
        self._writers[name].write_table(rows)
        self._num_held -= rows.num_rows


def write_unlabelled(day: Day, *, label: str, key: str, folder: Path) -> tuple[Path, Path]:
    """A day as rows to predict: without its label, with ids, and the sample submission that asks for them in order.

    Args:
        day: The day.
        label: Column of the label.
        key: Column of the id; row numbers, where the log has none.
        folder: Existing folder.
    """
    rows, sample = folder / "test.parquet", folder / "sample_submission.csv"
    with pq.ParquetFile(day.file) as file:
        kept = file.schema_arrow.remove(file.schema_arrow.get_field_index(label))
        has_id = key in kept.names
        written = kept if has_id else kept.append(pa.field(key, pa.int64()))
        first = 0
        with (
            atomic_file(rows) as staging,
            atomic_file(sample) as listed,
            pq.ParquetWriter(staging, written) as writer,
            listed.open("w", encoding="utf-8", newline="") as lines,
        ):
            lines.write(csv_text([(key, "probability")]))
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                unlabelled = batch.select(kept.names)
                if not has_id:
                    ids = pa.array(np.arange(first, first + batch.num_rows))
                    unlabelled = pa.RecordBatch.from_arrays([*unlabelled.columns, ids], schema=written)
                writer.write_batch(unlabelled)
                texts = texts_of_ids(unlabelled.column(key), at=partial(_place, day, key, first))
                lines.write(csv_text((value or "", "0") for value in texts.to_pylist()))
                first += batch.num_rows
    return rows, sample
