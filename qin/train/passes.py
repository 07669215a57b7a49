"""Training passes of a network over a batch: one, or two that form an ensemble."""

import torch
from torch import nn

from qin.shards.loader import Batch
from qin.train.losses import self_ensemble


def forward(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Logits of a batch, `(batch,)`."""
    logit: torch.Tensor = network(batch.categorical, batch.numeric, batch.sequences)
    return logit


def forward_ensemble(network: nn.Module, batch: Batch, *, strength: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits of a batch, and what a self-ensemble adds to the loss of each row.

    Args:
        network: In training mode, with dropout where there is a strength: each pass draws masks of its own.
        batch: Rows.
        strength: Weight of the passes' divergence from their mean; 0 makes one pass.

    Returns:
        Logits `(batch,)`, of the mean probability where there are two passes, and the weighted divergence, `(batch,)`,
        or None after one pass.
    """
    first = forward(network, batch)
    if not strength:
        return first, None
    logit, divergence = self_ensemble(first, forward(network, batch))
    return logit, strength * divergence
