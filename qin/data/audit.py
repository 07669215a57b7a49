"""The leakage audit: what the two folds share that they should not."""

from typing import Any

import numpy as np

from qin.data.folds import EXCLUDED, TRAIN, VALIDATION, Assignment
from qin.data.split import SplitColumns
from qin.errors import DataError

# What each method must keep apart.
_MUST_NOT_OVERLAP = {"stratified": None, "group_user": "group", "group_session": "session", "time": None}


def audit(columns: SplitColumns, assignment: Assignment, *, method: str) -> dict[str, Any]:
    """Measure sizes, class shares and leakage of an assignment.

    Returns:
        JSON values for `metrics/split.json`: `rows`, `base_rate`, `val_share`, `overlap` (keys in both folds), `cold`
        (share of validation rows whose key is not in train), `duplicates` (rows of validation that equal a train row
        in the row key), `time` (last of train, first of validation).
    """
    fold = assignment.fold
    is_train, is_val = fold == TRAIN, fold == VALIDATION
    figures: dict[str, Any] = {
        "method": method,
        "rows": {"train": int(is_train.sum()), "val": int(is_val.sum()), "excluded": int((fold == EXCLUDED).sum())},
        "base_rate": {"train": float(columns.label[is_train].mean()), "val": float(columns.label[is_val].mean())},
        "val_share": float(is_val.mean()),
        "duplicates": _num_seen(columns.row_hash[is_val], columns.row_hash[is_train]),
        "overlap": {},
        "cold": {},
    }
    for name, hashes in sorted(columns.keys.items()):
        seen = _num_seen(hashes[is_val], hashes[is_train])
        figures["cold"][name] = 1 - seen / int(is_val.sum())
        if name != "target":
            figures["overlap"][name] = int(np.intersect1d(hashes[is_val], hashes[is_train]).size)
    if columns.time is not None:
        last, first = columns.time[is_train].max(), columns.time[is_val].min()
        figures["time"] = {"in_order": bool(last < first)}
    return {**figures, **assignment.details}


def check(figures: dict[str, Any], *, file: str) -> None:
    """End the stage where a must of the method does not hold.

    Raises:
        DataError: If groups overlap under a group method, or times under the time method.
    """
    method = figures["method"]
    key = _MUST_NOT_OVERLAP[method]
    if key is not None and figures["overlap"][key]:
        raise DataError(f"{file}: split.method {method}: {figures['overlap'][key]} {key}s are in both folds; must be 0")
    if method == "time" and not figures["time"]["in_order"]:
        raise DataError(f"{file}: split.method time: a train row is not earlier than every validation row")


def _num_seen(values: Any, reference: Any) -> int:
    return int(np.isin(values, reference).sum())
