"""From the raw train file and the split's settings to folds on disk and the figures of metrics/split.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qin.config import DataParams, SplitParams
from qin.errors import ArtifactError, ConfigError, DataError, SchemaError
from qin.prepare.encode import encode_label
from qin.raw.hashing import hash_column, hash_rows, seed_of
from qin.raw.parquet import map_batches, open_parquet, read_batches
from qin.raw.values import MICROSECONDS, is_datetime, parse_start, time_values
from qin.runtime.files import read_array, read_exact_json, write_array, write_exact_json
from qin.runtime.progress import Progress
from qin.schema import is_list
from qin.split import methods as folds
from qin.split.methods import Assignment, Folds, Hashes

FOLD_FILE = "fold.npy"
MANIFEST = "manifest.json"
_BATCH_ROWS = 4096


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
    encoder = _SplitEncoder(file, data.label, {"row": row_key, **keys}, split.time_col, split.seed)
    num_rows = open_parquet(file).metadata.num_rows
    arrays: dict[str, npt.NDArray[Any]] = {}
    batches = read_batches(file, columns=columns_read, batch_rows=_BATCH_ROWS)
    with Progress(num_rows, label=f"split {file}") as progress:
        for first_row, batch, values in map_batches(encoder, batches, num_threads=1):
            for name, part in values.items():
                if name not in arrays:
                    arrays[name] = np.empty(num_rows, part.dtype)
                arrays[name][first_row : first_row + part.size] = part
            progress.advance(batch.num_rows)
    return SplitColumns(
        label=arrays["label"],
        row_hash=arrays["row"],
        time=arrays.get("time"),
        time_type=schema.field(times[0]).type if times else None,
        keys={name: arrays[name] for name in keys},
    )


@dataclass(frozen=True)
class _SplitEncoder:
    """Labels, hashes and times of a batch.

    Attributes:
        file: For messages.
        label: Column of the label.
        keys: Columns of each hash.
        time: Column of the time, or None.
        seed: Seed of the hashes.
    """

    file: str
    label: str
    keys: Mapping[str, Sequence[str]]
    time: str | None
    seed: int

    def __call__(self, first_row: int, batch: pa.RecordBatch) -> dict[str, npt.NDArray[Any]]:
        label, file = batch.column(self.label), self.file
        values: dict[str, npt.NDArray[Any]] = {
            "label": encode_label(label, file=file, column=self.label, first_row=first_row)
        }
        hashed = {name: hash_column(batch.column(name)) for name in set().union(*self.keys.values())}
        for key, columns in self.keys.items():
            values[key] = hash_rows([hashed[name] for name in columns], seed_of(f"split.{key}", self.seed))
        if self.time is not None:
            time = batch.column(self.time)
            values["time"] = time_values(time, file=file, column=self.time, first_row=first_row)
        return values


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
    manifest = {
        "num_rows": assignment.fold.size,
        "method": method,
        "thresholds": assignment.thresholds,
        **assignment.details,
        "crc32": write_array(folder / FOLD_FILE, assignment.fold),
    }
    write_exact_json(folder / MANIFEST, manifest)


def read_folds(folder: Path, *, num_rows: int) -> Folds:
    """Read the folds, which must be as many as the prepared rows.

    Raises:
        ArtifactError: If they are missing, damaged, or of another log.
    """
    manifest = read_exact_json(folder / MANIFEST)
    if manifest["num_rows"] != num_rows:
        raise ArtifactError(
            f"{folder / FOLD_FILE}: {manifest['num_rows']} folds for {num_rows} prepared rows; run the split stage"
        )
    return read_array(folder / FOLD_FILE, crc32=manifest["crc32"], dtype="uint8", shape=(num_rows,), stage="split")


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
