"""The split by time: the latest rows validate, as a pure function of times."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.config import SplitParams
from qin.raw.hashing import Hashes
from qin.raw.times import MICROSECONDS, TimeColumn
from qin.runtime.files import Exact
from qin.runtime.progress import log
from qin.shards.folds import EXCLUDED, TRAIN, VALIDATION, Assignment
from qin.split.columns import Mask, SplitColumns
from qin.split.overlap import is_in


def by_time(
    time: npt.NDArray[np.int64] | npt.NDArray[np.float64],
    *,
    val_ratio: float,
    start: float | int | None,
    embargo: float,
    session_hash: Hashes | None,
    drop_crossing: bool,
) -> Assignment:
    """Validate on the latest rows; rows of one time are never divided.

    1. From the boundary on, rows validate.
    2. Rows just before it are left out, as far as the embargo reaches.
    3. Sessions that lie on both sides are counted, and their validation rows left out where that is wanted.

    Args:
        time: `(num_rows,)`.
        val_ratio: Wanted share of rows in validation; the boundary whose share is nearest is chosen.
        start: First time of validation, or None to choose it.
        embargo: Train rows this close before the boundary are excluded, in the unit of `time`.
        session_hash: `(num_rows,)`, to count the sessions with rows on both sides, or None.
        drop_crossing: Whether to exclude such sessions' validation rows.

    Raises:
        ValueError: If no boundary leaves rows on both sides.
    """
    boundary = boundary_of(time, val_ratio) if start is None else start
    first, latest = boundary, boundary - embargo
    if time.dtype.kind == "i":  # compared as integers: 64-bit floats would confuse neighbours beyond 2^53
        first, latest = math.ceil(boundary), math.floor(Fraction(boundary) - Fraction(embargo))
    is_val = time >= first
    fold = is_val.astype(np.uint8)
    fold[~is_val & (time > latest)] = EXCLUDED
    details: dict[str, Any] = {}
    if session_hash is not None:
        is_crossing = fold == VALIDATION
        # Against what trains alone: a session whose early rows lie in the embargo has told the model nothing.
        is_crossing[is_crossing] = is_in(session_hash[is_crossing], session_hash[fold == TRAIN])
        details["num_crossing_sessions"] = int(np.unique(session_hash[is_crossing]).size)
        if drop_crossing:
            fold[is_crossing] = EXCLUDED
    if not (fold == TRAIN).any() or not (fold == VALIDATION).any():
        raise ValueError(f"the boundary {boundary} leaves no row on one side of it")
    return Assignment(fold, {}, {"boundary": boundary, **details})


def boundary_of(time: npt.NDArray[Any], val_ratio: float) -> Any:
    """The time from which on the share of rows is nearest `val_ratio`.

    Raises:
        ValueError: If all times are equal.
    """
    times, counts = np.unique(time, return_counts=True)
    if times.size < 2:
        raise ValueError(f"all rows have the same time {times[0]}")
    # Without the first time, from which on everything would validate.
    share = np.cumsum(counts[::-1])[::-1][1:] / time.size
    return times[1:][int(np.argmin(np.abs(share - val_ratio)))].item()


def assign_by_time(columns: SplitColumns, split: SplitParams) -> Assignment:
    """Divide all rows as the settings have it; see `time_assignment`."""
    assert columns.time_column is not None, "config demands time_col for the time method"
    start = None if split.time_val_start is None else _start(split.time_val_start, columns.time_column)
    return time_assignment(columns, split, start=start)


def time_assignment(
    columns: SplitColumns, split: SplitParams, *, start: float | int | None, rows: Mask | None = None
) -> Assignment:
    """Divide rows by time as the settings have it.

    Args:
        columns: With times.
        split: Section split.
        start: First time of validation, or None to choose it.
        rows: Which rows to divide, `(num_rows,)`; the others are excluded. None: all.

    Raises:
        ValueError: See `by_time`.
    """
    assert columns.moment is not None, "config demands time_col for the time method"
    assert columns.time_column is not None
    column, session, every = columns.time_column, columns.keys.get("session"), slice(None) if rows is None else rows
    assignment = by_time(
        columns.moment[every],
        val_ratio=split.time_val_ratio,
        start=start,
        embargo=round(split.time_embargo * MICROSECONDS) if column.is_moment else split.time_embargo,
        session_hash=None if session is None else session[every],
        drop_crossing=split.cross_boundary_sessions == "drop",
    )
    boundary = column.show(assignment.details["boundary"])
    # With every digit, so that it can be given back as `time_val_start`.
    shown = Exact(boundary) if isinstance(boundary, float) else boundary
    fold = assignment.fold
    if rows is not None:
        fold = np.full(rows.size, EXCLUDED, np.uint8)
        fold[rows] = assignment.fold
    return replace(assignment, fold=fold, details={**assignment.details, "boundary": shown})


def _start(text: str | float, column: TimeColumn) -> float | int:
    """The first time of validation in the column's numbers; says which zone it was read in."""
    start = column.parse(text)
    if column.is_moment:
        clock = f"zone {column.zone}" if column.zone else "own clock, which has no zone"
        log.info("split.time_val_start %s: %s by column %s's %s", text, column.show(start), column.name, clock)
    return start
