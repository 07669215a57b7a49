"""Prepared logs made of buckets, for what is fitted on them."""

from pathlib import Path

import numpy as np

from qin.columns.schema import Field, FieldKind, Schema
from qin.features.artifact import Statistics
from qin.features.past import Past
from qin.features.statistics import FitReport, choose_statistics, fit_statistics
from qin.shards.files import ShardReader, ShardWriter, layout

NUM_BUCKETS = 70_000


def bucket_schema(*names: str, target: tuple[str, ...] = ()) -> Schema:
    """Categorical fields of many buckets, and one number."""
    fields = [Field(name, FieldKind.CATEGORICAL, vocabulary=name, num_buckets=NUM_BUCKETS) for name in names]
    return Schema((*fields, Field("price", FieldKind.NUMERIC)), target or names[-1:], "clicked", "ID", 0)


def write_buckets(
    folder: Path, columns: dict[str, np.ndarray], label: np.ndarray, *, target: tuple[str, ...] = ()
) -> ShardReader:
    """Prepared rows with these buckets; the number is the row's."""
    folder.mkdir(parents=True)
    schema = bucket_schema(*columns, target=target)
    writer = ShardWriter(folder, layout(schema, with_label=True), num_rows=label.size, shard_rows=1000)
    writer.append(
        {
            "categorical": np.column_stack(list(columns.values())).astype(np.int32),
            "numeric": np.arange(label.size, dtype=np.float32)[:, None],
            "label": label.astype(np.uint8)[:, None],
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
