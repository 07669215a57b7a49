"""Where a row stands in its group: its size, a number's rank and distance from the mean, or from a first row's number.

Groups lie anywhere in the file, so rows are brought into the order of their groups once, and each column is then
computed group by group in that order. Within a group values are sorted first and summed in that order, so the results
depend neither on where the rows stand nor on how the file was read.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qin.runtime.jit import njit

Values = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_FEW = 32  # values that are sorted fastest by insertion


class Groups(NamedTuple):
    """Rows in groups.

    Attributes:
        order: Row numbers, those of a group side by side and ascending, `(num_rows,)`.
        bounds: Where in `order` each group begins, and at last where the last ends, `(num_groups + 1,)`.
    """

    order: Rows
    bounds: Rows


class Ranked(NamedTuple):
    """A column within its groups, NaN where its value is; `(num_rows,)` each.

    Attributes:
        rank: Share of the group's other values that are smaller, ties by half; 0.5 for a value alone.
        relative: Difference from the group's mean, in its standard deviations; 0 where all are equal.
    """

    rank: Values
    relative: Values


@njit(nogil=True)
def _bounds(keys: npt.NDArray[np.uint64], order: Rows) -> Rows:
    num_groups = 0
    for i in range(order.size):
        num_groups += i == 0 or keys[order[i]] != keys[order[i - 1]]
    out = np.empty(num_groups + 1, np.int64)
    group = 0
    for i in range(order.size):
        if i == 0 or keys[order[i]] != keys[order[i - 1]]:
            out[group] = i
            group += 1
    out[num_groups] = order.size
    return out


@njit(nogil=True)
def _fill_sizes(order: Rows, bounds: Rows, out: Values) -> None:
    for group in range(bounds.size - 1):
        for i in range(bounds[group], bounds[group + 1]):
            out[order[i]] = np.float32(bounds[group + 1] - bounds[group])


@njit(nogil=True)
def _fill_firsts(order: Rows, bounds: Rows, time: npt.NDArray[np.generic], out: npt.NDArray[np.generic]) -> None:
    for group in range(bounds.size - 1):
        first = time[order[bounds[group]]]
        for i in range(bounds[group] + 1, bounds[group + 1]):
            first = min(first, time[order[i]])
        for i in range(bounds[group], bounds[group + 1]):
            out[order[i]] = first


@njit(nogil=True)
def _sort(values: npt.NDArray[np.float64], rows: Rows) -> None:
    """Sort values with their rows; groups are mostly a handful, for which insertion beats everything."""
    if values.size > _FEW:
        # Not stable, nor need it be: equal values get equal results.
        order = np.argsort(values)
        values[:] = values[order]
        rows[:] = rows[order]
        return
    for i in range(1, values.size):
        value, row, at = values[i], rows[i], i
        while at > 0 and values[at - 1] > value:
            values[at], rows[at] = values[at - 1], rows[at - 1]
            at -= 1
        values[at], rows[at] = value, row


@njit(nogil=True)
def _fill_group(values: npt.NDArray[np.float64], rows: Rows, rank: Values, relative: Values) -> None:
    """Rank sorted values that are not missing, and give their distance from the mean."""
    size = values.size
    # Two passes: the mean of squares minus the square of the mean would lose all digits where values are large.
    mean = values.sum() / size
    # In float64, in which the square of no float32 overflows or vanishes: it is 0 only where all values are equal.
    deviation = np.sqrt(np.square(values - mean).sum() / size)
    start = 0
    while start < size:
        stop = start + 1
        while stop < size and values[stop] == values[start]:
            stop += 1
        # Smaller ones count whole, and of the equal ones all but the row itself by half.
        place = (start + 0.5 * (stop - start - 1)) / (size - 1) if size > 1 else 0.5
        is_constant = stop - start == size
        distance = 0.0 if is_constant else (values[start] - mean) / deviation
        for i in range(start, stop):
            rank[rows[i]], relative[rows[i]] = np.float32(place), np.float32(distance)
        start = stop


@njit(nogil=True)
def _fill_ranks(order: Rows, bounds: Rows, column: Values, largest: int, rank: Values, relative: Values) -> None:
    values, rows = np.empty(largest, np.float64), np.empty(largest, np.int64)
    for group in range(bounds.size - 1):
        num_values = 0
        for i in range(bounds[group], bounds[group + 1]):
            row = order[i]
            if np.isnan(column[row]):
                rank[row], relative[row] = np.float32(np.nan), np.float32(np.nan)
            else:
                values[num_values], rows[num_values] = column[row], row
                num_values += 1
        if num_values:
            _sort(values[:num_values], rows[:num_values])
            _fill_group(values[:num_values], rows[:num_values], rank, relative)


@njit(nogil=True)
def _fill_differences(order: Rows, bounds: Rows, by: Values, column: Values, out: Values) -> None:
    for group in range(bounds.size - 1):
        first, value = np.float32(np.inf), np.float32(np.nan)
        for i in range(bounds[group], bounds[group + 1]):
            row = order[i]
            if np.isnan(by[row]) or np.isnan(column[row]):
                continue
            # Of several first rows the smallest value counts, so that the order of rows does not.
            if by[row] < first or (by[row] == first and column[row] < value):
                first, value = by[row], column[row]
        for i in range(bounds[group], bounds[group + 1]):
            out[order[i]] = column[order[i]] - value


def group_rows(keys: npt.NDArray[np.uint64]) -> Groups:
    """Bring rows of equal keys together.

    Args:
        keys: Of each row, `(num_rows,)`.
    """
    # Stable, as rows of a group are promised to ascend.
    order = np.argsort(keys, kind="stable")
    return Groups(order, _bounds(keys, order))


def sizes(groups: Groups) -> Values:
    """How many rows each row's group has, `(num_rows,)`."""
    out = np.empty(groups.order.size, np.float32)
    _fill_sizes(*groups, out)
    return out


def first_times(groups: Groups, time: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """The first time of each row's group, `(num_rows,)`, of the type of `time (num_rows,)`."""
    out = np.empty_like(time)
    _fill_firsts(*groups, time, out)
    return out


def rank_within(groups: Groups, column: Values) -> Ranked:
    """Rank a column `(num_rows,)` within the groups; missing values (NaN) are not ranked and count for nothing."""
    out = Ranked(np.empty(column.size, np.float32), np.empty(column.size, np.float32))
    largest = int(np.diff(groups.bounds).max(initial=0))
    _fill_ranks(*groups, column, largest, *out)
    return out


def difference_from_first(groups: Groups, by: Values, column: Values) -> Values:
    """How much larger a number is than that of the group's row with the smallest `by`, `(num_rows,)`.

    NaN where the row has no number, and in groups in which no row has both.

    Args:
        groups: The groups.
        by: What puts a row first, `(num_rows,)`; a row without it (NaN) is not first.
        column: The number, `(num_rows,)`; a row without it is not first either.
    """
    out = np.empty(column.size, np.float32)
    _fill_differences(*groups, by, column, out)
    return out
