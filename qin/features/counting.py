"""Clicks and rows per key: of all rows, of the rows before each row, and of the rows outside each row's part.

The counts stand in an open-addressing table with linear probing, because the keys (a value's bucket, or a pair of
buckets) are too many to count in an array and come in no order: 16 bytes per slot, at most three quarters of them
used, so ten million different pairs take 268 MB. A slot is free while it has counted no row; nothing is removed. Where
keys are small numbers, as a value's buckets are, each is its own slot of 8 bytes, and there is nothing to search.
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

_ALL_PARTS = -1
_CHUNK_ROWS = 4096
_FIRST_SLOTS = 2 * _CHUNK_ROWS
_SMALL_SLOTS = 1 << 16  # that any table may have; with more rows it may have as many


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
    """The slot of a key, or the free one where it belongs; a table without `slots` is of small keys."""
    if slots.size == 0:
        return key
    last = np.uint64(slots.size - 1)  # sizes are powers of two, so this masks
    at = mix(key) & last  # keys are products of buckets: their own low bits would crowd a few slots
    while rows[at] and slots[at] != key:
        at = (at + np.uint64(1)) & last
    return at


@njit(nogil=True)
def _empty(num_small: int) -> tuple[Keys, Counts, Counts]:
    """A table of keys below `num_small`, or of any keys where that is 0."""
    num_slots = num_small if num_small else _FIRST_SLOTS
    slots = np.zeros(0 if num_small else num_slots, np.uint64)
    return slots, np.zeros(num_slots, np.uint32), np.zeros(num_slots, np.uint32)


@njit(nogil=True)
def _with_room(slots: Keys, clicks: Counts, rows: Counts, num_used: int) -> tuple[Keys, Counts, Counts]:
    """The table with room for a chunk of new keys.

    A quarter stays free: a known key takes two or three looks, and every search ends.
    """
    while slots.size and 4 * (num_used + _CHUNK_ROWS) >= 3 * slots.size:
        new_slots = np.zeros(2 * slots.size, np.uint64)
        new_clicks = np.zeros(2 * slots.size, np.uint32)
        new_rows = np.zeros(2 * slots.size, np.uint32)
        for i in range(slots.size):
            if rows[i]:
                at = _slot(new_slots, new_rows, slots[i])
                new_slots[at], new_clicks[at], new_rows[at] = slots[i], clicks[i], rows[i]
        slots, clicks, rows = new_slots, new_clicks, new_rows
    return slots, clicks, rows


@njit(nogil=True)
def _add(slots: Keys, clicks: Counts, rows: Counts, keys: Keys, label: Labels) -> int:
    """Count rows in a table that has room for them; return how many keys are new."""
    num_new = 0
    for i in range(keys.size):
        at = _slot(slots, rows, keys[i])
        if not rows[at]:
            num_new += 1
            if slots.size:
                slots[at] = keys[i]
        rows[at] += np.uint32(1)
        clicks[at] += np.uint32(label[i])
    return num_new


@njit(nogil=True)
def _fetch(keys: Keys, label: Labels, rows: Rows, out_keys: Keys, out_label: Labels) -> None:
    """Copy keys and labels of some rows.

    Rows lie anywhere in the file: fetched in one loop they are waited for together, between searches one by one.
    """
    for i in range(rows.size):
        out_keys[i], out_label[i] = keys[rows[i]], label[rows[i]]


@njit(nogil=True)
def _counted(
    keys: Keys, label: Labels, fitted: Rows, part: npt.NDArray[np.uint8], wanted: int, num_small: int
) -> tuple[Keys, Counts, Counts, int]:
    """The table of the fitted rows of one part, or of all, and how many slots it uses."""
    slots, clicks, rows = _empty(num_small)
    num_used = 0
    chunk_keys, chunk_label = np.empty(_CHUNK_ROWS, np.uint64), np.empty(_CHUNK_ROWS, np.uint8)
    for start in range(0, fitted.size, _CHUNK_ROWS):
        chunk = fitted[start : start + _CHUNK_ROWS]
        if wanted != _ALL_PARTS:
            chunk = chunk[part[chunk] == wanted]
        _fetch(keys, label, chunk, chunk_keys, chunk_label)
        slots, clicks, rows = _with_room(slots, clicks, rows, num_used)
        num_used += _add(slots, clicks, rows, chunk_keys[: chunk.size], chunk_label[: chunk.size])
    return slots, clicks, rows, num_used


@njit(nogil=True)
def _ordered(
    keys: Keys,
    label: Labels,
    learn: Rows,
    read: Rows,
    known: Rows,
    num_small: int,
    out_clicks: Counts,
    out_rows: Counts,
) -> None:
    slots, clicks, rows = _empty(num_small)
    num_used, num_learned, start = 0, 0, 0
    chunk_keys, chunk_label = np.empty(_CHUNK_ROWS, np.uint64), np.empty(_CHUNK_ROWS, np.uint8)
    while start < read.size:
        while num_learned < known[start]:  # all that is known by now, and nothing that is not
            chunk = learn[num_learned : min(num_learned + _CHUNK_ROWS, known[start])]
            _fetch(keys, label, chunk, chunk_keys, chunk_label)
            slots, clicks, rows = _with_room(slots, clicks, rows, num_used)
            num_used += _add(slots, clicks, rows, chunk_keys[: chunk.size], chunk_label[: chunk.size])
            num_learned += chunk.size
        stop = start + 1
        while stop < min(start + _CHUNK_ROWS, read.size) and known[stop] == known[start]:
            stop += 1
        chunk = read[start:stop]
        _fetch(keys, label, chunk, chunk_keys, chunk_label)
        for i in range(chunk.size):
            at = _slot(slots, rows, chunk_keys[i])
            out_clicks[chunk[i]], out_rows[chunk[i]] = clicks[at], rows[at]
        start = stop


@njit(nogil=True)
def _compressed(slots: Keys, clicks: Counts, rows: Counts, num_used: int) -> tuple[Keys, Counts, Counts]:
    keys, of_clicks, of_rows = (
        np.empty(num_used, np.uint64),
        np.empty(num_used, np.uint32),
        np.empty(num_used, np.uint32),
    )
    last = 0
    for i in range(rows.size):
        if rows[i]:
            keys[last] = slots[i] if slots.size else np.uint64(i)
            of_clicks[last], of_rows[last] = clicks[i], rows[i]
            last += 1
    return keys, of_clicks, of_rows


@njit(nogil=True)
def _subtract_part(
    keys: Keys,
    label: Labels,
    fitted: Rows,
    part: npt.NDArray[np.uint8],
    wanted: int,
    num_small: int,
    out_clicks: Counts,
    out_rows: Counts,
) -> None:
    """Take the counts of a part's rows from those that its rows were given."""
    slots, clicks, rows, _ = _counted(keys, label, fitted, part, wanted, num_small)
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
    nothing = np.zeros(0, np.uint8)
    slots, clicks, rows, num_used = _counted(keys, label, fitted, nothing, _ALL_PARTS, _num_small(keys))
    distinct, of_clicks, of_rows = _compressed(slots, clicks, rows, num_used)
    if not slots.size:
        return distinct, KeyCounts(of_clicks, of_rows)
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
    _ordered(keys, label, learn, read, known, _num_small(keys), *out)
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
    num_small = _num_small(keys)
    slots, clicks, rows, _ = _counted(keys, label, fitted, part, _ALL_PARTS, num_small)
    _give_totals(keys, fitted, slots, clicks, rows, *out)
    del slots, clicks, rows  # before the parts' own tables
    # Unsigned, and never below 0: what a part takes away is among the totals.
    for number in range(num_parts):
        _subtract_part(keys, label, fitted, part, number, num_small, *out)
    return out


def _num_small(keys: Keys) -> int:
    """Slots of a table in which each key is its own slot; 0 where that would be much larger than a table of slots."""
    num_slots = int(keys.max(initial=0)) + 1
    return num_slots if num_slots <= max(_SMALL_SLOTS, keys.size) else 0
