"""Standard errors against published formulas, numerical derivatives, the jackknife and simulations."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from qin.influence import (
    Estimate,
    probability_estimates,
    ranking_estimates,
    standard_error,
)
from qin.logits import sigmoid
from qin.metrics import probability_metrics, ranking_metrics
from tests.test_metrics import sample

Array = NDArray[Any]
BASE_RATE = 0.03


def estimates(logit: Array, label: Array) -> dict[str, Estimate]:
    """Every metric that has an influence function."""
    probability = probability_estimates(logit, label, base_rate=BASE_RATE)
    return {**ranking_estimates(logit, label), **probability}


def weighted_metrics(logit: Array, label: Array, weight: Array) -> dict[str, float]:
    """The same metrics of a weighted sample, from scikit-learn and plain sums."""
    probability = sigmoid(logit)

    def wll(shift: float) -> float:
        shifted = logit + shift
        losses = np.logaddexp(0.0, np.where(label == 1, -shifted, shifted))
        return 0.5 * sum(float(np.average(losses[label == c], weights=weight[label == c])) for c in (0, 1))

    rate = float(np.average(label, weights=weight))
    loss = float(log_loss(label, probability, sample_weight=weight))
    return {
        "ap": float(average_precision_score(label, logit, sample_weight=weight)),
        "auc": float(roc_auc_score(label, logit, sample_weight=weight)),
        "log_loss": loss,
        "ne": loss / -(rate * math.log(rate) + (1.0 - rate) * math.log(1.0 - rate)),
        "wll": wll(0.0),
        "wll_balanced": wll(-math.log(BASE_RATE / (1.0 - BASE_RATE))),
        "calibration_ratio": float(np.dot(weight, probability) / np.dot(weight, label)),
    }


@pytest.mark.parametrize("decimals", [0, 6])
def test_influence_is_the_derivative_of_the_weighted_metric_with_and_without_ties(decimals: int) -> None:
    logit, label = sample(300, seed=4)
    logit = np.round(logit + 1.0, decimals)
    found = estimates(logit, label)
    step = 1e-4
    for row in (*np.flatnonzero(label)[:3], *np.flatnonzero(label == 0)[:5]):
        weight = np.ones((2, label.size))
        weight[:, row] += step, -step
        up, down = (weighted_metrics(logit, label, w) for w in weight)
        for name, estimate in found.items():
            # a row's weight counts relative to the total, which the influence already takes out
            numeric = (up[name] - down[name]) / (2.0 * step)
            assert estimate.influence[row] == pytest.approx(numeric, rel=1e-5, abs=1e-8), (name, row)


@pytest.mark.parametrize("decimals", [0, 6])
def test_values_are_those_of_the_metrics_and_influences_sum_to_zero(decimals: int) -> None:
    logit, label = sample(4_000, dtype=np.float32)
    logit = np.round(logit, decimals)
    expected = {**ranking_metrics(logit, label), **probability_metrics(logit, label, base_rate=BASE_RATE)}
    for name, estimate in estimates(logit, label).items():
        assert estimate.value == pytest.approx(expected[name], rel=1e-12), name
        assert abs(estimate.influence.sum()) < 1e-12 * label.size, name


def placements(logit: Array, label: Array) -> tuple[Array, Array]:
    """DeLong's structural components, from every pair."""
    positive, negative = logit[label == 1], logit[label == 0]
    won = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return won.mean(axis=1), won.mean(axis=0)


@pytest.mark.parametrize("decimals", [0, 6])
def test_auc_equals_delong_alone_and_paired(decimals: int) -> None:
    logit, label = sample(1_500, seed=2)
    other = np.round(0.6 * logit + np.random.default_rng(3).normal(size=label.size), decimals)
    logit = np.round(logit, decimals)
    (ones_first, zeros_first), (ones_second, zeros_second) = placements(logit, label), placements(other, label)
    num_ones, num_zeros = ones_first.size, zeros_first.size
    covariance = np.cov(ones_first, ones_second) / num_ones + np.cov(zeros_first, zeros_second) / num_zeros
    first, second = ranking_estimates(logit, label)["auc"], ranking_estimates(other, label)["auc"]
    found = standard_error(first.influence, label == 1)
    assert found == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-12)
    paired = standard_error(second.influence - first.influence, label == 1)
    assert paired == pytest.approx(math.sqrt(np.array([-1, 1]) @ covariance @ np.array([-1, 1])), rel=1e-12)


def obuchowski(logit: Array, label: Array, cluster: Array) -> float:
    """Clustered standard error of AUC, one cluster after the other, as published."""
    is_positive = label == 1
    of_positives, of_negatives = placements(logit, label)
    auc, num_ones, num_zeros = of_positives.mean(), of_positives.size, of_negatives.size
    ones, zeros = [], []
    for code in np.unique(cluster):
        ones.append(np.sum(of_positives[cluster[is_positive] == code] - auc))
        zeros.append(np.sum(of_negatives[cluster[~is_positive] == code] - auc))
    holders = [np.unique(cluster[rows]).size for rows in (is_positive, ~is_positive)]
    s10 = holders[0] / ((holders[0] - 1) * num_ones) * np.dot(ones, ones)
    s01 = holders[1] / ((holders[1] - 1) * num_zeros) * np.dot(zeros, zeros)
    s11 = len(ones) / (len(ones) - 1) * np.dot(ones, zeros)
    return math.sqrt(s10 / num_ones + s01 / num_zeros + 2.0 * s11 / (num_ones * num_zeros))


def test_clustered_auc_equals_obuchowski() -> None:
    logit, label = sample(1_000, seed=6)
    cluster = np.random.default_rng(7).integers(0, 60, label.size)
    found = standard_error(ranking_estimates(np.round(logit, 1), label)["auc"].influence, label == 1, cluster=cluster)
    assert found == pytest.approx(obuchowski(np.round(logit, 1), label, cluster), rel=1e-12)
