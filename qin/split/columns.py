"""What the split needs to know of each row of the raw train file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qin.columns.types import is_groupable
from qin.config import DataParams, SplitParams
from qin.features.ranks import first_times, group_rows
from qin.raw.hashing import HashedColumn, Hashes, hash_column, hash_rows, seed_of
from qin.raw.log import Chunk, RawLog, map_batches, open_log, read_batches
from qin.raw.times import TimeColumn
from qin.raw.values import encode_label, refuse_rounded
from qin.runtime.errors import SchemaError, did_you_mean
from qin.runtime.progress import Progress
from qin.runtime.progress import log as logger

Mask = npt.NDArray[np.bool_]

_BATCH_ROWS = 4096
_LABEL = "label.{}"  # an array's name, which no key has
_LONE_KEYS = frozenset({"group", "session", "impression"})  # where null is no value that rows could share


@dataclass(frozen=True)
class SplitColumns:
    """What the split needs to know of each row.

    Attributes:
        label: `(num_rows,)`.
        row_hash: `(num_rows,)`, identifies the row.
        time: `(num_rows,)`, or None without a time column.
        time_column: How the times were read, or None.
        keys: Hashes `(num_rows,)` of what the audit compares across folds: `group`, `session`, `target`, `impression`.
            A row whose group, session or impression is missing is one of its own.
        missing: Whether a row has no group, session or impression `(num_rows,)`, by key.
        shown: The first time of each row's impression, `(num_rows,)`; None without both.
        other_labels: Further labels, `(num_rows,)` each, by column.
        label_name: Column of the label.
    """

    label: npt.NDArray[np.uint8]
    row_hash: Hashes
    time: npt.NDArray[Any] | None
    time_column: TimeColumn | None
    keys: dict[str, Hashes] = field(default_factory=dict)
    missing: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    shown: npt.NDArray[Any] | None = None
    other_labels: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    label_name: str = "label"

    @property
    def labels(self) -> dict[str, npt.NDArray[np.uint8]]:
        """Every label, `(num_rows,)` each, by column."""
        return {self.label_name: self.label, **self.other_labels}

    @property
    def joint_class(self) -> npt.NDArray[np.uint8]:
        """The class of each row by all labels together, a bit each, the first lowest, `(num_rows,)`."""
        joint = self.label.copy()
        for bit, label in enumerate(self.other_labels.values(), start=1):
            joint |= label << np.uint8(bit)
        return joint

    @property
    def moment(self) -> npt.NDArray[Any] | None:
        """When each row was shown, by which it is divided in time: rows of an impression at one moment."""
        return self.time if self.shown is None else self.shown


@dataclass(frozen=True)
class KeyColumns:
    """Which columns of a log divide its rows, and tell the audit what folds share.

    Attributes:
        keys: Columns of each hash: `row`, which identifies a row, and the keys of `SplitColumns`.
        time: How the time is read, or None.
        read: All columns that are read, once each.
    """

    keys: dict[str, list[str]]
    time: TimeColumn | None
    read: list[str]

    @classmethod
    def of(
        cls,
        log: RawLog,
        data: DataParams,
        split: SplitParams,
        *,
        target: Sequence[str],
        features: Sequence[str],
        impression: Sequence[str] | None = None,
    ) -> "KeyColumns":
        """Find them in a log; arguments as of `read_split_columns`.

        Raises:
            SchemaError: If a column that the settings name is not there, cannot be compared, or tells no time.
            DataError: If the first row has no time.
        """
        # Where nothing names a row, it is what the model reads of it: rows that are equal there lie in one fold.
        row_key = split.row_key or ([data.id] if data.id in log.schema.names else list(features))
        keys = {"row": list(row_key), "target": list(target)}
        if split.group_key is not None:
            keys["group"] = [split.group_key]
        if split.session_key is not None:
            # With the user, because some logs number the sessions of each user from 1 on.
            keys["session"] = [key for key in (split.group_key, split.session_key) if key is not None]
        if impression is not None:
            keys["impression"] = list(impression)
        named: dict[str, Sequence[str | None]] = {
            "data.label": list(data.labels),
            "features.target": list(target),
            "split.row_key": row_key,
            "split.group_key": [split.group_key],
            "split.session_key": [split.session_key],
            "split.time_col": [split.time_col],
            "features.impression.key": list(impression or []),
        }
        read = _checked_columns(log.schema, named, log.name)
        return cls(keys, None if split.time_col is None else TimeColumn.of(log, split.time_col), read)


def read_split_columns(
    data: DataParams,
    split: SplitParams,
    *,
    target: Sequence[str],
    features: Sequence[str],
    impression: Sequence[str] | None = None,
) -> SplitColumns:
    """Read the columns that the split needs, 17 to 43 bytes of memory per row.

    1. All columns that the settings name are looked for, before any row is read.
    2. One pass over the log turns each batch into labels, hashes and times.
    3. Rows without a group, a session or an impression are told of, and impressions get their first time.

    Args:
        data: Train log, label and id.
        split: Keys and seeds.
        target: Columns of the target item, for the cold share.
        features: Scalar input columns, which identify a row where nothing else does.
        impression: Columns whose values the rows of an impression share, which stay in one fold; None without.

    Raises:
        SchemaError: If a column that the settings name is not in the file.
        DataError: If a label or time is invalid.
    """
    log = open_log(data.train)
    found = KeyColumns.of(log, data, split, target=target, features=features, impression=impression)
    arrays = _read(log, found, _SplitEncoder(data.labels, found.keys, found.time, split.seed))
    missing = {key: arrays[f"missing.{key}"] for key in sorted(found.keys.keys() & _LONE_KEYS)}
    for key, mask in missing.items():
        if mask.any():
            share, names = f"{mask.mean():.2%}", " or ".join(found.keys[key])
            logger.info("%s: %s of the rows have no %s (%s); each is one of its own", log, share, key, names)
    return SplitColumns(
        label=arrays[_LABEL.format(data.first_label)],
        row_hash=arrays["row"],
        time=arrays.get("time"),
        time_column=found.time,
        keys={name: arrays[name] for name in found.keys if name != "row"},
        missing=missing,
        shown=_first_times(arrays) if {"impression", "time"} <= arrays.keys() else None,
        other_labels={name: arrays[_LABEL.format(name)] for name in data.labels[1:]},
        label_name=data.first_label,
    )


def _read(log: RawLog, found: KeyColumns, encoder: "_SplitEncoder") -> dict[str, npt.NDArray[Any]]:
    """What the encoder makes of every row, `(num_rows,)` each, by name."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    chunks = read_batches(log, columns=found.read, batch_rows=_BATCH_ROWS)
    with Progress(log.num_rows, label=f"split {log}") as progress:
        for chunk, values in map_batches(encoder, chunks, num_threads=1):
            for name, part in values.items():
                kind = np.result_type(part, arrays.get(name, part))  # text of numbers may turn to fractions
                if name not in arrays:
                    arrays[name] = np.empty(log.num_rows, kind)
                arrays[name] = arrays[name].astype(kind, copy=False)
                arrays[name][chunk.first_row : chunk.first_row + part.size] = part
            progress.advance(chunk.batch.num_rows)
    return arrays


