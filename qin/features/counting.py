"""Clicks and rows per key: of all rows, of the rows before each row, and of the rows outside each row's part.

The counts stand in an open-addressing table with linear probing, because the keys (a value's bucket, or a pair of
buckets) are too many to count in an array and come in no order: 16 bytes per slot, at most three quarters of them
used, so ten million different pairs take 268 MB. A slot is free while it has counted no row; nothing is removed.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qin.runtime.jit import njit
from qin.runtime.seeds import mix

Keys = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.int64]
Labels = npt.NDArray[np.uint8]

_FIRST_SLOTS = 1024
_ALL_PARTS = -1


class KeyCounts(NamedTuple):
    """Counts per row, or per slot of a table.

    Attributes:
        clicks: `(n,)`.
        rows: `(n,)`.
    """

    clicks: Counts
    rows: Counts


@njit(nogil=True, inline="always")
def _slot(slots: Keys, rows: Counts, key: np.uint64) -> np.uint64:
    """The slot of a key, or the free one where it belongs."""
    last = np.uint64(slots.size - 1)  # sizes are powers of two, so this masks
    at = mix(key) & last  # keys are products of buckets: their own low bits would crowd a few slots
    while rows[at] and slots[at] != key:
        at = (at + np.uint64(1)) & last
    return at


@njit(nogil=True)
def _grown(slots: Keys, clicks: Counts, rows: Counts) -> tuple[Keys, Counts, Counts]:
    """The same table with twice the slots."""
    new_slots = np.zeros(2 * slots.size, np.uint64)
    new_clicks = np.zeros(2 * slots.size, np.uint32)
    new_rows = np.zeros(2 * slots.size, np.uint32)
    for i in range(slots.size):
        if rows[i]:
            at = _slot(new_slots, new_rows, slots[i])
            new_slots[at], new_clicks[at], new_rows[at] = slots[i], clicks[i], rows[i]
    return new_slots, new_clicks, new_rows


@njit(nogil=True)
def _counted(
    keys: Keys, label: Labels, fitted: Rows, part: npt.NDArray[np.uint8], wanted: int
) -> tuple[Keys, Counts, Counts, int]:
    """The table of the fitted rows of one part, or of all, and how many slots it uses."""
    slots = np.zeros(_FIRST_SLOTS, np.uint64)
    clicks, rows = np.zeros(_FIRST_SLOTS, np.uint32), np.zeros(_FIRST_SLOTS, np.uint32)
    num_used = 0
    for row in fitted:  # a quarter stays free: a known key takes two or three looks, and every search ends
        if wanted != _ALL_PARTS and part[row] != wanted:
            continue
        if 4 * num_used >= 3 * slots.size:
            slots, clicks, rows = _grown(slots, clicks, rows)
        at = _slot(slots, rows, keys[row])
        if not rows[at]:
            slots[at] = keys[row]
            num_used += 1
        rows[at] += np.uint32(1)
        clicks[at] += np.uint32(label[row])
    return slots, clicks, rows, num_used


@njit(nogil=True)
def _ordered(
    keys: Keys, label: Labels, learn: Rows, read: Rows, known: Rows, out_clicks: Counts, out_rows: Counts
) -> None:
    slots = np.zeros(_FIRST_SLOTS, np.uint64)
    clicks, rows = np.zeros(_FIRST_SLOTS, np.uint32), np.zeros(_FIRST_SLOTS, np.uint32)
    num_used, num_learned = 0, 0
    for i in range(read.size):
        while num_learned < known[i]:  # all that is known by now, and nothing that is not
            row = learn[num_learned]
            num_learned += 1
            if 4 * num_used >= 3 * slots.size:
                slots, clicks, rows = _grown(slots, clicks, rows)
            at = _slot(slots, rows, keys[row])
            if not rows[at]:
                slots[at] = keys[row]
                num_used += 1
            rows[at] += np.uint32(1)
            clicks[at] += np.uint32(label[row])
        row = read[i]
        at = _slot(slots, rows, keys[row])
        out_clicks[row], out_rows[row] = clicks[at], rows[at]


@njit(nogil=True)
def _compressed(slots: Keys, clicks: Counts, rows: Counts, num_used: int) -> tuple[Keys, Counts, Counts]:
    keys, of_clicks, of_rows = (
        np.empty(num_used, np.uint64),
        np.empty(num_used, np.uint32),
        np.empty(num_used, np.uint32),
    )
    last = 0
    for i in range(slots.size):
        if rows[i]:
            keys[last], of_clicks[last], of_rows[last] = slots[i], clicks[i], rows[i]
            last += 1
    return keys, of_clicks, of_rows


@njit(nogil=True)
def _subtract_part(
    keys: Keys,
    label: Labels,
    fitted: Rows,
    part: npt.NDArray[np.uint8],
    wanted: int,
    out_clicks: Counts,
    out_rows: Counts,
) -> None:
    """Take the counts of a part's rows from those that its rows were given."""
    slots, clicks, rows, _ = _counted(keys, label, fitted, part, wanted)
    for row in fitted:
        if part[row] == wanted:
            at = _slot(slots, rows, keys[row])
            out_clicks[row] -= clicks[at]
            out_rows[row] -= rows[at]


