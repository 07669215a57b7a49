"""Known prior shifts: training's offset, and the output's prior."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from qin.metrics.logits import log_losses
from qin.scored.prior import TrainingPrior, prior_offset, shift_prior
from tests.metrics.test_ranking import sample


@pytest.mark.parametrize(
    ("pos_weight", "neg_ratio", "reweighted"),
    [(1.0, 1.0, False), (49.0, 1.0, False), (3.0, 0.1, False), (3.0, 0.1, True)],
)
def test_offset_undoes_weights_and_downsampling_in_expectation(
    pos_weight: float, neg_ratio: float, reweighted: bool
) -> None:
    """The weighted, thinned objective of one constant logit is least at the natural logit less the offset."""
    rate = 0.02
    kept_negatives = (1.0 - rate) * neg_ratio * (1.0 / neg_ratio if reweighted else 1.0)
    training_logit = math.log(rate * pos_weight / kept_negatives)
    prior = TrainingPrior(base_rate=rate, pos_weight=pos_weight, neg_ratio=neg_ratio, reweighted=reweighted)
    assert training_logit + prior.offset == pytest.approx(math.log(rate / (1.0 - rate)), abs=1e-14)


@pytest.mark.parametrize(
    ("pos_weight", "neg_ratio", "message"),
    [
        (0.0, 1.0, "pos_weight must be positive and finite: pos_weight=0.0"),
        (math.inf, 1.0, "pos_weight must be positive and finite"),
        (1.0, 0.0, r"neg_ratio must lie in \(0, 1\]: neg_ratio=0.0"),
        (1.0, 1.5, r"neg_ratio must lie in \(0, 1\]: neg_ratio=1.5"),
    ],
)
def test_impossible_weights_are_refused(pos_weight: float, neg_ratio: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prior_offset(pos_weight=pos_weight, neg_ratio=neg_ratio, reweighted=False)


def test_prior_shift_moves_odds() -> None:
    logit = np.array([-5.0, 0.0, 2.0], dtype=np.float32)
    np.testing.assert_array_equal(shift_prior(logit, base_rate=0.02, prior="natural"), logit)
    odds = np.exp(shift_prior(logit, base_rate=0.02, prior=0.1) - logit)
    np.testing.assert_allclose(odds, (0.1 / 0.9) / (0.02 / 0.98), rtol=1e-12)
    balanced = shift_prior(logit, base_rate=0.02, prior="balanced")
    np.testing.assert_allclose(balanced, shift_prior(logit, base_rate=0.02, prior=0.5), rtol=1e-15)


def known_log(folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """The sample log's true logits and its clicks: the reference data's shape and base rate."""
    probability = pq.read_table(folder / "truth/train.parquet")["probability"].to_numpy()
    label = pq.read_table(folder / "train.parquet")["clicked"].to_numpy()
    return np.log(probability) - np.log1p(-probability), label


@pytest.mark.parametrize("source", ["simulated", "sample log"])
def test_balanced_output_minimises_wll_over_shifts(source: str, small_log: Path) -> None:
    """WLL is convex in the shift, so a gradient that vanishes to sampling error at `balanced` is its minimum."""
    logit, label = sample(200_000, seed=3) if source == "simulated" else known_log(small_log)
    base_rate = float(label.mean())
    balanced = shift_prior(logit, base_rate=base_rate, prior="balanced")
    probability = 1.0 / (1.0 + np.exp(-balanced))
    missed, raised = 1.0 - probability[label == 1], probability[label == 0]  # d WLL / d shift = (raised - missed) / 2
    error = math.sqrt(missed.var() / missed.size + raised.var() / raised.size)
    assert abs(raised.mean() - missed.mean()) < 3.0 * error
    wll = {shift: sum(log_losses(balanced, label, offset=shift)) for shift in (-1.0, -0.4, 0.0, 0.4, 1.0)}
    assert min(wll, key=wll.__getitem__) == 0.0
    for prior in (0.35, 0.65, base_rate, "natural"):
        shifted = shift_prior(logit, base_rate=base_rate, prior=prior)
        assert sum(log_losses(shifted, label)) > wll[0.0]


@pytest.mark.parametrize(("base_rate", "prior"), [(0.0, "natural"), (0.1, 0.0), (0.1, 1.0), (0.1, "flat")])
def test_impossible_priors_are_refused(base_rate: float, prior: Any) -> None:
    with pytest.raises(ValueError, match=r"must (lie strictly|be natural)"):
        shift_prior(np.zeros(2), base_rate=base_rate, prior=prior)
