"""From settings to modules: the only place where params.yaml meets code. To add an option, add one line here."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from qin.config import HardNegativeParams, ImbalanceParams, ModelParams, TrainParams
from qin.errors import ConfigError
from qin.network.embedding import FusedEmbedding, NumericNormalizer
from qin.network.kernels.bf16 import has_bf16_units
from qin.network.qin import EMBEDDING_STD, QIN, QINInputs, QINSizes
from qin.runtime.progress import log
from qin.schema import Schema
from qin.shards.device import PrefetchingLoader, ResidentLoader, fits
from qin.shards.files import ShardReader
from qin.shards.loader import BatchSource, ShuffledLoader
from qin.train.loop import FitSettings
from qin.train.mining import HardNegatives, is_batch_coupled, two_passes_save_time
from qin.train.optimizers import Optimizers
from qin.train.row_adam import RowWiseAdam
from qin.train.selection import auto_pos_weight

# The authors' implementation of the published model (arXiv 2504.17699).
PUBLISHED: dict[str, Any] = {
    "embedding_std": EMBEDDING_STD,
    "num_heads": 1,
    "attention_norm": "none",
    "attention_bias": "none",
    "attention_scale": 1.0,
    "target_values": False,
    "separate_attention_embedding": False,
    "activation": "after",
    "norm": "batch",
    "dropout": 0.1,
    "row_dropout": 0.1,
    "embedding_dropout": 0.0,
    "field_dropout": 0.0,
    "num_frequencies": 0,
}

# Rows of the embedding table from which row-wise updates cost less than dense ones (benchmarks/row_adam.py).
SPARSE_TABLE_ROWS = 500_000

# The batch that `train.lr` is meant for where `train.lr_scaling` is on.
REFERENCE_BATCH_SIZE = 1024

# Parameters whose size carries no meaning for the fit: biases, slopes, batch-norm scales.
_MIN_DECAYED_DIM = 2


def build_model(schema: Schema, params: ModelParams, *, mean: Sequence[float], std: Sequence[float], seed: int) -> QIN:
    """The network for a schema, with seeded initial weights.

    Args:
        schema: The resolved columns.
        params: Sizes and regularisation.
        mean: Mean of each numeric field's signed log on the train fold.
        std: Its standard deviation.
        seed: Seed of the initial weights.
    """
    names = list(schema.vocabularies)
    positions = {field.name: position for position, field in enumerate(schema.categorical)}
    inputs = QINInputs(
        num_buckets=tuple(schema.vocabularies.values()),
        num_fields=len(schema.categorical),
        sequence_vocabulary=tuple(names.index(field.vocabulary) for field in schema.sequences),
        target_fields=tuple(positions[name] for name in schema.target),
    )
    is_sparse = sum(inputs.num_buckets) >= SPARSE_TABLE_ROWS
    sizes = QINSizes(**resolve_preset(params).model_dump(exclude={"preset"}), sparse_embedding_grad=is_sparse)
    normalizer = NumericNormalizer(torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32))
    return QIN(inputs=inputs, sizes=sizes, normalizer=normalizer, generator=torch.Generator().manual_seed(seed))


def resolve_preset(params: ModelParams) -> ModelParams:
    """The settings with a preset's variants in place; the widths and depths stay as they are set."""
    if params.preset == "custom":
        return params
    return params.model_copy(update=PUBLISHED)


def build_optimizer(model: nn.Module, params: TrainParams) -> torch.optim.Optimizer | Optimizers:
    """AdamW with decay on matrices and tables only; large tables are updated row by row where they were read."""
    tables = [m.embedding_table for m in model.modules() if isinstance(m, FusedEmbedding) and m.sparse]
    parameters = [p for p in model.parameters() if not any(p is table for table in tables)]
    groups = [
        {"params": [p for p in parameters if p.dim() >= _MIN_DECAYED_DIM], "weight_decay": params.weight_decay},
        {"params": [p for p in parameters if p.dim() < _MIN_DECAYED_DIM], "weight_decay": 0.0},
    ]
    lr = resolve_lr(params)
    dense = torch.optim.AdamW(groups, lr=lr, fused=True)
    if not tables:
        return dense
    if params.ema_decay is not None:
        raise ConfigError(
            "params.yaml: train.ema_decay: must be null with an embedding table of "
            f"{SPARSE_TABLE_ROWS} rows or more, because an average passes over all of it at every step"
        )
    return Optimizers(dense, RowWiseAdam(tables, lr=lr, weight_decay=params.weight_decay))


