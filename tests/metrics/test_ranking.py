"""Ranking metrics against scikit-learn, probability metrics against plain float64 loops."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from qin.metrics import logits
from qin.metrics.definitions import competition_score
from qin.metrics.logits import log_losses
from qin.metrics.ranking import RankingCounts, ranking_counts
from tests.metrics.figures import probability_metrics, ranking_metrics

Array = NDArray[Any]


def sample(num_rows: int, *, seed: int = 0, dtype: type = np.float64) -> tuple[Array, Array]:
    """Logits of a calibrated rare event, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    logit: Array = rng.normal(-3.5, 1.0, num_rows).astype(dtype)
    label = (rng.random(num_rows) < 1.0 / (1.0 + np.exp(-logit.astype(np.float64)))).astype(np.int8)
    return logit, label


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_ap_and_auc_equal_scikit_learn_with_and_without_ties(dtype: type, decimals: int | None) -> None:
    logit, label = sample(20_000, dtype=dtype)
    logit = logit if decimals is None else np.round(logit, decimals)
    metrics = ranking_metrics(logit, label)
    assert metrics["ap"] == pytest.approx(average_precision_score(label, logit), abs=1e-12)
    assert metrics["auc"] == pytest.approx(roc_auc_score(label, logit), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_ap_and_auc_equal_scikit_learn_on_small_tied_samples(rows: list[tuple[int, bool]]) -> None:
    logit, label = np.array([row[0] for row in rows], dtype=np.float64), np.array([row[1] for row in rows])
    if label.all() or not label.any():
        with pytest.raises(ValueError, match="both classes must be present"):
            ranking_metrics(logit, label)
        return
    metrics = ranking_metrics(logit, label)
    assert metrics["ap"] == pytest.approx(average_precision_score(label, logit), abs=1e-12)
    assert metrics["auc"] == pytest.approx(roc_auc_score(label, logit), abs=1e-12)


def test_counts_do_not_depend_on_how_negatives_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    logit, label = sample(5_000, dtype=np.float32)
    logit = np.round(logit, 1)
    whole = ranking_counts(logit, label)
    monkeypatch.setattr(logits, "_CHUNK_ROWS", 37)
    streamed = RankingCounts(logit[label == 1])
    for chunk in np.array_split(logit[label == 0][::-1], 11):
        streamed.add_negatives(chunk)
    assert streamed.average_precision() == whole.average_precision() == ranking_counts(logit, label).average_precision()
    assert streamed.auc() == whole.auc()


def test_metrics_do_not_depend_on_monotone_maps_or_class_weights() -> None:
    logit, label = sample(3_000)
    assert ranking_metrics(np.exp(logit), label) == ranking_metrics(logit, label)
    doubled = ranking_metrics(np.tile(logit, 2), np.tile(label, 2))
    assert doubled == pytest.approx(ranking_metrics(logit, label), abs=1e-12)


def test_ranking_counts_refuse_a_missing_class_and_infinite_logits() -> None:
    with pytest.raises(ValueError, match="no positive logit"):
        RankingCounts(np.array([]))
    counts = RankingCounts(np.array([1.0]))
    with pytest.raises(ValueError, match="no negative logit"):
        counts.auc()
    with pytest.raises(ValueError, match="no negative logit"):
        counts.average_precision()
    with pytest.raises(ValueError, match="finite: element 1 is nan"):
        counts.add_negatives(np.array([0.0, math.nan]))


def test_log_losses_equal_scikit_learn_and_a_plain_loop() -> None:
    logit, label = sample(4_000)
    of_positives, of_negatives = log_losses(logit, label)
    assert of_positives == pytest.approx(
        math.fsum(math.log1p(math.exp(-z)) for z in logit[label == 1]) / label.sum(), rel=1e-12
    )
    assert of_negatives == pytest.approx(
        math.fsum(math.log1p(math.exp(z)) for z in logit[label == 0]) / (label == 0).sum(), rel=1e-12
    )
    metrics = probability_metrics(logit, label, base_rate=0.05)
    assert metrics["log_loss"] == pytest.approx(log_loss(label, 1.0 / (1.0 + np.exp(-logit))), rel=1e-12)
    weight = np.where(label == 1, 0.5 / label.sum(), 0.5 / (label == 0).sum())
    expected = log_loss(label, 1.0 / (1.0 + np.exp(-logit)), sample_weight=weight)
    assert metrics["wll"] == pytest.approx(expected, rel=1e-12)
    shifted = logit - math.log(0.05 / 0.95)
    expected = log_loss(label, 1.0 / (1.0 + np.exp(-shifted)), sample_weight=weight)
    assert metrics["wll_balanced"] == pytest.approx(expected, rel=1e-12)


def test_losses_of_extreme_logits_stay_exact() -> None:
    of_positives, of_negatives = log_losses(np.array([-800.0, 800.0]), np.array([1, 0]))
    assert (of_positives, of_negatives) == (800.0, 800.0)
    of_positives, of_negatives = log_losses(np.array([50.0, -50.0]), np.array([1, 0]))
    assert of_positives == of_negatives == pytest.approx(math.exp(-50.0), rel=1e-12)


def test_normalised_entropy_and_ratio_of_the_base_rate_are_one() -> None:
    label = np.array([1] * 3 + [0] * 97)
    logit = np.full(100, math.log(0.03 / 0.97))
    metrics = probability_metrics(logit, label, base_rate=0.03)
    assert metrics["ne"] == pytest.approx(1.0, abs=1e-14)
    assert metrics["calibration_ratio"] == pytest.approx(1.0, abs=1e-14)
    assert metrics["wll_balanced"] == pytest.approx(math.log(2.0), abs=1e-14)
    assert metrics["calibration_error"] == 0.0
    assert metrics["cox_intercept"] is None
    assert metrics["cox_slope"] is None


def test_balanced_wll_is_least_at_the_class_balanced_posterior() -> None:
    logit, label = sample(400_000)
    rate = float(label.mean())
    at_optimum = probability_metrics(logit, label, base_rate=rate)["wll_balanced"]
    assert at_optimum is not None
    for offset in (-0.3, 0.3):
        shift = offset - math.log(rate / (1.0 - rate))
        assert 0.5 * sum(log_losses(logit, label, offset=shift)) > at_optimum + 1e-3


def test_competition_score_of_published_figures() -> None:
    assert competition_score(ap=0.07, wll=0.6) == pytest.approx(0.3475)
    assert competition_score(ap=1.0, wll=0.0) == 1.0


def test_keys_are_stable() -> None:
    logit, label = sample(500)
    assert list(ranking_metrics(logit, label)) == ["ap", "auc"]
    assert list(probability_metrics(logit, label, base_rate=0.03)) == [
        "log_loss",
        "ne",
        "wll",
        "wll_balanced",
        "calibration_ratio",
        "cox_intercept",
        "cox_slope",
        "calibration_error",
        "calibration_error_null",
    ]


@pytest.mark.parametrize("label", [np.zeros(4, dtype=int), np.ones(4, dtype=bool)])
def test_one_class_is_refused(label: Array) -> None:
    with pytest.raises(ValueError, match=r"both classes must be present: [04] positives in 4 rows"):
        probability_metrics(np.arange(4.0), label, base_rate=0.1)


@pytest.mark.parametrize("base_rate", [0.0, 1.0, math.nan])
def test_base_rate_outside_the_unit_interval_is_refused(base_rate: float) -> None:
    with pytest.raises(ValueError, match="base_rate must lie strictly between 0 and 1"):
        probability_metrics(np.arange(2.0), np.array([0, 1]), base_rate=base_rate)
