"""Small logs as Parquet files, and settings that fit them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qin.columns.resolve import resolve_schema
from qin.columns.schema import Schema
from qin.config import DataParams, FeatureParams, SequenceParams, SplitParams

SHOP_BUCKETS, ITEM_BUCKETS, SEQ_BUCKETS = 12, 40, 70000
SEQ_MAX_LEN, RECENT_MAX_LEN = 4, 3

Columns = dict[str, pa.Array]


def make_log(num_rows: int, *, seed: int = 0) -> Columns:
    """Train columns: text with nulls, integers, numbers with gaps, text and list sequences, both labels, an id."""
    generator = np.random.default_rng(seed)

    def gaps(values: Any) -> Any:
        return [
            None if missing else value for value, missing in zip(values, generator.random(num_rows) < 0.1, strict=True)
        ]

    shop = gaps([f"shop {number}" for number in generator.integers(0, 15, num_rows)])
    seq = gaps([",".join(map(str, generator.integers(0, 99, n))) for n in generator.integers(0, 8, num_rows)])
    recent = gaps([generator.integers(0, 60, n).tolist() for n in generator.integers(0, 6, num_rows)])
    return {
        "shop": pa.array(shop, pa.string()),
        "item": pa.array(generator.integers(0, 60, num_rows)),
        "price": pa.array(gaps(generator.normal(size=num_rows).tolist()), pa.float32()),
        "views": pa.array(generator.integers(0, 1000, num_rows), pa.int32()),
        "seq": pa.array(seq, pa.string()),
        "recent": pa.array(recent, pa.list_(pa.int64())),
        "clicked": pa.array((np.arange(num_rows) % 4 == 1).astype(np.int32)),
        "ID": pa.array([f"ROW_{row:05d}" for row in range(num_rows)]),
    }


def write_log(path: Path, columns: Mapping[str, pa.Array], *, row_group_rows: int | None = None) -> str:
    pq.write_table(pa.table(dict(columns)), path, row_group_size=row_group_rows)
    return str(path)


def data_params(train: str | list[str] = "train.parquet", **changes: Any) -> DataParams:
    settings: dict[str, Any] = {
        "train": train,
        "test": "test.parquet",
        "sample_submission": "sample_submission.csv",
        "label": "clicked",
        "id": "ID",
    }
    return DataParams(**{**settings, **changes})


def feature_params(**changes: Any) -> FeatureParams:
    settings: dict[str, Any] = {
        "categorical": ["shop", "item"],
        "numeric": ["price", "views"],
        "sequences": [
            SequenceParams(name="seq", max_len=SEQ_MAX_LEN, num_buckets=SEQ_BUCKETS),
            SequenceParams(name="recent", max_len=RECENT_MAX_LEN, vocabulary_of="item"),
        ],
        "target": ["item"],
        "num_buckets": ITEM_BUCKETS,
        "num_buckets_of": {"shop": SHOP_BUCKETS},
        "hash_seed": 7,
    }
    return FeatureParams(**{**settings, **changes})


def split_params(method: str, **changes: Any) -> SplitParams:
    settings: dict[str, Any] = {"method": method, "seed": 0, "val_ratio": 0.2, "time_val_ratio": 0.2}
    return SplitParams(**{**settings, **changes})


def log_schema(columns: Mapping[str, pa.Array]) -> Schema:
    return resolve_schema(pa.table(dict(columns)).schema, data=data_params(), features=feature_params())