def choose_device(params: TrainParams) -> torch.device:
    """The device that computes.

    Raises:
        ConfigError: If a GPU is demanded and there is none.
    """
    if params.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("params.yaml: train.device: cuda, but PyTorch finds no GPU here")
    return torch.device("cuda" if params.device != "cpu" and torch.cuda.is_available() else "cpu")


def choose_bf16(params: TrainParams, device: torch.device) -> bool:
    """Whether matrix products are made in bfloat16: on request, or where the hardware has units for it."""
    if params.precision != "auto":
        return params.precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return has_bf16_units()


def place(network: QIN, params: TrainParams) -> QIN:
    """The network on its device, in its precision."""
    device = choose_device(params)
    network.use_bf16 = choose_bf16(params, device)
    return network.to(device)


def build_loader(reader: ShardReader, params: TrainParams, device: torch.device) -> BatchSource:
    """Shuffled batches of the prepared train file on the device; a GPU holds the whole file if it fits."""
    loader = ShuffledLoader(reader, batch_size=params.batch_size, buffer_rows=params.buffer_rows, seed=params.seed)
    if device.type == "cpu":
        return loader
    return ResidentLoader(loader, device) if fits(loader, device) else PrefetchingLoader(loader, device)


def resolve_pos_weight(params: ImbalanceParams, label: npt.NDArray[np.uint8]) -> float:
    """The weight of a positive in the loss, from the train fold's labels where it is `auto`."""
    if params.pos_weight is None:
        return 1.0
    if params.pos_weight == "auto":
        num_positives = int(label.sum())
        return auto_pos_weight(label.size - num_positives, num_positives)
    return params.pos_weight


def resolve_neg_ratio(params: ImbalanceParams) -> float:
    """The share of negatives that training keeps in each epoch."""
    return params.neg_downsample_ratio if params.use_neg_downsampling else 1.0


def build_hard_negatives(
    params: HardNegativeParams, network: nn.Module, *, batch_size: int, positive_share: float
) -> HardNegatives | None:
    """Mining inside each batch, or None where it is off.

    Args:
        params: What to mine.
        network: That will be trained.
        batch_size: Rows per batch.
        positive_share: Expected share of positives in a batch.

    Raises:
        ConfigError: If two passes are demanded of a network in which a row's logit depends on its batch.
    """
    if not params.enable:
        return None
    if params.mode == "ohem":
        log.warning("hnm.mode ohem is biased: it drops the easy negatives without weighting the rest; see goss and pps")
    is_coupled = is_batch_coupled(network)
    if params.forward == "two_pass" and is_coupled:
        raise ConfigError(
            "params.yaml: hnm.forward: two_pass is impossible with batch norm (model.norm, model.preset), because the "
            "kept rows alone have other means and variances than the whole batch; use auto or one_pass"
        )
    settings = params.model_dump(exclude={"enable", "forward", "warmup_steps"})
    saves_time = two_passes_save_time(**settings, num_rows=batch_size, positive_share=positive_share)
    two_passes = params.forward == "two_pass" or (params.forward == "auto" and saves_time and not is_coupled)
    log.info("hard negatives: %s, %s", params.mode, "two passes" if two_passes else "one pass")
    return HardNegatives(**settings, warmup_steps=params.warmup_steps, two_passes=two_passes)


def resolve_lr(params: TrainParams) -> float:
    """The learning rate at this batch size.

    An epoch of batches k times as large has a k-th of the steps. Steps of Adam that are sqrt(k) times as long keep
    the noise of its path, k times as long its length (the rule of SGD).

    Source: sqrt, Malladi et al. (2022); linear, Goyal et al. (2017).
    """
    factor = params.batch_size / REFERENCE_BATCH_SIZE
    return params.lr * {"none": 1.0, "sqrt": math.sqrt(factor), "linear": factor}[params.lr_scaling]


def build_settings(params: TrainParams) -> FitSettings:
    """The training loop's settings."""
    return FitSettings(
        seed=params.seed,
        epochs=params.epochs,
        patience=params.patience,
        lr=resolve_lr(params),
        schedule=params.schedule,
        warmup_steps=params.warmup_steps,
        gradient_clip=params.gradient_clip,
        ema_decay=params.ema_decay,
        self_ensemble=params.self_ensemble,
        checkpoint_seconds=params.checkpoint_seconds,
        checkpoint_steps=params.checkpoint_steps,
    )
