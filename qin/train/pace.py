"""Batch size and learning rate, from the number of rows where they are not set."""

import math
from dataclasses import dataclass

from qin.config import TrainParams

# The batch that `train.lr` is meant for where `train.lr_scaling` is on.
REFERENCE_BATCH_SIZE = 1024

# A small log needs small batches, or an epoch has too few steps to learn in before identifiers are learned by heart:
# rows / 150, between what still fills the processor and where larger batches gained nothing on any log that was tried.
_STEPS_PER_EPOCH = 150
_BATCH_SIZES = (128, 1024)


@dataclass(frozen=True)
class Pace:
    """How a run proceeds.

    Attributes:
        batch_size: Rows of a step.
        lr: The learning rate at this batch size.
    """

    batch_size: int
    lr: float


def choose_pace(params: TrainParams, *, num_rows: float) -> Pace:
    """Resolve batch size and rate.

    An epoch of batches k times as large has a k-th of the steps. Steps of Adam that are sqrt(k) times as long keep
    the noise of its path, k times as long its length (the rule of SGD).

    Args:
        params: Section train.
        num_rows: Rows of an epoch, those alone that are drawn.

    Source: sqrt, Malladi et al. (2022); linear, Goyal et al. (2017).
    """
    batch_size = _nearest_power(num_rows / _STEPS_PER_EPOCH) if params.batch_size == "auto" else params.batch_size
    factor = batch_size / REFERENCE_BATCH_SIZE
    return Pace(batch_size, params.lr * {"none": 1.0, "sqrt": math.sqrt(factor), "linear": factor}[params.lr_scaling])


def _nearest_power(value: float) -> int:
    low, high = _BATCH_SIZES
    return int(min(max(2 ** round(math.log2(max(value, 1.0))), low), high))
