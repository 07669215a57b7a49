"""The folds: which rows train and which validate, as pure functions of hashes, labels and times.

Membership is a threshold on a seeded hash of the row or group, so it does not depend on the order of rows. Thresholds
are returned and can be given back (frozen), after which appended rows never move old ones. Hashes are cut to 53 bits,
so that thresholds are exact in JSON and YAML.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

TRAIN, VALIDATION, EXCLUDED = 0, 1, 2

# A group above this share of all rows could move the validation share visibly, so it is placed, not drawn.
LARGE_GROUP_SHARE = 0.0025

Folds = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Assignment:
    """Folds and what determines them.

    Attributes:
        fold: `(num_rows,)`, TRAIN, VALIDATION or EXCLUDED.
        thresholds: Integers that reproduce the assignment on more rows; empty for time.
        details: What the method reports, as JSON values.
    """

    fold: Folds
    thresholds: dict[str, int]
    details: dict[str, Any]


def stratified(
    label: npt.NDArray[np.uint8], row_hash: Hashes, *, val_ratio: float, thresholds: Mapping[str, int] | None
) -> Assignment:
    """Draw the same share of each class, exact to one row (rows with equal hashes stay together).

    Args:
        label: `(num_rows,)`, 0 or 1.
        row_hash: `(num_rows,)`, a seeded hash of what identifies each row.
        val_ratio: Share of each class in validation.
        thresholds: `label_0` and `label_1` of an earlier run, or None to compute them.

    Raises:
        ValueError: If a frozen threshold is missing.
    """
    position = row_hash >> np.uint64(11)
    fold = np.zeros(label.size, np.uint8)
    used = {}
    for value in (0, 1):
        rows = np.flatnonzero(label == value)
        name = f"label_{value}"
        if thresholds is None:
            count = round(val_ratio * rows.size)
            used[name] = int(np.partition(position[rows], count)[count]) if count < rows.size else 1 << 53
        else:
            used[name] = _frozen(thresholds, name)
        fold[rows[position[rows] < np.uint64(used[name])]] = VALIDATION
    return Assignment(fold, used, {})


def grouped(group_hash: Hashes, *, val_ratio: float, thresholds: Mapping[str, int] | None) -> Assignment:
    """Draw whole groups.

    Groups below `LARGE_GROUP_SHARE` of the rows are in validation when their hash is below a threshold. Larger ones
    are placed one by one, in the order of their hashes, as long as they fit; so the validation share is within half
    the largest small group of `val_ratio` wherever the large groups allow it.

    Args:
        group_hash: `(num_rows,)`, a seeded hash of each row's group.
        val_ratio: Share of rows in validation.
        thresholds: `group` and `large_<hash>` of an earlier run, or None to compute them.

    Raises:
        ValueError: If a frozen threshold is missing.
    """
    position = group_hash >> np.uint64(11)
    groups, counts = np.unique(position, return_counts=True)
    used = _group_thresholds(groups, counts, val_ratio) if thresholds is None else dict(thresholds)
    in_validation = groups < np.uint64(_frozen(used, "group"))
    for name, is_validation in used.items():
        if name.startswith("large_"):
            in_validation[groups == np.uint64(int(name.removeprefix("large_"), 16))] = bool(is_validation)
    fold = in_validation[np.searchsorted(groups, position)].astype(np.uint8)
    details = {
        "num_groups": groups.size,
        "num_groups_val": int(in_validation.sum()),
        "largest_group": int(counts.max()),
    }
    return Assignment(fold, used, details)


def _group_thresholds(groups: Hashes, counts: npt.NDArray[np.int64], val_ratio: float) -> dict[str, int]:
    num_rows = int(counts.sum())
    room = val_ratio * num_rows
    is_large = counts > max(1, LARGE_GROUP_SHARE * num_rows)
    large = {}
    for group, count in zip(groups[is_large], counts[is_large], strict=True):
        fits = count <= room
        room -= count if fits else 0
        large[f"large_{int(group):014x}"] = int(fits)
    small, cumulative = groups[~is_large], np.concatenate([[0], np.cumsum(counts[~is_large])])
    taken = int(np.argmin(np.abs(cumulative - room)))
    # Where every group is large, the threshold is for appended ones alone.
    end = 1 << 53 if small.size else round(val_ratio * (1 << 53))
    return {"group": int(small[taken]) if taken < small.size else end, **large}


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
    boundary = _boundary(time, val_ratio) if start is None else start
    fold = (time >= boundary).astype(np.uint8)
    fold[(time < boundary) & (time > boundary - embargo)] = EXCLUDED
    details: dict[str, Any] = {}
    if session_hash is not None:
        is_crossing = np.isin(session_hash, session_hash[fold == TRAIN]) & (fold == VALIDATION)
        details["num_crossing_sessions"] = int(np.unique(session_hash[is_crossing]).size)
        if drop_crossing:
            fold[is_crossing] = EXCLUDED
    if not (fold == TRAIN).any() or not (fold == VALIDATION).any():
        raise ValueError(f"the boundary {boundary} leaves no row on one side of it")
    return Assignment(
        fold, {}, {"boundary": boundary.item() if isinstance(boundary, np.generic) else boundary, **details}
    )


def _boundary(time: npt.NDArray[Any], val_ratio: float) -> Any:
    times, counts = np.unique(time, return_counts=True)
    if times.size < 2:
        raise ValueError(f"all rows have the same time {times[0]}")
    share = np.cumsum(counts[::-1])[::-1][1:] / time.size
    return times[1:][int(np.argmin(np.abs(share - val_ratio)))]


def _frozen(thresholds: Mapping[str, int], name: str) -> int:
    if name not in thresholds:
        raise ValueError(f"split.thresholds has no {name}; it has {', '.join(thresholds) or 'nothing'}")
    return thresholds[name]
