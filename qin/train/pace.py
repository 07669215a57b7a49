"""Batch size, learning rate and number of networks, from the number of rows where they are not set."""

import math
from dataclasses import dataclass
from typing import Literal

from qin.config import TrainParams

# The batch that `train.lr` is meant for where `train.lr_scaling` is on.
REFERENCE_BATCH_SIZE = 1024

# A small log needs small batches, or an epoch has too few steps to learn in before identifiers are learned by heart:
# rows / 150, between what still fills the processor and where larger batches gained nothing on any log that was tried.
_STEPS_PER_EPOCH = 150
_BATCH_SIZES = (128, 1024)

# What a network makes of few rows depends on its draws more than on the data, and several cost little there: as many
# as a run on this many rows, up to where a further one gained nothing.
_ROWS_OF_NETWORKS = 120_000
_MOST_NETWORKS = 4


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


def choose_num_networks(seeds: int | Literal["auto"], *, num_rows: int) -> int:
    """How many networks are trained, whose logits are averaged.

    Args:
        seeds: `model.seeds`.
        num_rows: Rows of the train fold.
    """
    if seeds != "auto":
        return seeds
    return min(max(_ROWS_OF_NETWORKS // max(num_rows, 1), 1), _MOST_NETWORKS)


def _nearest_power(value: float) -> int:
    low, high = _BATCH_SIZES
    return int(min(max(2 ** round(math.log2(max(value, 1.0))), low), high))
