"""FuxiCTR with a network of its own layers; a process of its own in an environment of its own, for `benchmarks.peers`.

`python peers_fuxictr.py TRAIN SCORED BATCH THREADS OUT`. Nothing of this project is imported.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from fuxictr.preprocess import FeatureProcessor, build_dataset
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel

_WIDTH, _MAX_LEN = 16, 100


class PooledMLP(BaseModel):  # type: ignore[misc]  # it has no types
    """Embeddings, the mean of the history's, and an MLP."""

    def __init__(self, feature_map: Any, **options: Any) -> None:
        super().__init__(feature_map, **options)
        self.embedding_layer = FeatureEmbedding(feature_map, _WIDTH)
        self.mlp = MLP_Block(
            input_dim=feature_map.sum_emb_out_dim(),
            output_dim=1,
            hidden_units=[512, 256, 128],
            hidden_activations="ReLU",
            output_activation=self.output_activation,
        )
        self.compile("adam", "binary_crossentropy", 1e-3)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: Any) -> dict[str, torch.Tensor]:
        """Probabilities of a batch."""
        embedded = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        return {"y_pred": self.mlp(embedded)}


def columns(path: str) -> list[dict[str, Any]]:
    """What each column of the sample log is."""
    out = []
    for field in pq.read_schema(path):
        if field.name in ("clicked", "ID", "id"):
            continue
        about = {"name": field.name, "active": True}
        if field.name == "seq":
            pooled = {"feature_encoder": "layers.MaskedAveragePooling()"}
            out.append({**about, "dtype": "str", "type": "sequence", "splitter": ",", "max_len": _MAX_LEN, **pooled})
        elif field.name.startswith(("feat_", "history_")):
            out.append({**about, "dtype": "float", "type": "numeric", "normalizer": "StandardScaler"})
        else:
            out.append({**about, "dtype": "str", "type": "categorical"})
    return out


def main(train: str, scored: str, batch: str, threads: str, out: str) -> None:
    """Prepare, train for one pass and score, and write how long each took."""
    torch.set_num_threads(int(threads))
    moments, root = [time.perf_counter()], str(Path(out).parent / "fuxictr")
    label = {"name": "clicked", "dtype": "float"}
    processor = FeatureProcessor(feature_cols=columns(train), label_col=label, dataset_id="log", data_root=root)
    files = build_dataset(
        processor, train_data=train, valid_data=scored, test_data=scored, data_format="parquet", min_categr_count=1
    )
    moments.append(time.perf_counter())
    parts = dict(zip(("train_data", "valid_data", "test_data"), files, strict=True))
    common = {"batch_size": int(batch), "data_format": "parquet"}
    batches, _ = RankDataLoader(processor.feature_map, stage="train", shuffle=True, **common, **parts)
    processor.feature_map.default_emb_dim = _WIDTH
    model = PooledMLP(processor.feature_map, model_root=root, metrics=["AUC"], verbose=0)
    model._max_gradient_norm = 10.0  # what its `fit` sets
    model.train()
    for rows in batches:
        model.train_step(rows)
    moments.append(time.perf_counter())
    for _ in range(2):  # the second time is counted, as of the other systems
        started = time.perf_counter()
        others = RankDataLoader(processor.feature_map, stage="test", shuffle=False, **common, **parts)
        chance = np.clip(model.predict(others), 1e-7, 1.0 - 1e-7)
        scored_seconds = time.perf_counter() - started
    steps = zip(("prepare", "train"), moments[1:], moments[:-1], strict=True)
    seconds = {f"{name}_seconds": stop - start for name, stop, start in steps} | {"score_seconds": scored_seconds}
    counts = {"num_train": pq.read_metadata(train).num_rows, "num_scored": pq.read_metadata(scored).num_rows}
    logit = np.log(chance) - np.log1p(-chance)
    Path(out).write_text(json.dumps({**seconds, **counts, "logit": list(map(float, logit))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
