"""Standard errors against published formulas, numerical derivatives, the jackknife and simulations."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from qin.metrics.definitions import AP, Rows, competition_estimate, competition_score
from qin.metrics.estimate import Estimate
from qin.metrics.logits import sigmoid
from qin.metrics.standard_errors import standard_error, values_with_errors
from tests.metrics.figures import (
    log_loss_estimate,
    probability_estimates,
    probability_metrics,
    ranking_estimates,
    ranking_metrics,
    wll_estimate,
)
from tests.metrics.test_ranking import sample

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


def jackknife(logit: Array, label: Array) -> float:
    """Standard error of AP from leaving out one row at a time."""
    rows = np.arange(label.size)
    values = np.array([ranking_metrics(logit[rows != row], label[rows != row])["ap"] for row in rows])
    return math.sqrt((label.size - 1) / label.size * np.sum((values - values.mean()) ** 2))


@pytest.mark.parametrize("decimals", [0, 6])
def test_ap_agrees_with_the_jackknife(decimals: int) -> None:
    rng = np.random.default_rng(8)
    logit = np.round(rng.normal(size=800), decimals)
    label = rng.random(800) < sigmoid(logit)
    found = standard_error(ranking_estimates(logit, label)["ap"].influence, label)
    # they differ at second order in the reciprocal of the number of positives
    assert found == pytest.approx(jackknife(logit, label), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("clustered", [False, True])
def test_errors_agree_with_the_bootstrap(clustered: bool) -> None:
    logit, label = sample(6_000, seed=9)
    logit = np.round(logit + 1.0, 1)
    rng, num_draws = np.random.default_rng(10), 1_500
    # users whose rows resemble each other: neighbours in logit
    cluster = np.argsort(np.argsort(logit + 0.3 * rng.normal(size=label.size))) // 6 if clustered else np.arange(6_000)
    rows_of = np.split(np.argsort(cluster, kind="stable"), np.cumsum(np.bincount(cluster))[:-1])
    drawn: dict[str, list[float]] = {}
    for _ in range(num_draws):
        rows = np.concatenate([rows_of[code] for code in rng.integers(0, len(rows_of), len(rows_of))])
        for name, estimate in estimates(logit[rows], label[rows]).items():
            drawn.setdefault(name, []).append(estimate.value)
    for name, estimate in estimates(logit, label).items():
        found = standard_error(estimate.influence, label == 1, cluster=cluster)
        # a bootstrap's own standard deviation is 1 / sqrt(2 * 1500) = 2% of it
        assert found == pytest.approx(np.std(drawn[name]), rel=0.08), name


ROWS = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 5)), min_size=4, max_size=40)


def unpacked(rows: list[tuple[int, bool, int]]) -> tuple[Array, Array, Array]:
    logit, label, cluster = (np.array(values) for values in zip(*rows, strict=True))
    return logit.astype(np.float64), label, cluster


@settings(max_examples=30, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_order_of_rows_and_names_of_clusters_do_not_matter(rows: list[tuple[int, bool, int]], random: Any) -> None:
    logit, label, cluster = unpacked(rows)
    if label.all() or not label.any():
        return
    order = np.array(random.sample(range(label.size), label.size))
    renamed = np.array(random.sample(range(9), 6))[cluster]
    moved = estimates(logit[order], label[order])
    for name, estimate in estimates(logit, label).items():
        error = standard_error(estimate.influence, label, cluster=cluster)
        other = standard_error(moved[name].influence, label[order], cluster=renamed[order])
        np.testing.assert_allclose(moved[name].influence, estimate.influence[order], atol=1e-13)
        assert (error is None) == (other is None)
        assert other is None or other == pytest.approx(error, rel=1e-9, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(ROWS, st.integers(2, 4))
def test_copies_of_rows_in_one_cluster_change_nothing(rows: list[tuple[int, bool, int]], num_copies: int) -> None:
    logit, label, cluster = unpacked(rows)
    if label.all() or not label.any():
        return
    copies = estimates(np.tile(logit, num_copies), np.tile(label, num_copies))
    for name, estimate in estimates(logit, label).items():
        error = standard_error(estimate.influence, label, cluster=cluster)
        other = standard_error(copies[name].influence, np.tile(label, num_copies), cluster=np.tile(cluster, num_copies))
        assert copies[name].value == pytest.approx(estimate.value, rel=1e-12)
        assert (error is None) == (other is None)
        assert other is None or other == pytest.approx(error, rel=1e-9, abs=1e-12)


def test_the_error_of_a_mean_is_the_textbook_one_up_to_the_class_factors() -> None:
    logit, label = sample(5_000)
    losses = np.logaddexp(0.0, np.where(label == 1, -logit, logit))
    found = standard_error(log_loss_estimate(logit, label).influence, label == 1)
    assert found is not None
    ratio = found / (losses.std(ddof=1) / math.sqrt(label.size))
    assert 1.0 < ratio < math.sqrt(label.sum() / (label.sum() - 1))


def test_the_error_of_wll_is_that_of_two_independent_means() -> None:
    logit, label = sample(5_000)
    losses = np.logaddexp(0.0, np.where(label == 1, -(logit - 1.0), logit - 1.0))
    variance = sum(losses[label == c].var(ddof=1) / np.sum(label == c) for c in (0, 1))
    found = standard_error(wll_estimate(logit - 1.0, label).influence, label == 1)
    assert found == pytest.approx(0.5 * math.sqrt(variance), rel=1e-12)


def test_the_competition_score_follows_its_parts() -> None:
    logit, label = sample(3_000)
    found = competition_estimate(ap=ranking_estimates(logit, label)["ap"], wll=wll_estimate(logit, label))
    step = 1e-4
    for row in (0, int(np.argmax(label))):
        weight = np.ones((2, label.size))
        weight[:, row] += step, -step
        figures = [weighted_metrics(logit, label, w) for w in weight]
        scores = [competition_score(ap=of["ap"], wll=of["wll"]) for of in figures]
        assert found.influence[row] == pytest.approx((scores[0] - scores[1]) / (2.0 * step), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("cluster", [None, np.zeros(4, dtype=np.int64), np.array([0, 1, 2, 0])])
def test_a_class_in_one_cluster_has_no_error(cluster: Array | None) -> None:
    label = np.array([True, False, False, cluster is not None])
    assert standard_error(np.arange(4.0), label, cluster=cluster) is None


def test_what_does_not_fit_is_refused() -> None:
    label = np.array([True, False, True, False])
    with pytest.raises(ValueError, match="shapes must be equal"):
        standard_error(np.arange(4.0), label, cluster=np.arange(3))
    with pytest.raises(ValueError, match="negative"):
        standard_error(np.arange(4.0), label, cluster=np.array([-1, 0, 1, 2]))


def test_an_average_precision_of_a_handful_of_rows_has_an_interval_between_0_and_1() -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        size = int(generator.integers(3, 21))
        logit, label = generator.integers(-2, 3, size).astype(np.float64), np.zeros(size, np.int64)
        label[generator.choice(size, int(generator.integers(1, size)), replace=False)] = 1
        rows = Rows(logit, label)
        for cluster in (None, np.arange(size) // 2):
            found = values_with_errors({"ap": AP.estimate(rows)}, rows.is_positive, cluster=cluster)
            if found["ap_se"] is not None:
                assert found["ap_lower"] is not None
                assert found["ap_upper"] is not None
                assert 0.0 <= found["ap_lower"] <= found["ap_upper"] <= 1.0