def _first_times(arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return first_times(group_rows(arrays["impression"]), arrays["time"])


@dataclass(frozen=True)
class _SplitEncoder:
    """Labels, hashes and times of a batch.

    Attributes:
        labels: Columns of the labels.
        keys: Columns of each hash.
        time: The time column, or None.
        seed: Seed of the hashes.
    """

    labels: Sequence[str]
    keys: Mapping[str, Sequence[str]]
    time: TimeColumn | None
    seed: int

    def __call__(self, chunk: Chunk) -> dict[str, npt.NDArray[Any]]:
        batch, file, first_row = chunk.batch, chunk.part.name, chunk.row
        values: dict[str, npt.NDArray[Any]] = {
            _LABEL.format(name): encode_label(batch.column(name), file=file, column=name, first_row=first_row)
            for name in self.labels
        }
        names = dict.fromkeys(name for columns in self.keys.values() for name in columns)
        hashed = {name: hash_column(batch.column(name)) for name in names}
        for key, columns in self.keys.items():
            values[key] = hash_rows([hashed[name] for name in columns], seed_of(f"split.{key}", self.seed))
        # In the keys' order, not that of a set, which is another one in each process: of several columns with a fault
        # the same one is named.
        for key in (key for key in self.keys if key in _LONE_KEYS):
            for name in self.keys[key]:
                refuse_rounded(batch.column(name), file=file, column=name, first_row=first_row)
            is_missing = np.logical_or.reduce([hashed[name].is_null for name in self.keys[key]])
            # By the row and with another seed than keys have, so that a row without a key meets no group.
            alone = HashedColumn(values["row"][is_missing], np.zeros(is_missing.sum(), np.bool_))
            values[key][is_missing] = hash_rows([alone], seed_of(f"split.{key}.row", self.seed))
            values[f"missing.{key}"] = is_missing
        if self.time is not None:
            time = replace(self.time, file=file)
            values["time"] = time.values(batch.column(time.name), first_row=first_row)
        return values


def _checked_columns(schema: pa.Schema, named: Mapping[str, Sequence[str | None]], file: str) -> list[str]:
    """The columns that settings name, once each, if all are there and can be compared."""
    pairs = [(key, name) for key, names in named.items() for name in names if name is not None]
    problems = [
        f"{file}: {key}: no column {name}{did_you_mean(name, schema.names)}"
        for key, name in pairs
        if name not in schema.names
    ]
    present = sorted({name for _, name in pairs if name in schema.names})
    problems += [
        f"{file}: column {name}: values of type {schema.field(name).type} cannot identify a row or a group"
        for name in present
        if not is_groupable(schema.field(name).type)
    ]
    if problems:
        raise SchemaError(*problems)
    return present
