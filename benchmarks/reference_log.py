"""Prepared shards of random rows in the reference shape, for benchmarks that need no log."""

from pathlib import Path

import numpy as np

from qin.columns.schema import Field, FieldKind, Schema
from qin.shards.files import Arrays, ShardWriter, layout

NUM_BUCKETS = {"item": 4096, **{f"field_{number:02d}": 4096 for number in range(37)}, "user": 16384, "place": 16384}
NUM_NUMERIC, MAX_LEN, NUM_ITEMS = 70, 100, 594
FULL_SHARE, MISSING_SHARE, LABEL_RATE = 0.86, 0.01, 0.02


def write_log(folder: Path, *, num_rows: int, seed: int) -> None:
    """Prepared shards of random rows in the reference shape, in a new folder."""
    folder.mkdir()
    categorical = (Field(name, FieldKind.CATEGORICAL, name, size) for name, size in NUM_BUCKETS.items())
    numeric = (Field(f"number_{number:02d}", FieldKind.NUMERIC) for number in range(NUM_NUMERIC))
    sequence = Field("seq", FieldKind.SEQUENCE, "item", NUM_BUCKETS["item"], MAX_LEN)
    schema = Schema(fields=(*categorical, *numeric, sequence), target=("item",), label="clicked", id="ID", hash_seed=0)
    writer = ShardWriter(folder, layout(schema, with_label=True), num_rows=num_rows, shard_rows=num_rows)
    generator = np.random.default_rng(seed)
    for start in range(0, num_rows, 8192):
        writer.append(_draw(generator, min(8192, num_rows - start)))
    writer.close(schema=schema)


def _draw(generator: np.random.Generator, num_rows: int) -> Arrays:
    """Buckets are skewed, as identifiers are; most histories fill all positions, the others any number of them."""
    numeric = generator.lognormal(size=(num_rows, NUM_NUMERIC))
    numeric[generator.random(numeric.shape) < MISSING_SHARE] = np.nan
    is_full = generator.random(num_rows) < FULL_SHARE
    length = np.where(is_full, MAX_LEN, generator.integers(1, MAX_LEN, num_rows))
    tokens = 2 + (NUM_ITEMS * generator.random((num_rows, MAX_LEN)) ** 3).astype(np.int64)
    buckets = [2 + ((size - 2) * generator.random(num_rows) ** 3).astype(np.int64) for size in NUM_BUCKETS.values()]
    return {
        "categorical": np.column_stack(buckets),
        "numeric": numeric,
        "sequence.seq": tokens * (np.arange(MAX_LEN) < length[:, None]),
        "label": generator.random((num_rows, 1)) < LABEL_RATE,
    }