@njit(nogil=True)
def _give_totals(
    keys: Keys, fitted: Rows, slots: Keys, clicks: Counts, rows: Counts, out_clicks: Counts, out_rows: Counts
) -> None:
    for row in fitted:
        at = _slot(slots, rows, keys[row])
        out_clicks[row], out_rows[row] = clicks[at], rows[at]


def count_keys(keys: Keys, label: Labels, fitted: Rows) -> tuple[Keys, KeyCounts]:
    """Count clicks and rows of each key.

    Args:
        keys: Of each row of the file, `(num_rows,)`.
        label: `(num_rows,)`.
        fitted: Numbers of the rows to count, `(n,)`.

    Returns:
        The distinct keys, ascending, and their counts.
    """
    slots, clicks, rows, num_used = _counted(keys, label, fitted, np.zeros(0, np.uint8), _ALL_PARTS)
    distinct, of_clicks, of_rows = _compressed(slots, clicks, rows, num_used)
    # Ascending, whatever slots the keys took, because tables are searched by bisection.
    order = np.argsort(distinct)
    return distinct[order], KeyCounts(of_clicks[order], of_rows[order])


def ordered_counts(keys: Keys, label: Labels, *, learn: Rows, read: Rows, known: Rows) -> KeyCounts:
    """Counts of each row's key among the rows that were known when the row was shown.

    Args:
        keys: Of each row of the file, `(num_rows,)`.
        label: `(num_rows,)`.
        learn: Numbers of the fitted rows in the order in which their clicks become known, `(n,)`.
        read: Numbers of the fitted rows in the order in which they are shown, `(n,)`.
        known: How many of `learn` were known when `read[i]` was shown, not falling, `(n,)`.

    Returns:
        `(num_rows,)` each, 0 where a row is not fitted.
    """
    out = KeyCounts(np.zeros(keys.size, np.uint32), np.zeros(keys.size, np.uint32))
    _ordered(keys, label, learn, read, known, *out)
    return out


def out_of_part_counts(
    keys: Keys, label: Labels, fitted: Rows, *, part: npt.NDArray[np.uint8], num_parts: int
) -> KeyCounts:
    """Counts of each row's key among the fitted rows of the other parts.

    Args:
        keys: Of each row of the file, `(num_rows,)`.
        label: `(num_rows,)`.
        fitted: Numbers of the fitted rows, `(n,)`.
        part: Of each row of the file, below `num_parts`, `(num_rows,)`.
        num_parts: How many there are.

    Returns:
        `(num_rows,)` each, 0 where a row is not fitted.
    """
    out = KeyCounts(np.zeros(keys.size, np.uint32), np.zeros(keys.size, np.uint32))
    # All minus the own part, rather than a table of the other parts for each part: two passes, whatever their number.
    slots, clicks, rows, _ = _counted(keys, label, fitted, part, _ALL_PARTS)
    _give_totals(keys, fitted, slots, clicks, rows, *out)
    del slots, clicks, rows  # before the parts' own tables
    # Unsigned, and never below 0: what a part takes away is among the totals.
    for number in range(num_parts):
        _subtract_part(keys, label, fitted, part, number, *out)
    return out
