"""The mean of a behaviour sequence, whatever the target: what the user looked at in general."""

import torch

from qin.network.kernels.choice import has_kernels
from qin.network.kernels.pooling import tiled_means


def history_mean(sequence: torch.Tensor, is_valid: torch.Tensor) -> torch.Tensor:
    """The mean of the valid items.

    Args:
        sequence: `(batch, seq, dim)`.
        is_valid: `(batch, seq)`, bool; what stands in other positions gets a gradient of exactly zero.

    Returns:
        `(batch, dim)`, 0 where the history is empty.
    """
    if has_kernels(sequence) and sequence.dtype == torch.float32:
        return tiled_means(sequence, is_valid)
    length = is_valid.sum(dim=1, keepdim=True).clamp_min(1)
    return sequence.masked_fill(~is_valid.unsqueeze(2), 0.0).sum(dim=1) / length
