"""What trees read of a row: numeric fields, categorical fields with few values, the last item of each sequence.

Trees find thresholds in numbers, so a category with many values says little to them by its bucket; it enters by its
statistics of the train fold, which are numeric fields of the rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.columns.buckets import PADDING_BUCKET
from qin.columns.schema import Schema
from qin.runtime.jit import njit
from qin.shards.files import Arrays, RowReader

# Of float64, as LightGBM takes them: of 150 columns 20 MB.
CHUNK_ROWS = 16384

# Buckets of a field in the train fold up to which each is a category of its own. LightGBM sorts the categories of a
# node by their gradients, which finds a good division but fits noise where each has a handful of rows.
MAX_CATEGORIES = 64

_FIRST = np.zeros(1, np.int64)

Matrix = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TreeColumns:
    """The columns of the matrix that trees read, in order: first all numeric fields, then categories.

    Attributes:
        numeric: Names of the numeric fields; all of the schema's.
        categorical: Buckets of the train fold, ascending, by categorical field that enters as a category.
        last_items: The same by sequence whose last item enters as a category.
    """

    numeric: tuple[str, ...]
    categorical: Mapping[str, tuple[int, ...]]
    last_items: Mapping[str, tuple[int, ...]]

    @classmethod
    def choose(cls, rows: RowReader, is_train: Mask) -> "TreeColumns":
        """Take every numeric field, and the categorical fields and sequences with few values in the train fold.

        Args:
            rows: Prepared train file.
            is_train: `(num_rows,)`.
        """
        schema = rows.schema
        is_used = [np.zeros(field.num_buckets, np.bool_) for field in (*schema.categorical, *schema.sequences)]
        for start, stop in row_ranges(rows.num_rows):
            kept = is_train[start:stop]
            for used, buckets in zip(is_used, _buckets(rows, start, stop), strict=True):
                used[buckets[kept]] = True
        # Without a single number, the categories are all that trees could read.
        most = MAX_CATEGORIES if schema.numeric else max(used.size for used in is_used)
        known = [tuple(np.flatnonzero(used).tolist()) for used in is_used]
        names = [field.name for field in (*schema.categorical, *schema.sequences)]
        # A single value divides nothing.
        few = {name: values for name, values in zip(names, known, strict=True) if 1 < len(values) <= most}
        return cls(
            numeric=tuple(field.name for field in schema.numeric),
            categorical={field.name: few[field.name] for field in schema.categorical if field.name in few},
            last_items={field.name: few[field.name] for field in schema.sequences if field.name in few},
        )

    @property
    def names(self) -> list[str]:
        """A name for each column of the matrix."""
        return [*self.numeric, *self.categorical, *(f"{name}.last" for name in self.last_items)]

    @property
    def category_positions(self) -> list[int]:
        """Columns of the matrix that hold categories."""
        return list(range(len(self.numeric), len(self.names)))

    def matrix(self, rows: RowReader, start: int, stop: int) -> Matrix:
        """Rows `start` to `stop` of a file as `(stop - start, num_columns)`, NaN where a number is missing."""
        groups = ["numeric", "categorical", *(f"sequence.{name}" for name in self.last_items)]
        return self.of_arrays(rows.schema, {group: rows.read(group, start, stop) for group in groups})

    def of_arrays(self, schema: Schema, arrays: Arrays) -> Matrix:
        """Rows in memory as `(num_rows, num_columns)`; a category that the train fold had not is missing.

        Args:
            schema: Of the rows.
            arrays: The groups of a prepared file, `(num_rows, width)` each; sequences that are not read may be missing.
        """
        own = arrays["numeric"]
        out = np.empty((len(own), len(self.names)))
        out[:, : own.shape[1]] = own
        at, num_fields = own.shape[1], len(self.categorical)
        position = {field.name: column for column, field in enumerate(schema.categorical)}
        columns = np.array([position[name] for name in self.categorical], np.int64)
        known, starts = self._known
        # All fields by one call: for the few rows of a request the calls themselves would be most of the time.
        _fill_codes(arrays["categorical"], columns, known, starts, out[:, at : at + num_fields])
        for number, name in enumerate(self.last_items, start=num_fields):
            last = _last_items(arrays[f"sequence.{name}"])[:, None]
            _fill_codes(last, _FIRST, known, starts[number:], out[:, at + number : at + number + 1])
        return out

    @cached_property
    def _known(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The known buckets of all categories, one after the other, and where those of each begin and end."""
        known = [*self.categorical.values(), *self.last_items.values()]
        starts = np.cumsum([0, *map(len, known)])
        return np.array([bucket for buckets in known for bucket in buckets], np.int64), starts


@njit(nogil=True)
def _fill_codes(buckets: Any, columns: Any, known: Any, starts: Any, out: Any) -> None:
    """Number of each bucket among the known ones, NaN for others: LightGBM wants categories without gaps."""
    for i in range(out.shape[0]):
        for number in range(columns.size):
            bucket = np.int64(buckets[i, columns[number]])
            values = known[starts[number] : starts[number + 1]]
            place = np.searchsorted(values, bucket)
            is_known = place < values.size and values[place] == bucket
            out[i, number] = np.float64(place) if is_known else np.nan


def row_ranges(num_rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows that cover a file, in order."""
    for start in range(0, num_rows, CHUNK_ROWS):
        yield start, min(start + CHUNK_ROWS, num_rows)


def _buckets(rows: RowReader, start: int, stop: int) -> Iterator[npt.NDArray[np.integer[Any]]]:
    """Buckets `(stop - start,)` of each categorical field, then the last item of each sequence."""
    yield from rows.read("categorical", start, stop).T
    for field in rows.schema.sequences:
        yield _last_items(rows.read(f"sequence.{field.name}", start, stop))


def _last_items(items: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
    """Last bucket that is no padding of each row of `(num_rows, seq)`, 0 where there is none."""
    is_valid = items != PADDING_BUCKET
    last = is_valid.shape[1] - 1 - np.argmax(is_valid[:, ::-1], axis=1)  # of an empty one: any, all are padding
    out: npt.NDArray[np.integer[Any]] = items[np.arange(len(items)), last]
    return out
