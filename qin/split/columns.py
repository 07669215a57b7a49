"""What the split needs to know of each row of the raw train file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qin.config import DataParams, SplitParams
from qin.errors import SchemaError
from qin.raw.hashing import Hashes, hash_column, hash_rows, seed_of
from qin.raw.parquet import map_batches, open_parquet, read_batches
from qin.raw.values import encode_label, time_values
from qin.runtime.progress import Progress
from qin.schema import is_list

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
