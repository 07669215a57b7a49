"""What a log's columns hold, by one pass over the file in bounded memory."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.columns.resolve import repeated_columns
from qin.columns.types import is_datetime, is_groupable, is_list, is_number, is_string, value_type
from qin.raw.canonical import canonical_text
from qin.raw.hashing import hash_values, seed_of
from qin.raw.log import open_log, read_batches
from qin.raw.values import FIRST_ROUNDED, plain_values
from qin.runtime.errors import SchemaError
from qin.runtime.progress import Progress
from qin.setup.sketch import Hashes, ValueSketch

_BATCH_ROWS = 32768
_SAMPLE_ROWS = 20_000


@dataclass
class ColumnProfile:
    """What a column holds.

    Attributes:
        name: Of the column.
        kind: Arrow type of its values.
        num_rows: Rows of the file.
        num_nulls: Rows that are null or NaN.
        values: Sketch of its distinct values; empty for lists and structs.
        minimum: Smallest number; infinity where it has none.
        maximum: Largest number.
        is_whole: Whether all its numbers are whole.
    """

    name: str
    kind: pa.DataType
    num_rows: int = 0
    num_nulls: int = 0
    values: ValueSketch = field(default_factory=ValueSketch)
    minimum: float = np.inf
    maximum: float = -np.inf
    is_whole: bool = True

    @cached_property
    def distinct(self) -> int:
        """Distinct values, null left out; ask when the whole file is read."""
        return self.values.count()

    @property
    def is_number(self) -> bool:
        """Whether it holds numbers; booleans are none."""
        return is_number(self.kind)

    @property
    def is_text(self) -> bool:
        """Whether it holds text."""
        return is_string(self.kind)

    @property
    def is_datetime(self) -> bool:
        """Whether it holds datetimes or dates."""
        return is_datetime(self.kind)

    @property
    def is_list(self) -> bool:
        """Whether it holds lists."""
        return is_list(self.kind)

    @property
    def is_fraction(self) -> bool:
        """Whether it holds numbers that are not all whole."""
        return self.is_number and not self.is_whole

    @property
    def is_rounded(self) -> bool:
        """Whether it holds floats so large that whole numbers may have been rounded; see `refuse_rounded`."""
        if not pa.types.is_floating(self.kind) or self.maximum < self.minimum:
            return False
        return max(self.maximum, -self.minimum) >= FIRST_ROUNDED[self.kind.bit_width // 8]

    @property
    def names_rows(self) -> bool:
        """Whether (nearly) every row has a value of its own."""
        return self.num_rows > 1 and self.distinct >= 0.95 * self.num_rows

    def add(self, array: pa.Array) -> None:
        """Take in a batch of the column."""
        self.num_rows += len(array)
        if not is_groupable(array.type):
            self.num_nulls += array.null_count
            return
        hashes, is_null = hash_values(array, seed_of("setup", 0))
        self.num_nulls += int(is_null.sum())
        self.values.add(hashes[~is_null])
        if self.is_number:
            self._add_numbers(numbers_of(array))

    def _add_numbers(self, numbers: npt.NDArray[np.float64]) -> None:
        numbers = numbers[np.isfinite(numbers)]
        if numbers.size:
            self.minimum = min(self.minimum, float(numbers.min()))
            self.maximum = max(self.maximum, float(numbers.max()))
            self.is_whole = self.is_whole and bool((numbers == np.floor(numbers)).all())


@dataclass(frozen=True)
class LogProfile:
    """What a log holds.

    Attributes:
        file: The log.
        num_rows: Its rows.
        columns: Its columns by name, in order.
        sample: Rows spread evenly over it, for what is not asked of every row.
    """

    file: str
    num_rows: int
    columns: dict[str, ColumnProfile]
    sample: pa.Table

    def sample_of(self, name: str) -> pa.Array:
        """The sample's values of a column, each in its row; text as `large_string`, which every function takes."""
        array = plain_values(self.sample.column(name).combine_chunks())
        return canonical_text(array) if is_string(array.type) else array


def profile_log(file: str) -> LogProfile:
    """Read a log once.

    Raises:
        DataError: If it cannot be read, or has no rows.
        SchemaError: If two of its columns have one name.
    """
    log = open_log(file)
    if problems := repeated_columns(log.name, log.schema.names):
        raise SchemaError(*problems)
    columns = {column.name: ColumnProfile(column.name, value_type(column.type)) for column in log.schema}
    stride = -(-log.num_rows // _SAMPLE_ROWS)
    sample: list[pa.RecordBatch] = []
    with Progress(log.num_rows, label=f"profile {log}") as progress:
        for chunk in read_batches(log, columns=list(columns), batch_rows=_BATCH_ROWS):
            batch = chunk.batch
            for name, column in columns.items():
                column.add(batch.column(name))
            # Rows at equal distances through the whole log, whatever its files and batches.
            sample.append(batch.take(pa.array(np.arange(-chunk.first_row % stride, batch.num_rows, stride))))
            progress.advance(batch.num_rows)
    return LogProfile(file, log.num_rows, columns, pa.Table.from_batches(sample))


def hashes_of(array: pa.Array) -> Hashes:
    """Hashes of the values that are not null, comparable with those of a column's sketch."""
    hashes, is_null = hash_values(array, seed_of("setup", 0))
    return hashes[~is_null]


def numbers_of(array: pa.Array) -> npt.NDArray[np.float64]:
    """Numbers or flags as floats, NaN where null."""
    array = plain_values(array)
    return np.asarray(pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def texts_of(array: pa.Array, *, most_characters: int = 4_000_000) -> list[Any]:
    """Text cells that are neither null nor empty; where they are long, some of them, spread evenly."""
    cells = array.filter(pc.fill_null(pc.greater(pc.binary_length(array), 0), False))
    stride = max(1, -(-int(pc.sum(pc.binary_length(cells)).as_py() or 0) // most_characters))
    return list(cells.take(pa.array(np.arange(0, len(cells), stride))).to_pylist())
