"""The moving average of a network's weights that checks may judge instead of the last step's."""

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def moving_average(model: nn.Module, *, decay: float) -> AveragedModel:
    """A copy of the model that follows it as an exponential moving average of weights and of the norms' moments.

    Whole numbers and flags (offsets of vocabularies, rare values) stay as they are: PyTorch's average of them would be
    truncated, 0.9 x + 0.1 x to x - 1.

    Source: Polyak and Juditsky (1992); exponential form as in PyTorch's `swa_utils`. Every step passes over all
    weights, tables included.
    """
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(averages: Any, values: Any, num_averaged: Any) -> None:
        """Follow tensors of one type."""
        if averages[0].is_floating_point():
            average(averages, values, num_averaged)
            return
        for own, value in zip(averages, values, strict=True):
            own.copy_(value)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
