"""Cross-validation: the rows divided in several folds, each of which validates what is trained on others.

Drawn folds validate every row exactly once, and what a method keeps whole lies in one of them. Folds of time walk
forward: each validates the stretch after all that its model has seen, as the rows to predict will be.

Source: Stone (1974), Cross-validatory choice and assessment of statistical predictions; Tashman (2000), Out-of-sample
tests of forecasting accuracy (rolling origin, expanding window).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qin.config import SplitParams
from qin.raw.hashing import Hashes
from qin.runtime.errors import ConfigError, DataError
from qin.shards.folds import TRAIN, VALIDATION, Assignment
from qin.split.columns import Mask, SplitColumns
from qin.split.methods import (
    CHUNK_ROWS,
    LARGE_GROUP_SHARE,
    METHODS,
    POSITION_SHIFT,
    assign_folds,
    check_classes,
    groups_of,
)
from qin.split.timed import boundary_of, time_assignment

Numbers = npt.NDArray[np.uint8]

_WAY_OUT = "set a smaller split.num_folds or another split.seed"
_WAY_OUT_OF_TIME = "set a smaller split.num_folds or another split.time_val_ratio"


def divide(columns: SplitColumns, split: SplitParams, *, file: str) -> list[Assignment]:
    """The folds of each of `split.num_folds` models; of one model as `assign_folds` has them.

    Raises:
        ConfigError: If the settings do not fit the rows.
        DataError: If a model's train or validation fold would be empty or hold one class only.
    """
    if split.num_folds == 1:
        return [assign_folds(columns, split, file=file)]
    try:
        assignments = DIVISIONS[split.method](columns, split)
    except ValueError as error:
        raise ConfigError(f"params.yaml: split: {error}") from error
    way_out = _WAY_OUT_OF_TIME if METHODS[split.method].in_order else _WAY_OUT
    for number, assignment in enumerate(assignments, start=1):
        of = f"fold {number} of {split.num_folds}: "
        check_classes(columns, assignment, split, file=file, way_out=way_out, of=of)
    return assignments


def check_cover(assignments: Sequence[Assignment], *, method: str, file: str) -> None:
    """Check that no row is judged twice, and of drawn folds that every row is judged.

    Raises:
        DataError: If that does not hold.
    """
    times = np.zeros(assignments[0].fold.size, np.uint8)  # of at most 100 folds
    for assignment in assignments:
        times += assignment.fold == VALIDATION
    least = 0 if METHODS[method].in_order else 1
    if len(assignments) > 1 and (times.max() > 1 or times.min() < least):
        raise DataError(
            f"{file}: split.method {method}: {int((times > 1).sum())} rows are in the validation folds of several "
            f"models, {int((times < least).sum())} in none; must be 0"
        )


def stratified_folds(label: npt.NDArray[np.uint8], row_hash: Hashes, *, num_folds: int) -> Numbers:
    """The same share of each class in each fold, exact to one row; rows with equal hashes stay together.

    Args:
        label: `(num_rows,)`, 0 or 1; of several labels a bit each.
        row_hash: `(num_rows,)`, a seeded hash of what identifies each row.
        num_folds: How many.

    Returns:
        The fold that validates each row, from 0 on, `(num_rows,)`.
    """
    position = row_hash >> POSITION_SHIFT
    number = np.zeros(label.size, np.uint8)
    for value in np.unique(label):
        is_class = label == value
        number[is_class] = _equal_parts(position[is_class], num_folds)
    return number


class GroupedFolds(NamedTuple):
    """Whole groups in folds.

    Attributes:
        number: The fold that validates each row, from 0 on, `(num_rows,)`.
        placed: The fold of each group, `(num_groups,)`.
        counts: Rows of each group, `(num_groups,)`.
    """

    number: Numbers
    placed: Numbers
    counts: npt.NDArray[np.int32]


def grouped_folds(group_hash: Hashes, *, num_folds: int, is_missing: Mask | None = None) -> GroupedFolds:
    """Whole groups, about the same number of rows in each fold, and rows without a group one by one.

    Groups above `LARGE_GROUP_SHARE` of the rows are placed first, the largest first, each where most room is left; the
    others fill what is left in the order of their hashes.

    Args:
        group_hash: `(num_rows,)`, a seeded hash of each row's group, or of the row where it has none.
        num_folds: How many.
        is_missing: `(num_rows,)`, whether the row has no group; None where all have one.
    """
    is_missing = np.zeros(group_hash.size, np.bool_) if is_missing is None else is_missing
    groups, counts = groups_of(group_hash[~is_missing])
    placed = _place_groups(counts, num_folds)
    number = np.empty(group_hash.size, np.uint8)
    for start in range(0, number.size, CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        position = group_hash[rows][~is_missing[rows]] >> POSITION_SHIFT
        number[rows][~is_missing[rows]] = placed[np.searchsorted(groups, position)]
    number[is_missing] = _equal_parts(group_hash[is_missing] >> POSITION_SHIFT, num_folds)
    return GroupedFolds(number, placed, counts)


def _place_groups(counts: npt.NDArray[np.int32], num_folds: int) -> Numbers:
    """The fold of each group by its number of rows; groups are in the order of their hashes, `(num_groups,)`."""
    num_rows = int(counts.sum())
    placed = np.zeros(counts.size, np.uint8)
    room = np.full(num_folds, num_rows / num_folds)
    is_large = counts > max(1, LARGE_GROUP_SHARE * num_rows)
    large = np.flatnonzero(is_large)
    for group in large[np.argsort(-counts[large], kind="stable")].tolist():
        placed[group] = np.argmax(room)
        room[placed[group]] -= counts[group]
    small = counts[~is_large].astype(np.float64)
    room = np.maximum(room, 0.0)  # a group larger than a fold has overfilled its own
    # Cuts of the small groups, in the order of their hashes, in proportion to the room that is left; a group belongs
    # where its middle lies, so that a fold is off by half a group at either end.
    ends = np.cumsum(room)[:-1] * (small.sum() / max(room.sum(), 1.0))
    middle = np.cumsum(small) - small / 2.0
    placed[~is_large] = np.searchsorted(ends, middle, side="right")
    return placed


def _equal_parts(position: Hashes, num_folds: int) -> npt.NDArray[np.intp]:
    """The part of each row when they are cut, in the order of their positions, into parts of the same number."""
    if not position.size:
        return np.empty(0, np.intp)
    # A cut is the position of a row, and from the right: rows of equal positions are never divided.
    at = [min(round(part * position.size / num_folds), position.size - 1) for part in range(1, num_folds)]
    return np.searchsorted(np.sort(position)[at], position, side="right")


def _drawn(number: Numbers, details: Sequence[dict[str, Any]]) -> list[Assignment]:
    return [
        Assignment(np.where(number == part, np.uint8(VALIDATION), np.uint8(TRAIN)), {}, of_part)
        for part, of_part in enumerate(details)
    ]


def _divide_stratified(columns: SplitColumns, split: SplitParams) -> list[Assignment]:
    if "impression" in columns.keys:  # whole impressions, so the classes' shares are those that the draw gives
        return _divide_groups(columns, split, key="impression")
    number = stratified_folds(columns.joint_class, columns.row_hash, num_folds=split.num_folds)
    return _drawn(number, [{}] * split.num_folds)


def _divide_groups(columns: SplitColumns, split: SplitParams, *, key: str) -> list[Assignment]:
    is_missing = None if key == "impression" else columns.missing[key]
    found = grouped_folds(columns.keys[key], num_folds=split.num_folds, is_missing=is_missing)
    details = [
        {
            "num_groups": found.counts.size,
            "num_groups_val": int(np.count_nonzero(found.placed == part)),
            "largest_group": int(found.counts.max(initial=0)),
        }
        for part in range(split.num_folds)
    ]
    return _drawn(found.number, details)


def _walk_forward(columns: SplitColumns, split: SplitParams) -> list[Assignment]:
    """Stretches of `time_val_ratio` of the rows each, the latest last; a model trains on all that is before its own."""
    moment = columns.moment
    assert moment is not None, "config demands time_col for the time method"
    starts = [boundary_of(moment, part * split.time_val_ratio) for part in range(split.num_folds, 0, -1)]
    # Rows of one time are never divided, so neighbouring wishes may find the same boundary.
    if sorted(set(starts)) != starts:
        raise ValueError(
            f"num_folds {split.num_folds} with time_val_ratio {split.time_val_ratio}: rows of one time are more than a "
            "fold, so that two folds would begin at the same time"
        )
    ends = [*starts[1:], None]
    return [
        time_assignment(columns, split, start=start, rows=None if end is None else moment < end)
        for start, end in zip(starts, ends, strict=True)
    ]


# By the names of `qin.split.methods.METHODS`.
DIVISIONS: Mapping[str, Callable[[SplitColumns, SplitParams], list[Assignment]]] = {
    "stratified": _divide_stratified,
    "group_user": partial(_divide_groups, key="group"),
    "group_session": partial(_divide_groups, key="session"),
    "time": _walk_forward,
}
