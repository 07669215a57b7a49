"""Shifts of the prior that are known, never fitted: what training did to it, and what the output should have."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qin.metrics.logits import Float64Array, FloatArray, prior_logit

OutputPrior = float | Literal["natural", "balanced"]


@dataclass(frozen=True, kw_only=True)
class TrainingPrior:
    """The click rate that a model was trained on, and what training made of it.

    Attributes:
        base_rate: Natural click rate of the train fold.
        pos_weight: See `prior_offset`.
        neg_ratio: See `prior_offset`.
        reweighted: See `prior_offset`.
    """

    base_rate: float
    pos_weight: float = 1.0
    neg_ratio: float = 1.0
    reweighted: bool = True

    @property
    def offset(self) -> float:
        """What to add to a training logit; see `prior_offset`."""
        return prior_offset(pos_weight=self.pos_weight, neg_ratio=self.neg_ratio, reweighted=self.reweighted)


def prior_offset(*, pos_weight: float, neg_ratio: float, reweighted: bool) -> float:
    """What to add to a training logit so that it is on the natural scale.

    Weighting positives by `pos_weight` multiplies the fitted odds by it. Keeping a share `neg_ratio` of the negatives
    divides them by it, unless each kept negative was weighted by `1 / neg_ratio`.

    Args:
        pos_weight: Weight of a positive in the loss; 1 for none.
        neg_ratio: Share of negatives kept in training, in (0, 1].
        reweighted: Whether the kept negatives carried the weight `1 / neg_ratio`.

    Raises:
        ValueError: `pos_weight` is not positive and finite, or `neg_ratio` is not in (0, 1].

    Source: King and Zeng (2001), Logistic regression in rare events data, equation 7.
    """
    if not 0.0 < pos_weight < math.inf:
        raise ValueError(f"pos_weight must be positive and finite: {pos_weight=}")
    if not 0.0 < neg_ratio <= 1.0:
        raise ValueError(f"neg_ratio must lie in (0, 1]: {neg_ratio=}")
    return (0.0 if reweighted else math.log(neg_ratio)) - math.log(pos_weight)


def check_prior(prior: OutputPrior) -> None:
    """Check a prior before there is anything to shift.

    Raises:
        ValueError: If it is a number not strictly between 0 and 1, or another word than `natural` and `balanced`.
    """
    is_word = isinstance(prior, str)
    if (prior not in ("natural", "balanced")) if is_word else not 0.0 < float(prior) < 1.0:
        raise ValueError(f"prior must be natural, balanced or a number strictly between 0 and 1: {prior=}")


def shift_prior(logit: FloatArray, *, base_rate: float, prior: OutputPrior) -> Float64Array:
    """Move natural logits to another prior: `logit + logit(prior) - logit(base_rate)`.

    Args:
        logit: `(n,)`, calibrated at `base_rate`.
        base_rate: Click rate that the logits are calibrated to; see `CalibrationReport.base_rate`.
        prior: `natural` changes nothing, `balanced` is 0.5 (it minimises WLL), a number is the click rate to assume.

    Raises:
        ValueError: `base_rate` or a numeric `prior` is not strictly between 0 and 1, or `prior` is another word.

    Source: Saerens, Latinne and Decaestecker (2002), Adjusting the outputs of a classifier to new a priori
    probabilities, equation 4.
    """
    check_prior(prior)
    # Before the choice, so that a base rate of 0 or 1 is refused whatever the prior.
    base_logit = prior_logit(base_rate)
    if prior == "natural":
        return logit.astype(np.float64)
    wanted = 0.0 if isinstance(prior, str) else prior_logit(prior)
    return logit.astype(np.float64) + (wanted - base_logit)
