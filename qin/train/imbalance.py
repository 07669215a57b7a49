"""Fewer negatives without bias: which rows an epoch trains on, and what each weighs in the loss.

Weights compose by multiplication: a row's weight in the loss is the product of its downsampling, class and selection
weights.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from qin.config import ImbalanceParams
from qin.distributed.ranks import ONE, Ranks
from qin.runtime.seeds import Stream
from qin.scored.prior import TrainingPrior
from qin.shards.loader import BatchSource


def neg_downsample(
    label: npt.NDArray[np.uint8], *, ratio: float, generator: np.random.Generator
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Keep every positive, and each negative independently with probability `ratio`.

    Args:
        label: `(rows,)`, 0 or 1.
        ratio: Share of negatives to keep, in (0, 1].
        generator: Seeded generator; one number is drawn per row, whatever its label.

    Returns:
        Whether each row is kept, `(rows,)`, and each row's weight, `(rows,)`: 1 for positives, `1 / ratio` for
        kept negatives, 0 for the others. Its expectation is 1 for every row.

    Raises:
        ValueError: `label` is not a vector of 0 and 1, or `ratio` is outside (0, 1].
    """
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"the negative ratio must be in (0, 1], got {ratio=}")
    if label.ndim != 1 or np.any((label != 0) & (label != 1)):
        raise ValueError(f"label must be a vector of 0 and 1, got shape {label.shape}, values {np.unique(label)[:5]}")
    is_positive = label == 1
    keep = is_positive | (generator.random(len(label)) < ratio)
    weight = np.where(is_positive, 1.0, keep / ratio)
    return keep, weight.astype(np.float32)


def auto_pos_weight(num_negatives: int, num_positives: int) -> float:
    """Return the weight that gives both classes the same total, `num_negatives / num_positives`.

    Raises:
        ValueError: A count is below 1.
    """
    if min(num_negatives, num_positives) < 1:
        raise ValueError(f"both classes need at least one row, got {num_negatives=}, {num_positives=}")
    return num_negatives / num_positives


def positive_weights(label: torch.Tensor, *, pos_weight: float) -> torch.Tensor:
    """Return `pos_weight` for positives and 1 for negatives, `(batch,)`, float32.

    This shifts the logit that the loss is minimised by, by `log(pos_weight)`; the calibrator's offset undoes it.

    Args:
        label: `(batch,)`, 0 or 1.
        pos_weight: Positive and finite.

    Raises:
        ValueError: `pos_weight` is not positive and finite.
    """
    if not 0.0 < pos_weight < math.inf:
        raise ValueError(f"pos_weight must be positive and finite, got {pos_weight=}")
    return torch.ones(label.shape, device=label.device).masked_fill_(label == 1, pos_weight)


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


def training_prior(params: ImbalanceParams, label: npt.NDArray[np.uint8]) -> TrainingPrior:
    """What the settings make of the click rate of the train fold, whose labels are `(n,)`."""
    return TrainingPrior(
        base_rate=float(label.mean()),
        pos_weight=resolve_pos_weight(params, label),
        neg_ratio=resolve_neg_ratio(params),
        reweighted=params.reweight_negatives,
    )


def num_drawn_rows(label: npt.NDArray[np.uint8], prior: TrainingPrior) -> float:
    """Expected rows of an epoch over rows with these labels `(n,)`."""
    num_positives = int(np.count_nonzero(label))
    return num_positives + prior.neg_ratio * (label.size - num_positives)


@dataclass(frozen=True)
class TrainingRows:
    """The rows of each epoch: the train fold, its negatives downsampled anew every epoch.

    Attributes:
        loader: Shuffled batches.
        is_train: `(num_rows,)`.
        label: `(num_rows,)`.
        prior: Share of negatives kept, and what each class weighs.
        seed: Seed of the downsampling.
        ranks: The processes that share every batch.
    """

    loader: BatchSource
    is_train: npt.NDArray[np.bool_]
    label: npt.NDArray[np.uint8]
    prior: TrainingPrior
    seed: int
    ranks: Ranks = ONE

    @property
    def positive_share(self) -> float:
        """Expected share of positives among the rows of an epoch."""
        num_positives, num_negatives = self._expected_rows
        return num_positives / (num_positives + num_negatives)

    @cached_property
    def batch_weight(self) -> float:
        """Expected total weight of a batch: what the loss of every step is divided by.

        A constant of the train fold and the selection, so the sum of the gradients of an epoch is the gradient of its
        weighted loss, up to one factor. The weight that a batch turns out to have goes with its number of clicks:
        divided by that, a step counts a click less the more clicks are in its batch, and the logit that training
        converges to is no longer the natural one plus a known shift.
        """
        num_positives, num_negatives = self._expected_rows
        num_rows = num_positives + num_negatives
        total = num_positives * self.prior.pos_weight + num_negatives * self._neg_weight
        return min(self.loader.batch_size, num_rows) * (total / num_rows)

    @cached_property
    def _expected_rows(self) -> tuple[float, float]:
        """Positives, and expected negatives, of an epoch."""
        num_positives = int(np.count_nonzero(self.label[self.is_train]))
        return num_positives, self.prior.neg_ratio * (int(np.count_nonzero(self.is_train)) - num_positives)

    @property
    def _neg_weight(self) -> float:
        return 1.0 / self.prior.neg_ratio if self.prior.reweighted else 1.0

    def selection(self, epoch: int) -> npt.NDArray[np.bool_]:
        """Rows of an epoch, `(num_rows,)`."""
        if self.prior.neg_ratio == 1.0:
            return self.is_train
        generator = np.random.default_rng((self.seed, epoch, Stream.DOWNSAMPLING))
        # A number for every row of the file: what is drawn for one depends on no fold.
        keep, _ = neg_downsample(self.label, ratio=self.prior.neg_ratio, generator=generator)
        return keep & self.is_train

    def weights(self, label: torch.Tensor) -> torch.Tensor:
        """Weight of each row of a batch, `(batch,)`."""
        return positive_weights(label, pos_weight=self.prior.pos_weight) * torch.where(
            label == 1, 1.0, self._neg_weight
        )
