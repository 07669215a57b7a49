"""Settings that each are right, drawn together: of the split, folds, weights, mining, refits, calibrators, rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.mutation import Mutation, choice
from tests.fuzz.sandbox import settings, write_settings

Change = dict[str, Any]

# Of each group one is drawn, or none.
_GROUPS: dict[str, tuple[Change, ...]] = {
    "split": (
        {"split.method": "group_user", "split.group_key": "user"},
        {"split.method": "group_session", "split.session_key": "user"},
        {"split.method": "group_session", "split.group_key": "cat", "split.session_key": "user"},
        {"split.method": "time", "split.time_col": "ts"},
        {"split.method": "time", "split.time_col": "ts", "split.time_embargo": 50_000.0},
        {"split.method": "time", "split.time_col": "ts", "split.time_val_start": 1_650_600_000},
        {
            "split.method": "time",
            "split.time_col": "ts",
            "split.session_key": "user",
            "split.cross_boundary_sessions": "drop",
        },
        {"split.row_key": None},
        {"split.group_key": "cat"},
        {"split.time_col": "ts"},
    ),
    "folds": ({"split.num_folds": 2}, {"split.num_folds": 3}, {"split.num_folds": 5, "split.time_val_ratio": 0.1}),
    "validation": ({"split.val_ratio": 0.05}, {"split.val_ratio": 0.9}, {"split.time_val_ratio": 0.05}),
    "sampling": (
        {"imbalance.use_neg_downsampling": True, "imbalance.neg_downsample_ratio": 0.3},
        {
            "imbalance.use_neg_downsampling": True,
            "imbalance.neg_downsample_ratio": 0.3,
            "imbalance.reweight_negatives": False,
        },
        {"imbalance.use_neg_downsampling": True, "imbalance.neg_downsample_ratio": 1e-6},
    ),
    "weight": ({"imbalance.pos_weight": "auto"}, {"imbalance.pos_weight": 3.0}, {"imbalance.pos_weight": 1e-6}),
    "mining": (
        {"hnm.enable": True, "hnm.min_neg": 1},
        {"hnm.enable": True, "hnm.mode": "pps", "hnm.min_neg": 4},
        {"hnm.enable": True, "hnm.mode": "ohem", "hnm.top_neg_frac": 0.5},
        {"hnm.enable": True, "hnm.forward": "two_pass", "hnm.warmup_steps": 1},
        {"hnm.enable": True, "hnm.top_neg_frac": 0.0, "hnm.rest_frac": 1.0},
    ),
    "refit": ({"train.refit": "none"}, {"train.refit": "all"}),
    "training": (
        {"train.ema_decay": 0.9},
        {"train.self_ensemble": 1.0},
        {"train.schedule": "cosine", "train.epochs": 2},
        {"train.schedule": "plateau", "train.checks_per_epoch": 3},
        {"train.batch_size": 2},
        {"train.batch_size": 100_000},
        {"train.keep_optimizer": True},
        {"train.lr_scaling": "linear", "train.warmup_steps": 1000},
        {"train.precision": "bf16"},
        {"train.checkpoint_seconds": 0.0},
        {"train.epochs": 3, "train.patience": 1},
    ),
    "members": ({"model.members": ["network"]}, {"model.members": ["trees"]}, {"model.seeds": 2}),
    "network": (
        {"model.preset": "published"},
        {"model.alternatives": []},
        {"model.min_count": 3},
        {"model.numeric_bins": 4, "model.num_frequencies": 2},
        {"model.num_heads": 2, "model.attention_bias": "recency", "model.target_values": True},
        {"model.attention_score": "mlp", "model.attention_bias": "constant", "model.target_values": True},
        {"model.alternatives": [{"attention_score": "mlp", "separate_attention_embedding": True}]},
        {"model.separate_attention_embedding": True, "model.pooled_history": True, "model.norm": "batch"},
        {"model.field_dropout": 0.5, "model.row_dropout": 0.5, "model.norm": "rms"},
    ),
    "calibration": (
        {"calibration.temperature_scaling": False},
        {"calibration.method": "platt", "calibration.objective": "wll"},
        {"calibration.method": "beta"},
        {"calibration.by": "cat"},
        {"calibration.by": "user", "calibration.method": "beta", "calibration.objective": "wll"},
    ),
    "features": (
        {"features.matches": False},
        {"features.impression.key": ["user"]},
        {"features.impression.key": ["user", "ts"], "features.impression.columns": []},
        {"features.statistics.enable": False},
        {"features.statistics.fields": [], "features.statistics.pairs": []},
        {"features.statistics.drift_psi": None, "features.statistics.num_blocks": 2},
        {"features.sequences": []},
        {"features.numeric": [], "data.ignore": ["extra_*", "price", "ts"]},
    ),
    "evaluation": (
        {"evaluate.importance_rows": 0},
        {"evaluate.slices": ["user", "cat", "price", "ts", "seq", "unused"]},
        {"evaluate.num_bins": 2, "evaluate.num_curve_points": 10},
    ),
    "prediction": (
        {"data.test": None},
        {"data.test": None, "data.sample_submission": None},
        {"predict.prior": "balanced"},
        {"predict.prior": 1e-9, "predict.batch_size": 1},
    ),
    "preparation": ({"prepare.shard_rows": 1}, {"prepare.num_processes": 2}, {"prepare.batch_rows": 1}),
}

_CLICKS = (None, None, None, 2, 5, 20, 395, 398)


def mutate_combinations(folder: Path, generator: np.random.Generator) -> Mutation:
    """Write settings of several groups at once, and sometimes a log with few rows of a class."""
    chosen = generator.permutation(list(_GROUPS))[: int(generator.integers(2, 6))]
    changes: Change = {}
    for name in map(str, chosen):
        changes |= choice(generator, _GROUPS[name])
    clicks = choice(generator, _CLICKS)
    if "features.sequences" in changes:
        changes["data.ignore"] = [*changes.get("data.ignore", ["extra_*"]), "seq", "recent"]
        changes["features.sequences"] = []
    tree = settings()
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        node = tree
        for part in parents:
            node = node[part]
        node[last] = value
    write_settings(folder, tree)
    if clicks is not None:
        _relabel(folder, clicks, generator)
    return Mutation(f"{changes}, {'its own' if clicks is None else clicks} clicks")


def _relabel(folder: Path, num_clicks: int, generator: np.random.Generator) -> None:
    file = folder / "data/train.parquet"
    table = pq.read_table(file)
    clicked = np.zeros(table.num_rows, np.int8)
    clicked[generator.choice(table.num_rows, num_clicks, replace=False)] = 1
    place = table.schema.get_field_index("clicked")
    pq.write_table(table.set_column(place, "clicked", pa.array(clicked)), file)
