"""The split methods: which rows train and which validate, as pure functions of hashes, labels and times (see `timed`).

Membership is a threshold on a seeded hash of the row or group, so it does not depend on the order of rows. Thresholds
are returned and can be given back (frozen), after which appended rows never move old ones. Hashes are cut to 53 bits,
so that thresholds are exact in JSON and YAML.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from qin.config import SplitParams
from qin.raw.hashing import Hashes
from qin.runtime.errors import ConfigError, DataError
from qin.runtime.jit import njit
from qin.shards.folds import TRAIN, VALIDATION, Assignment, Folds
from qin.split.columns import Mask, SplitColumns
from qin.split.timed import assign_by_time

# A group above this share of all rows could move the validation share visibly, so it is placed, not drawn.
LARGE_GROUP_SHARE = 0.0025
_LARGE, _MISSING = "large_", "missing"

POSITION_SHIFT = np.uint64(11)  # leaves 53 bits
_END = 1 << 53  # of the positions
CHUNK_ROWS = 1 << 20  # bounds what is in memory beside the result


def stratified(
    label: npt.NDArray[np.uint8],
    row_hash: Hashes,
    *,
    val_ratio: float,
    thresholds: Mapping[str, int] | None,
    num_labels: int = 1,
) -> Assignment:
    """Draw the same share of each class, exact to one row (rows with equal hashes stay together).

    A class of two rows and more has at least one in either fold, so that few clicks are enough to train and validate.
    Of several labels a class is what all of them are together, so that the share of each label is exact as well.

    Args:
        label: `(num_rows,)`, 0 or 1; of several labels a bit each.
        row_hash: `(num_rows,)`, a seeded hash of what identifies each row.
        val_ratio: Share of each class in validation.
        thresholds: `label_0` and `label_1` of an earlier run (of two labels `label_0_0`, `label_0_1` and so on), or
            None to compute them.
        num_labels: Bits of `label`.

    Raises:
        ValueError: If a frozen threshold is missing.
    """
    position = row_hash >> POSITION_SHIFT
    fold = np.zeros(label.size, np.uint8)
    used = {}
    for value in range(1 << num_labels):
        is_class = label == value
        name = "_".join(["label", *(str(value >> bit & 1) for bit in range(num_labels))])
        if thresholds is None and not is_class.any():  # for appended rows alone
            used[name] = round(val_ratio * _END)
        elif thresholds is None:
            used[name] = _smallest(position[is_class], val_ratio, leaves_some=True)
        else:
            used[name] = _frozen(thresholds, name)
        fold[is_class & (position < np.uint64(used[name]))] = VALIDATION
    return Assignment(fold, used, {})


def _smallest(position: Hashes, share: float, *, leaves_some: bool = False) -> int:
    """The threshold below which this share of the positions is.

    Args:
        position: Hashes of the rows, reordered here.
        share: How many of them are wanted below it.
        leaves_some: Whether two and more leave at least one on either side, however small the share.
    """
    count = round(share * position.size)
    if leaves_some and position.size > 1:
        count = min(max(count, 1), position.size - 1)
    if count == position.size:
        return _END
    position.partition(count)  # linear, and one position is all that is wanted
    return int(position[count])


def grouped(
    group_hash: Hashes,
    *,
    val_ratio: float,
    thresholds: Mapping[str, int] | None,
    is_missing: Mask | None = None,
) -> Assignment:
    """Draw whole groups, and rows without a group one by one.

    Groups below `LARGE_GROUP_SHARE` of the rows are in validation when their hash is below a threshold. Larger ones
    are placed one by one, in the order of their hashes, as long as they fit; so the validation share is within half
    the largest small group of `val_ratio` wherever the large groups allow it. Rows without a group have a threshold of
    their own, so that the same share of them validates, however large the groups are.

    Args:
        group_hash: `(num_rows,)`, a seeded hash of each row's group, or of the row where it has none.
        val_ratio: Share of rows in validation.
        thresholds: `group`, `large_<hash>` and `missing` of an earlier run, or None to compute them.
        is_missing: `(num_rows,)`, whether the row has no group; None where all have one.

    Raises:
        ValueError: If a frozen threshold is missing.
    """
    if is_missing is not None and not is_missing.any():
        is_missing = None
    groups, counts = groups_of(group_hash if is_missing is None else group_hash[~is_missing])
    if thresholds is None:
        threshold = round(val_ratio * _END)  # for appended rows alone, where there are none yet
        if is_missing is not None:
            threshold = _smallest(group_hash[is_missing] >> POSITION_SHIFT, val_ratio)
        used = {**_group_thresholds(groups, counts, val_ratio), _MISSING: threshold}
    else:
        used = dict(thresholds)
    details = {
        "num_groups": groups.size,
        "num_groups_val": int(_place_groups(groups, used).sum()),
        "largest_group": int(counts.max(initial=0)),
    }
    fold = np.empty(group_hash.size, np.uint8)
    for start in range(0, fold.size, CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        position = group_hash[rows] >> POSITION_SHIFT
        fold[rows] = _place_groups(position, used)
        if is_missing is not None:
            # The slice is a view, so that this reaches `fold` itself.
            fold[rows][is_missing[rows]] = position[is_missing[rows]] < np.uint64(_frozen(used, _MISSING))
    return Assignment(fold, used, details)


def groups_of(group_hash: Hashes) -> tuple[Hashes, npt.NDArray[np.int32]]:
    """Positions of the distinct groups, ascending, and rows of each; `np.unique` would take twice the memory."""
    position = group_hash >> POSITION_SHIFT
    position.sort()
    counts = np.zeros(position.size, np.int32)
    num_groups = _collapse(position, counts)
    return position[:num_groups], counts[:num_groups]


@njit(nogil=True)
def _collapse(values: Hashes, counts: npt.NDArray[np.int32]) -> int:
    """Move each distinct value of a sorted array to the front and count it; returns how many there are."""
    last = -1
    for i in range(values.size):
        if last < 0 or values[i] != values[last]:
            last += 1
            values[last] = values[i]
        counts[last] += 1
    return last + 1


def _group_thresholds(groups: Hashes, counts: npt.NDArray[np.int32], val_ratio: float) -> dict[str, int]:
    num_rows = int(counts.sum())
    room = val_ratio * num_rows
    is_large = counts > max(1, LARGE_GROUP_SHARE * num_rows)
    large = {}
    # In the order of their hashes, which is as good as drawn: by size, the largest users would always validate.
    for group, count in zip(groups[is_large].tolist(), counts[is_large].tolist(), strict=True):
        fits = count <= room
        room -= count if fits else 0
        large[f"{_LARGE}{group:014x}"] = int(fits)
    if is_large.all():  # the threshold is for appended groups alone
        return {"group": round(val_ratio * _END), **large}
    # Large groups count nothing here, but keep their place, so that what is found is a place among all groups.
    taken = _nearest(np.cumsum(np.where(is_large, 0, counts)), room)
    small = np.flatnonzero(~is_large[taken:])[:1]  # the first small group that is not taken
    return {"group": int(groups[taken + small[0]]) if small.size else _END, **large}


def _nearest(cumulative: npt.NDArray[np.int64], room: float) -> int:
    """How many of the first groups together have the number of rows that is nearest `room`."""
    above = int(np.searchsorted(cumulative, room))
    if above == cumulative.size:
        return above
    below = cumulative[above - 1] if above else 0
    return above if room - below <= cumulative[above] - room else above + 1


def _place_groups(position: Hashes, thresholds: Mapping[str, int]) -> Folds:
    """The fold of each group by its position."""
    fold = (position < np.uint64(_frozen(thresholds, "group"))).astype(np.uint8)
    # A large group is known by its own key, so that appended rows that make it larger, or smaller, do not move it.
    large = {int(name[len(_LARGE) :], 16): value for name, value in thresholds.items() if name.startswith(_LARGE)}
    if large:
        known = np.array(sorted(large), np.uint64)
        nearest = np.minimum(np.searchsorted(known, position), known.size - 1)
        is_large = known[nearest] == position
        fold[is_large] = np.array([large[group] for group in known.tolist()], np.uint8)[nearest[is_large]]
    return fold


def _frozen(thresholds: Mapping[str, int], name: str) -> int:
    if name not in thresholds:
        raise ValueError(f"split.thresholds has no {name}; it has {', '.join(thresholds) or 'nothing'}")
    return thresholds[name]


@dataclass(frozen=True)
class Method:
    """A way to divide rows, and what it promises of the two folds.

    Attributes:
        assign: The folds from the columns and the settings; a ValueError says which setting does not fit.
        keeps_whole: The key whose values lie in one fold each, as `SplitColumns.keys` names it, or None.
        in_order: Whether every train row is earlier than every validation row.
        way_out: What to set where a fold has one class only.
    """

    assign: Callable[[SplitColumns, SplitParams], Assignment]
    keeps_whole: str | None = None
    in_order: bool = False
    way_out: str = "set another split.val_ratio or split.seed"


def assign_folds(columns: SplitColumns, split: SplitParams, *, file: str) -> Assignment:
    """Divide the rows by the method of the settings.

    Raises:
        ConfigError: If frozen thresholds or the start of validation do not fit.
        DataError: If a fold would be empty or hold one class only.
    """
    try:
        assignment = METHODS[split.method].assign(columns, split)
    except ValueError as error:
        raise ConfigError(f"params.yaml: split: {error}") from error
    check_classes(columns, assignment, split, file=file, way_out=METHODS[split.method].way_out)
    return assignment


def check_classes(
    columns: SplitColumns, assignment: Assignment, split: SplitParams, *, file: str, way_out: str, of: str = ""
) -> None:
    """Check that the train and the validation rows are of both classes.

    Args:
        columns: Section split's; the labels count.
        assignment: The folds.
        split: Names the method.
        file: For messages.
        way_out: What to set where a class is missing.
        of: Which of several divisions this is, for messages, with a colon and a blank.

    Raises:
        DataError: If a fold would be empty or hold one class only.
    """
    for label, values in columns.labels.items():
        of_label = f"{of}label {label}: " if columns.other_labels else of
        for fold, name in ((TRAIN, "train"), (VALIDATION, "validation")):
            counts = np.bincount(values[assignment.fold == fold], minlength=2)
            if not counts.all():
                raise DataError(
                    f"{file}: split.method {split.method}: {of_label}the {name} fold has {counts[0]} rows of class 0 "
                    f"and {counts[1]} of class 1; it needs both: {way_out}"
                )


def _assign_stratified(columns: SplitColumns, split: SplitParams) -> Assignment:
    if "impression" in columns.keys:  # whole impressions, so the classes' shares are those that the draw gives
        return grouped(columns.keys["impression"], val_ratio=split.val_ratio, thresholds=split.thresholds)
    return stratified(
        columns.joint_class,
        columns.row_hash,
        val_ratio=split.val_ratio,
        thresholds=split.thresholds,
        num_labels=len(columns.labels),
    )


def _assign_grouped(columns: SplitColumns, split: SplitParams, *, key: str) -> Assignment:
    return grouped(
        columns.keys[key], val_ratio=split.val_ratio, thresholds=split.thresholds, is_missing=columns.missing[key]
    )


# To add a method: its entry here, and its name in `qin.config.SplitParams.method` with the column it needs.
METHODS: Mapping[str, Method] = {
    "stratified": Method(_assign_stratified),
    "group_user": Method(partial(_assign_grouped, key="group"), keeps_whole="group"),
    "group_session": Method(partial(_assign_grouped, key="session"), keeps_whole="session"),
    "time": Method(assign_by_time, in_order=True, way_out="set another split.time_val_ratio or split.time_val_start"),
}
