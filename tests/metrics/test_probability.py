"""Cox regression, equal-mass bins and the debiased calibration error."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from qin.metrics import logits
from qin.metrics.probability import (
    ReliabilityBins,
    calibration_error,
    calibration_figures,
    cox_calibration,
    reliability_bins,
)
from tests.metrics.figures import probability_metrics
from tests.metrics.test_ranking import sample

Array = NDArray[Any]


def test_cox_regression_equals_scikit_learn() -> None:
    logit, label = sample(20_000)
    logit = 0.7 * logit + 1.0
    reference = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=200)
    reference.fit(logit[:, None], label)
    intercept, slope = cox_calibration(logit, label)
    assert slope == pytest.approx(reference.coef_[0, 0], abs=1e-8)
    assert intercept == pytest.approx(reference.intercept_[0], abs=1e-8)


def test_cox_regression_undoes_an_affine_map_exactly() -> None:
    logit, label = sample(5_000)
    intercept, slope = cox_calibration(logit, label)
    moved = cox_calibration(1e3 * logit - 5e3, label)
    assert moved == pytest.approx((intercept + 5.0 * slope, slope / 1e3), rel=1e-10)


@pytest.mark.parametrize(
    ("logit", "label"),
    [
        ([0.0, 1.0, 2.0, 3.0], [0, 0, 1, 1]),
        ([0.0, 1.0, 1.0, 3.0], [0, 0, 1, 1]),  # touching: still no finite maximum
        ([0.0, 1.0, 2.0, 3.0], [1, 1, 0, 0]),
        ([1.0, 1.0, 1.0, 1.0], [0, 1, 0, 1]),
    ],
)
def test_cox_regression_refuses_separated_or_constant_logits(logit: list[float], label: list[int]) -> None:
    with pytest.raises(ValueError, match="the classes must overlap"):
        cox_calibration(np.array(logit), np.array(label))


def test_cox_regression_converges_on_barely_overlapping_classes() -> None:
    logit = np.concatenate([np.linspace(-20.0, 0.0, 200), [0.01], np.linspace(0.02, 20.0, 200), [-0.01]])
    label = np.array([0] * 200 + [0] + [1] * 200 + [1])
    intercept, slope = cox_calibration(logit, label)
    residual = logits.sigmoid(intercept + slope * logit) - label
    assert abs(residual.mean()) < 1e-10
    assert abs((residual * logit).mean()) < 1e-10


def naive_error(logit: Array, label: Array, num_bins: int) -> float:
    """One sorted bin after the other: mean gap squared less the sampling variance of the mean residual."""
    order = np.argsort(logit)
    total = 0.0
    for rows in np.split(order, [k * logit.size // num_bins for k in range(1, num_bins)]):
        residual = label[rows] - 1.0 / (1.0 + np.exp(-logit[rows]))
        total += rows.size / logit.size * (residual.mean() ** 2 - residual.var(ddof=1) / rows.size)
    return math.sqrt(max(total, 0.0))


@pytest.mark.parametrize("num_bins", [1, 2, 15])
def test_calibration_error_equals_a_naive_loop(num_bins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logit, label = sample(3_001)
    monkeypatch.setattr(logits, "_CHUNK_ROWS", 100)
    error, _ = calibration_error(reliability_bins(logit + 0.5, label, num_bins=num_bins))
    assert error == pytest.approx(naive_error(logit + 0.5, label, num_bins), rel=1e-10)
    assert error > 0.0


def test_calibration_error_is_the_published_estimator_when_a_bin_has_one_probability() -> None:
    num_rows, num_positives, probability = np.array([400, 600]), np.array([30, 200]), np.array([0.05, 0.4])
    logit = np.repeat(np.log(probability / (1.0 - probability)), num_rows)
    label = np.concatenate([np.arange(n) < k for n, k in zip(num_rows, num_positives, strict=True)])
    rate = num_positives / num_rows
    expected = np.sum(num_rows / 1000 * ((rate - probability) ** 2 - rate * (1.0 - rate) / (num_rows - 1)))
    error, _ = calibration_error(reliability_bins(logit, label))
    assert error == pytest.approx(math.sqrt(expected), rel=1e-12)


def test_bins_have_equal_mass_keep_ties_together_and_ignore_row_order() -> None:
    logit, label = sample(1_000)
    assert reliability_bins(logit, label, num_bins=20).num_rows.tolist() == [50] * 20
    tied = np.round(logit)
    bins = reliability_bins(tied, label, num_bins=20)
    order = np.random.default_rng(1).permutation(tied.size)
    np.testing.assert_array_equal(bins.num_rows, reliability_bins(tied[order], label[order], num_bins=20).num_rows)
    assert bins.num_rows.sum() == 1_000
    # no value is split: every bin's size is a sum of whole groups of equal logits
    groups = np.cumsum(np.unique(tied, return_counts=True)[1])
    assert set(np.cumsum(bins.num_rows)) <= set(groups)


def test_a_bin_of_one_row_adds_nothing() -> None:
    bins = reliability_bins(np.array([-1.0, 3.0]), np.array([1, 0]), num_bins=2)
    assert bins.num_rows.tolist() == [1, 1]
    assert calibration_error(bins) == (0.0, 0.0)


def test_null_level_is_exceeded_in_five_percent_of_calibrated_samples_and_by_every_shifted_one() -> None:
    rng = np.random.default_rng(5)
    logit = rng.normal(-2.0, 1.0, 4_000)
    probability = 1.0 / (1.0 + np.exp(-logit))
    exceeded, shifted, num_draws = 0, 0, 600
    for _ in range(num_draws):
        label = rng.random(logit.size) < probability
        error, null = calibration_error(reliability_bins(logit, label))
        exceeded += error > null
        error, null = calibration_error(reliability_bins(logit + 0.5, label))
        shifted += error > null
    # binomial(600, 0.05) has standard deviation 5.3
    assert abs(exceeded - 30) < 4 * 5.3
    assert shifted == num_draws


def test_num_bins_must_be_positive() -> None:
    with pytest.raises(ValueError, match="num_bins must be at least 1: num_bins=0"):
        reliability_bins(np.arange(2.0), np.array([0, 1]), num_bins=0)


@pytest.mark.parametrize("size", [300.0, 372.0, 400.0, 500.0, 744.0, 800.0, 1e38])
def test_extreme_logits_have_a_null_level(size: float) -> None:
    """As after a diverged training: `p (1 - p)` is so small that its square, or itself, vanishes."""
    logit = np.tile([size, -size, size * 1.001, -size * 1.001], 5)
    label = np.array([1, 0, 0, 1] * 5)
    figures = probability_metrics(logit, label, base_rate=0.5)
    assert figures["calibration_error"] == pytest.approx(np.sqrt(0.5), rel=0.5)
    null = figures["calibration_error_null"]
    assert null is not None
    assert 0.0 <= null < 1e-50


def test_the_null_level_scales_with_the_spread_down_to_the_smallest_numbers() -> None:
    bins = ReliabilityBins(*(np.full(4, n) for n in (10, 5)), *(np.full(4, x) for x in (5.0, 2.5, 2.5)))
    reference = calibration_error(bins)[1]
    for exponent in (-200, -300):
        tiny = replace(bins, variance_sum=bins.variance_sum * 10.0**exponent)
        assert calibration_error(tiny)[1] == pytest.approx(reference * 10.0 ** (exponent / 2), rel=1e-9)


@pytest.mark.parametrize(
    ("logit", "label"),
    [
        ([0.0, 5e-324, 0.0, 5e-324], [0, 1, 1, 0]),
        ([1.0, 1.0 + 2e-16, 1.0, 1.0 + 2e-16], [0, 1, 1, 0]),
        ([-1e300, 1e-300, 0.0, 1e300], [0, 0, 1, 1]),
    ],
)
def test_logits_that_rounding_makes_one_have_no_cox_slope(logit: list[float], label: list[int]) -> None:
    """A model that has learned nothing, or all, in few rows: the other figures are still there."""
    with np.errstate(all="ignore"):
        found = calibration_figures(np.array(logit), np.array(label), num_bins=2)
    assert (found["cox_intercept"], found["cox_slope"]) == (None, None)
    assert found["calibration_error"] is not None
