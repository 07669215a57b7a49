"""Dropout whose random bits are drawn four elements at a time."""

import torch
import torch.nn.functional as F  # noqa: N812

_ELEMENTS_PER_WORD = 4
_LEVELS = 1 << 16
_LOWEST_WORD, _LOWEST_LEVEL = -(1 << 63), -(1 << 15)


def dropout(x: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Zero each element with a probability and divide the others by the share that stays, as `F.dropout` does.

    PyTorch draws on a CPU one Bernoulli number after the other on one thread, which with dropout on the rows took more
    than half of a training step. Here each 64-bit word decides four elements, so that the probability is rounded to a
    multiple of 1/65536; what stays is divided by its share after the rounding, which keeps the mean exact. The words
    come from torch's global generator.

    Args:
        x: Any shape and floating type.
        probability: In [0, 1).
        training: Whether anything is dropped.
    """
    num_dropped = min(round(probability * _LEVELS), _LEVELS - 1)
    if not training or num_dropped == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    words = torch.empty(-(-x.numel() // _ELEMENTS_PER_WORD), dtype=torch.int64).random_(_LOWEST_WORD, None)
    level = words.view(torch.int16)[: x.numel()].view(x.shape)
    is_kept = level >= _LOWEST_LEVEL + num_dropped
    return x * is_kept.to(x.dtype).mul_(_LEVELS / (_LEVELS - num_dropped))
