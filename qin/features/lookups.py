"""Fitted statistics looked up by the buckets of rows: all that count values in one pass, which few rows pay once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qin.columns.counted import COSINES
from qin.features.cosines import CosineTable
from qin.features.counting import Keys
from qin.features.histories import HistoryPair
from qin.features.rates import Values, position_of
from qin.runtime.jit import njit

_Numbers = npt.NDArray[np.int64]
_Buckets = npt.NDArray[Any]


class ValueLookup(NamedTuple):
    """A statistic by the value of one or two categorical fields.

    Attributes:
        columns: Of the fields among the categorical ones.
        num_buckets: Of each.
        keys: Distinct keys, ascending, `(num_keys,)`.
        values: Of each measure, those of the keys and that of no key, `(num_keys + 1,)`.
    """

    columns: Sequence[int]
    num_buckets: Sequence[int]
    keys: Keys
    values: Sequence[Values]


class HistoryLookup(NamedTuple):
    """A statistic by value and history.

    Attributes:
        pair: The history and the field.
        rates: Of each slot.
    """

    pair: HistoryPair
    rates: Values

    @property
    def num_measures(self) -> int:
        """How many columns it fills."""
        return 1

    def fill(self, arrays: Mapping[str, _Buckets], out: Values) -> None:
        """Fill `out (n, 1)` by the groups of a prepared file."""
        out[:, 0] = self.pair.mean_rates(arrays, self.rates)


class CosineLookup(NamedTuple):
    """How near a value is to a history.

    Attributes:
        pair: The history and the field.
        table: What histories hold together.
        measures: Those of `COSINES` that are used.
    """

    pair: HistoryPair
    table: CosineTable
    measures: tuple[str, ...]

    @property
    def num_measures(self) -> int:
        """How many columns it fills."""
        return len(self.measures)

    @property
    def columns(self) -> list[int]:
        """The places of its measures among all."""
        return [COSINES.index(name) for name in self.measures]

    def fill(self, arrays: Mapping[str, _Buckets], out: Values) -> None:
        """Fill `out (n, num_measures)` by the groups of a prepared file."""
        out[:] = self.table.measures(arrays, self.pair)[:, self.columns]


Lookup = ValueLookup | HistoryLookup | CosineLookup


class _Tables(NamedTuple):
    """Statistics by value, side by side.

    Attributes:
        fields: Columns of the one or two fields of each, the second -1 where there is none, `(num_statistics, 2)`.
        num_buckets: Of the second field, `(num_statistics,)`.
        key_start: Where the keys of each begin, and at last where they end, `(num_statistics + 1,)`.
        keys: Of all.
        out_start: Where the measures of each begin among all, and at last where they end, `(num_statistics + 1,)`.
        value_start: Where the values of each measure begin, and at last where they end, `(num_measures + 1,)`.
        values: Of all.
        out: The column to fill by each measure, `(num_measures,)`.
    """

    fields: _Numbers
    num_buckets: npt.NDArray[np.uint64]
    key_start: _Numbers
    keys: Keys
    out_start: _Numbers
    value_start: _Numbers
    values: Values
    out: _Numbers


@njit(nogil=True)
def _fill(buckets: _Buckets, tables: _Tables, out: Values) -> None:
    for statistic in range(tables.num_buckets.size):
        first, second = tables.fields[statistic]
        # Statistic by statistic over all rows, so that the keys of one stay in the cache while they are searched.
        keys = tables.keys[tables.key_start[statistic] : tables.key_start[statistic + 1]]
        for i in range(buckets.shape[0]):
            key = np.uint64(buckets[i, first])
            if second >= 0:
                key = key * tables.num_buckets[statistic] + np.uint64(buckets[i, second])
            position = position_of(keys, key)
            position = keys.size if position < 0 else position
            for measure in range(tables.out_start[statistic], tables.out_start[statistic + 1]):
                out[i, tables.out[measure]] = tables.values[tables.value_start[measure] + position]


class Lookups:
    """Fills the measures of statistics for rows.

    Args:
        statistics: In the order of their measures; each is let go before the next one is asked for.
        num_keys: Of all that are by value.
        num_values: Of all their measures.
    """

    def __init__(self, statistics: Iterable[Lookup], *, num_keys: int, num_values: int) -> None:
        self._histories: list[tuple[int, HistoryLookup | CosineLookup]] = []
        tables = _Joining(np.empty(num_keys, np.uint64), np.empty(num_values, np.float32))
        column = 0
        for statistic in statistics:
            if isinstance(statistic, ValueLookup):
                tables.add(statistic, column)
                column += len(statistic.values)
            else:
                self._histories.append((column, statistic))
                column += statistic.num_measures
        self._tables = tables.joined() if tables.fields else None

    def fill(self, arrays: Mapping[str, _Buckets], out: Values) -> None:
        """Fill `out (n, num_measures)` by the groups of a prepared file, `(n, width)` each."""
        if self._tables is not None:
            _fill(arrays["categorical"], self._tables, out)
        for column, lookup in self._histories:
            lookup.fill(arrays, out[:, column : column + lookup.num_measures])


@dataclass
class _Joining:
    """`_Tables` while statistics are added."""

    keys: Keys
    values: Values
    fields: list[list[int]] = field(default_factory=list)
    num_buckets: list[int] = field(default_factory=list)
    key_start: list[int] = field(default_factory=lambda: [0])
    out_start: list[int] = field(default_factory=lambda: [0])
    value_start: list[int] = field(default_factory=lambda: [0])
    out: list[int] = field(default_factory=list)

    def add(self, lookup: ValueLookup, column: int) -> None:
        self.fields.append([*lookup.columns, -1][:2])
        self.num_buckets.append(lookup.num_buckets[-1])
        _append(self.keys, self.key_start, lookup.keys)
        for number, values in enumerate(lookup.values):
            _append(self.values, self.value_start, values)
            self.out.append(column + number)
        self.out_start.append(len(self.out))

    def joined(self) -> _Tables:
        numbers = (np.array(part, np.int64) for part in (self.fields, self.key_start, self.out_start))
        fields, key_start, out_start = numbers
        num_buckets, value_start = np.array(self.num_buckets, np.uint64), np.array(self.value_start, np.int64)
        out = np.array(self.out, np.int64)
        return _Tables(fields, num_buckets, key_start, self.keys, out_start, value_start, self.values, out)


def _append(to: npt.NDArray[Any], starts: list[int], part: npt.NDArray[Any]) -> None:
    to[starts[-1] : starts[-1] + part.size] = part
    starts.append(starts[-1] + part.size)
