"""From settings to what trains: optimizer, loader and the mining of hard negatives."""

import torch
from torch import nn

from qin.config import HardNegativeParams, TrainParams
from qin.distributed.ranks import ONE, Ranks
from qin.model.build import SPARSE_TABLE_ROWS
from qin.network.embedding import sparse_tables
from qin.runtime.errors import ConfigError
from qin.runtime.progress import log
from qin.shards.device import PrefetchingLoader, ResidentLoader, fits
from qin.shards.files import RowReader
from qin.shards.loader import BatchSource, ShuffledLoader
from qin.train.mining import HardNegatives, is_batch_coupled, two_passes_save_time
from qin.train.optimizers import Optimizers, RowWiseAdam

# Parameters whose size carries no meaning for the fit: biases, slopes, batch-norm scales.
_MIN_DECAYED_DIM = 2


def build_optimizer(model: nn.Module, params: TrainParams, *, lr: float) -> torch.optim.Optimizer | Optimizers:
    """AdamW with decay on matrices and tables only; large tables are updated row by row where they were read."""
    tables, parameters = sparse_tables(model)
    groups = [
        {"params": [p for p in parameters if p.dim() >= _MIN_DECAYED_DIM], "weight_decay": params.weight_decay},
        {"params": [p for p in parameters if p.dim() < _MIN_DECAYED_DIM], "weight_decay": 0.0},
    ]
    device = parameters[0].device
    # On a GPU the rate is a tensor that lives there, so that a step that was recorded reads what is set later.
    on_gpu = {"lr": torch.tensor(lr, device=device), "capturable": True} if device.type == "cuda" else {"lr": lr}
    # Fused: one pass over weights, gradients and moments, where the plain form makes one for each operation.
    dense = torch.optim.AdamW(groups, fused=True, **on_gpu)
    if not tables:
        return dense
    if params.ema_decay is not None:
        raise ConfigError(
            "params.yaml: train.ema_decay: must be null with an embedding table of "
            f"{SPARSE_TABLE_ROWS} rows or more, because an average passes over all of it at every step"
        )
    return Optimizers(dense, RowWiseAdam(tables, lr=lr, weight_decay=params.weight_decay))


def build_loader(
    reader: RowReader, params: TrainParams, device: torch.device, *, batch_size: int, ranks: Ranks = ONE
) -> BatchSource:
    """Shuffled batches of the prepared train file on the device; a GPU holds the whole file if it fits.

    Args:
        reader: Prepared train file.
        params: Section train.
        device: That computes.
        batch_size: Rows of a batch, of all processes.
        ranks: The processes, of which each takes its part of every batch.
    """
    loader = ShuffledLoader(
        reader,
        batch_size=batch_size,
        buffer_rows=params.buffer_rows,
        seed=params.seed,
        rank=ranks.rank,
        world=ranks.world,
    )
    if device.type == "cpu":
        return loader
    return ResidentLoader(loader, device) if fits(loader, device) else PrefetchingLoader(loader, device)


def build_hard_negatives(
    params: HardNegativeParams, network: nn.Module, *, batch_size: int, positive_share: float
) -> HardNegatives | None:
    """Mining inside each batch, or None where it is off.

    Args:
        params: What to mine.
        network: That will be trained.
        batch_size: Rows per batch.
        positive_share: Expected share of positives in a batch.
    """
    if not params.enable:
        return None
    if params.mode == "ohem":
        log.warning(
            "warning: hnm.mode ohem is biased: it drops the easy negatives without weighting the rest; see goss and pps"
        )
    is_coupled = is_batch_coupled(network)
    settings = params.model_dump(exclude={"enable", "forward", "warmup_steps"})
    saves_time = two_passes_save_time(**settings, num_rows=batch_size, positive_share=positive_share)
    two_passes = params.forward == "two_pass" or (params.forward == "auto" and saves_time and not is_coupled)
    log.info("hard negatives: %s, %s", params.mode, "two passes" if two_passes else "one pass")
    return HardNegatives(**settings, warmup_steps=params.warmup_steps, two_passes=two_passes)


def check_passes(params: HardNegativeParams, *, norm: str) -> None:
    """Refuse two passes where a row's logit depends on its batch.

    Args:
        params: What to mine.
        norm: Of the network's layers.

    Raises:
        ConfigError: Naming the settings.
    """
    if params.enable and params.forward == "two_pass" and norm == "batch":
        raise ConfigError(
            "params.yaml: hnm.forward: two_pass is impossible with batch norm (model.norm, model.preset), because the "
            "kept rows alone have other means and variances than the whole batch; use auto or one_pass"
        )
