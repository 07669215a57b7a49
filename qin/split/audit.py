"""The leakage audit: what the two folds share that they should not."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.raw.hashing import Hashes
from qin.runtime.errors import DataError
from qin.shards.folds import EXCLUDED, TRAIN, VALIDATION, Assignment, Folds
from qin.split.columns import SplitColumns
from qin.split.methods import METHODS
from qin.split.overlap import is_in

_FEW_CLICKS = 20  # of which a rate has a standard error of a fifth

_Mask = npt.NDArray[np.bool_]


def audit(columns: SplitColumns, assignment: Assignment, *, method: str) -> dict[str, Any]:
    """Measure sizes, class shares and leakage of an assignment.

    Returns:
        JSON values for `metrics/split.json`: `rows`, `base_rate`, `val_share`, `overlap` (keys in both folds), `cold`
        (share of validation rows whose key is not in train), `duplicates` (rows of validation that equal a train row
        in the row key), `missing` (share of rows without a group or session, each of which is one of its own), `time`
        (whether all of train is before validation).
    """
    fold = assignment.fold
    is_train, is_val = fold == TRAIN, fold == VALIDATION
    figures: dict[str, Any] = {
        "method": method,
        "rows": {"train": int(is_train.sum()), "val": int(is_val.sum()), "excluded": int((fold == EXCLUDED).sum())},
        "base_rate": _base_rates(columns.label, fold),
        "val_share": float(is_val.mean()),
        "duplicates": _in_both(columns.row_hash, is_train, is_val)[1],
        "missing": {name: float(mask.mean()) for name, mask in sorted(columns.missing.items())},
        "overlap": {},
        "cold": {},
    }
    for name, hashes in sorted(columns.keys.items()):
        num_keys, num_rows = _in_both(hashes, is_train, is_val)
        # Every impression is a new one, so a share of new ones would say nothing; items are meant to be in both folds.
        if name != "impression":
            figures["cold"][name] = 1 - num_rows / int(is_val.sum())
        if name != "target":
            figures["overlap"][name] = num_keys
    if columns.moment is not None:
        last, first = columns.moment[is_train].max(), columns.moment[is_val].min()
        figures["time"] = {"in_order": bool(last < first)}
    return {**figures, **assignment.details}


def audits_by_label(
    audits: Sequence[dict[str, Any]], columns: SplitColumns, assignments: Sequence[Assignment]
) -> dict[str, list[dict[str, Any]]]:
    """The audits of divisions for each label: they differ in the base rates alone.

    Args:
        audits: Of each division.
        columns: With all labels.
        assignments: The divisions.
    """
    return {
        name: [
            {**figures, "base_rate": _base_rates(label, assignment.fold)}
            for figures, assignment in zip(audits, assignments, strict=True)
        ]
        for name, label in columns.labels.items()
    }


def _base_rates(label: npt.NDArray[np.uint8], fold: Folds) -> dict[str, float]:
    return {"train": float(label[fold == TRAIN].mean()), "val": float(label[fold == VALIDATION].mean())}


def check(figures: dict[str, Any], *, file: str, of: str = "") -> None:
    """End the stage where a must of the method does not hold.

    Args:
        figures: Of an audit.
        file: For messages.
        of: Which of several divisions this is, for messages, with a colon and a blank.

    Raises:
        DataError: If keys that the method keeps whole are in both folds, or impressions are, or times overlap
            under one in order of time.
    """
    name = figures["method"]
    method, key = METHODS[name], METHODS[name].keeps_whole
    if key is not None and figures["overlap"][key]:
        raise DataError(
            f"{file}: split.method {name}: {of}{figures['overlap'][key]} {key}s are in both folds; must be 0"
        )
    if figures["overlap"].get("impression"):
        raise DataError(
            f"{file}: split.method {name}: {of}{figures['overlap']['impression']} impressions are in both folds; must "
            "be 0, so features.impression.key must include what the method divides by"
        )
    if method.in_order and not figures["time"]["in_order"]:
        raise DataError(f"{file}: split.method {name}: {of}a train row is not earlier than every validation row")


def warnings(figures: dict[str, Any], *, file: str, of: str = "") -> list[str]:
    """What the user should know before training, a line each; arguments as of `check`."""
    num_rows = figures["rows"]["val"]
    num_clicks = round(figures["base_rate"]["val"] * num_rows)
    if num_clicks >= _FEW_CLICKS:
        return []
    more = "lower split.num_folds" if of else "raise split.val_ratio"
    return [
        f"warning: {file}: {of}the validation fold has {num_clicks} clicks in {num_rows} rows: its figures will be "
        "rough, and calibrate leaves the probabilities as they are where one half of it has none; to have more, "
        f"{more} (split.time_val_ratio)"
    ]


def _in_both(hashes: Hashes, is_train: _Mask, is_val: _Mask) -> tuple[int, int]:
    """Keys that are in both folds, and the validation rows that have one of them."""
    keys, counts = np.unique(hashes[is_val], return_counts=True)  # of the smaller fold; the other one is looked up in
    is_seen = is_in(keys, hashes[is_train])
    return int(is_seen.sum()), int(counts[is_seen].sum())
