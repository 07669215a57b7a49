"""From the raw train file and the split's settings to folds on disk and the figures of metrics/split.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qin.artifacts import read_array, read_json, write_exact_json
from qin.config import DataParams, SplitParams
from qin.data import folds
from qin.data.encode import encode_label
from qin.data.folds import Assignment, Folds, Hashes
from qin.data.hashing import hash_rows, seed_of
from qin.data.raw import open_parquet, read_batches
from qin.data.times import MICROSECONDS, is_datetime, parse_start, time_values
from qin.errors import ArtifactError, ConfigError, DataError, SchemaError
from qin.progress import Progress
from qin.schema import is_list

FOLD_FILE = "fold.npy"
MANIFEST = "manifest.json"
_BATCH_ROWS = 65536


@dataclass(frozen=True)
class SplitColumns:
    """What the split needs to know of each row.

    Attributes:
        label: `(num_rows,)`.
        row_hash: `(num_rows,)`, identifies the row.
        time: `(num_rows,)`, or None without a time column.
        time_type: Arrow type of the time column, or None.
        keys: Hashes `(num_rows,)` of what the audit compares across folds: `group`, `session`, `target`.
    """

    label: npt.NDArray[np.uint8]
    row_hash: Hashes
    time: npt.NDArray[Any] | None
    time_type: pa.DataType | None
    keys: dict[str, Hashes] = field(default_factory=dict)


def read_split_columns(
    data: DataParams, split: SplitParams, *, target: Sequence[str], features: Sequence[str]
) -> SplitColumns:
    """Read the columns that the split needs, 17 to 41 bytes of memory per row.

    Args:
        data: File, label and id.
        split: Keys and seeds.
        target: Columns of the target item, for the cold share.
        features: Scalar input columns, which identify a row where nothing else does.

    Raises:
        SchemaError: If a column that the settings name is not in the file.
        DataError: If a label or time is invalid.
    """
    file = data.train
    schema = open_parquet(file).schema_arrow
    row_key = split.row_key or ([data.id] if data.id in schema.names else list(features))
    keys = {"target": list(target)}
    if split.group_key is not None:
        keys["group"] = [split.group_key]
    if split.session_key is not None:
        keys["session"] = [key for key in (split.group_key, split.session_key) if key is not None]
    times = [split.time_col] if split.time_col is not None else []
    named: dict[str, Sequence[str | None]] = {
        "data.label": [data.label],
        "features.target": list(target),
        "split.row_key": row_key,
        "split.group_key": [split.group_key],
        "split.session_key": [split.session_key],
        "split.time_col": times,
    }
    columns_read = _checked_columns(schema, named, file)
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("label", "row", "time", *keys)}
    hashed = {"row": row_key, **keys}
    seeds = {name: seed_of(f"split.{name}", split.seed) for name in hashed}
    with Progress(open_parquet(file).metadata.num_rows, label=f"split {file}") as progress:
        for first_row, batch in read_batches(file, columns=columns_read, batch_rows=_BATCH_ROWS):
            parts["label"].append(
                encode_label(batch.column(data.label), file=file, column=data.label, first_row=first_row)
            )
            for name, columns in hashed.items():
                parts[name].append(hash_rows([batch.column(column) for column in columns], seeds[name]))
            for name in times:
                parts["time"].append(time_values(batch.column(name), file=file, column=name, first_row=first_row))
            progress.advance(batch.num_rows)
    arrays = {name: np.concatenate(values) for name, values in parts.items() if values}
    return SplitColumns(
        label=arrays["label"],
        row_hash=arrays["row"],
        time=arrays.get("time"),
        time_type=schema.field(times[0]).type if times else None,
        keys={name: arrays[name] for name in keys},
    )


def assign_folds(columns: SplitColumns, split: SplitParams, *, file: str) -> Assignment:
    """Divide the rows by the method of the settings.

    Raises:
        ConfigError: If frozen thresholds or the start of validation do not fit.
        DataError: If a fold would be empty or hold one class only.
    """
    try:
        assignment = _assign(columns, split)
    except ValueError as error:
        raise ConfigError(f"params.yaml: split: {error}") from error
    for fold, name in ((folds.TRAIN, "train"), (folds.VALIDATION, "validation")):
        counts = np.bincount(columns.label[assignment.fold == fold], minlength=2)
        if not counts.all():
            raise DataError(
                f"{file}: split.method {split.method}: the {name} fold has {counts[0]} rows of class 0 "
                f"and {counts[1]} of class 1; it needs both"
            )
    return assignment


def _assign(columns: SplitColumns, split: SplitParams) -> Assignment:
    if split.method == "stratified":
        return folds.stratified(columns.label, columns.row_hash, val_ratio=split.val_ratio, thresholds=split.thresholds)
    if split.method == "time":
        assert columns.time is not None, "config demands time_col for the time method"
        assert columns.time_type is not None
        start = split.time_val_start
        is_moment = is_datetime(columns.time_type)
        assignment = folds.by_time(
            columns.time,
            val_ratio=split.time_val_ratio,
            start=None if start is None else parse_start(start, columns.time_type),
            embargo=split.time_embargo * (MICROSECONDS if is_moment else 1),
            session_hash=columns.keys.get("session"),
            drop_crossing=split.cross_boundary_sessions == "drop",
        )
        boundary = assignment.details["boundary"]
        shown = str(np.datetime64(boundary, "us")) if is_moment else boundary
        return replace(assignment, details={**assignment.details, "boundary": shown})
    key = "group" if split.method == "group_user" else "session"
    return folds.grouped(columns.keys[key], val_ratio=split.val_ratio, thresholds=split.thresholds)


def write_folds(folder: Path, assignment: Assignment, *, method: str) -> None:
    """Write the fold of each row and how it was decided."""
    np.save(folder / FOLD_FILE, assignment.fold)
    manifest = {
        "num_rows": assignment.fold.size,
        "method": method,
        "thresholds": assignment.thresholds,
        **assignment.details,
    }
    write_exact_json(folder / MANIFEST, manifest)


def read_folds(folder: Path, *, num_rows: int) -> Folds:
    """Read the folds, which must be as many as the prepared rows.

    Raises:
        ArtifactError: If they are missing, damaged, or of another log.
    """
    fold = read_array(folder / FOLD_FILE)
    if fold.shape != (num_rows,) or fold.dtype != np.uint8 or read_json(folder / MANIFEST)["num_rows"] != num_rows:
        raise ArtifactError(
            f"{folder / FOLD_FILE}: {fold.size} folds for {num_rows} prepared rows; run the split stage"
        )
    return fold


def _checked_columns(schema: pa.Schema, named: Mapping[str, Sequence[str | None]], file: str) -> list[str]:
    """The columns that settings name, once each, if all of them are there and none holds lists."""
    pairs = [(key, name) for key, names in named.items() for name in names if name is not None]
    problems = [f"{file}: {key}: no column {name}" for key, name in pairs if name not in schema.names]
    present = sorted({name for _, name in pairs if name in schema.names})
    problems += [
        f"{file}: column {name}: lists cannot identify a row or a group"
        for name in present
        if is_list(schema.field(name).type)
    ]
    if problems:
        raise SchemaError("\n".join(problems))
    return present
