"""A prepared log whose clicks depend on known fields only: the shop, the price, and whether the item was seen."""

from pathlib import Path

import numpy as np
import torch

from qin.shards.files import ShardReader, ShardWriter, layout
from qin.shards.loader import Batch
from tests.logs import ITEM_BUCKETS, RECENT_MAX_LEN, SEQ_MAX_LEN, SHOP_BUCKETS, log_schema, make_log

SCHEMA = log_schema(make_log(4))


def write_planted(folder: Path, *, num_rows: int, seed: int = 0) -> ShardReader:
    """Fields in order: shop, item; price, views (noise); seq (noise), recent, which shares the item's vocabulary."""
    generator = np.random.default_rng(seed)
    folder.mkdir()
    item = generator.integers(2, ITEM_BUCKETS, num_rows)
    recent = generator.integers(2, ITEM_BUCKETS, (num_rows, RECENT_MAX_LEN))
    recent[np.arange(RECENT_MAX_LEN) >= generator.integers(0, RECENT_MAX_LEN + 1, num_rows)[:, None]] = 0
    is_seen = generator.random(num_rows) < 0.3
    recent[is_seen, 0] = item[is_seen]
    numeric = generator.normal(size=(num_rows, 2))
    numeric[generator.random((num_rows, 2)) < 0.1] = np.nan
    arrays = {
        "categorical": np.stack([generator.integers(2, SHOP_BUCKETS, num_rows), item], axis=1),
        "numeric": numeric,
        "sequence.seq": generator.integers(0, 50, (num_rows, SEQ_MAX_LEN)),
        "sequence.recent": recent,
    }
    batch = Batch(
        np.arange(num_rows),
        torch.from_numpy(arrays["categorical"]),
        torch.from_numpy(numeric),
        (torch.from_numpy(arrays["sequence.seq"]), torch.from_numpy(recent)),
        None,
    )
    probability = torch.sigmoid(planted_logit(batch)).numpy()
    label = generator.random((num_rows, 1)) < probability[:, None]
    groups = layout(SCHEMA, with_label=True)
    writer = ShardWriter(folder, groups, num_rows=num_rows, shard_rows=1000)
    arrays_and_label = {**arrays, "label": label}
    writer.append({group.name: arrays_and_label[group.name].astype(group.dtype) for group in groups})
    writer.close(schema=SCHEMA)
    return ShardReader(folder)


def planted_logit(batch: Batch) -> torch.Tensor:
    """The true logit of each row."""
    categorical = batch.categorical.to(torch.int64)
    is_seen = (batch.sequences[1].to(torch.int64) == categorical[:, 1:]).any(dim=1)
    price = torch.nan_to_num(batch.numeric[:, 0].double())
    return -2.5 + 0.4 * (categorical[:, 0] % 4) + 0.5 * price + 1.5 * is_seen
