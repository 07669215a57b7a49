"""Prepared logs made of buckets, for what is fitted on them."""

from pathlib import Path

import numpy as np

from qin.columns.schema import Field, FieldKind, Schema
from qin.features.artifact import Statistics
from qin.features.past import Past
from qin.features.statistics import FitReport, choose_statistics, fit_statistics
from qin.shards.files import ShardReader, ShardWriter, layout

NUM_BUCKETS = 70_000


def bucket_schema(*names: str, target: tuple[str, ...] = (), max_len: int = 0) -> Schema:
    """Categorical fields of many buckets, one number, and where it may have items a history `seen`."""
    fields = [Field(name, FieldKind.CATEGORICAL, vocabulary=name, num_buckets=NUM_BUCKETS) for name in names]
    fields.append(Field("price", FieldKind.NUMERIC))
    if max_len:
        fields.append(Field("seen", FieldKind.SEQUENCE, vocabulary="seen", num_buckets=NUM_BUCKETS, max_len=max_len))
    return Schema(tuple(fields), target or names[-1:], "clicked", "ID", 0)


def write_buckets(
    folder: Path,
    columns: dict[str, np.ndarray],
    label: np.ndarray,
    *,
    target: tuple[str, ...] = (),
    seen: np.ndarray | None = None,
) -> ShardReader:
    """Prepared rows with these buckets, and those of a history `(num_rows, max_len)`; the number is the row's."""
    folder.mkdir(parents=True)
    schema = bucket_schema(*columns, target=target, max_len=0 if seen is None else seen.shape[1])
    writer = ShardWriter(folder, layout(schema, with_label=True), num_rows=label.size, shard_rows=1000)
    writer.append(
        {
            "categorical": np.column_stack(list(columns.values())).astype(np.int32),
            "numeric": np.arange(label.size, dtype=np.float32)[:, None],
            "label": label.astype(np.uint8)[:, None],
            **({} if seen is None else {"sequence.seen": seen.astype(np.int32)}),
        }
    )
    writer.close(schema=schema)
    return ShardReader(folder)


def fit(
    folder: Path,
    reader: ShardReader,
    past: Past,
    *,
    pairs: list[tuple[str, str]] | None = None,
    max_psi: float | None = None,
) -> tuple[FitReport, Statistics]:
    """Fit all fields of a prepared log, and these pairs of them."""
    folder.mkdir(parents=True)
    report = fit_statistics(
        reader,
        choose_statistics(reader.schema, patterns=None, pairs=pairs or [], user=None),
        label=np.asarray(reader.read("label", 0, reader.num_rows)[:, 0]),
        past=past,
        prior_weight=20.0,
        keep=max_psi,
        folder=folder,
    )
    return report, Statistics(folder)
