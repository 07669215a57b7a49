"""The shared logistic regression: its optimum, its covariances, and what it refuses."""

import math

import numpy as np
import pytest

from qin.metrics import logits
from qin.metrics.logistic import fit_logistic, has_overlap, identity
from tests.metrics.test_ranking import sample


def test_chunks_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    logit, label = sample(5_000)
    whole = [fit_logistic(logit, label == 1, columns=(identity, np.square), balanced=flag) for flag in (False, True)]
    monkeypatch.setattr(logits, "_CHUNK_ROWS", 300)
    for fit, balanced in zip(whole, (False, True), strict=True):
        parts = fit_logistic(logit, label == 1, columns=(identity, np.square), balanced=balanced)
        np.testing.assert_allclose(parts.coefficient, fit.coefficient, rtol=1e-10)
        np.testing.assert_allclose(parts.covariance, fit.covariance, rtol=1e-10)


def test_covariance_is_the_inverse_information_on_the_columns_own_scale() -> None:
    logit, label = sample(5_000)
    fit = fit_logistic(logit, label == 1, columns=(identity, np.exp))
    x = np.stack([logit, np.exp(logit), np.ones_like(logit)])
    probability = 1.0 / (1.0 + np.exp(-(fit.coefficient @ x)))
    np.testing.assert_allclose(x @ (probability - label), 0.0, atol=1e-8)
    information = (x * probability * (1.0 - probability)) @ x.T
    np.testing.assert_allclose(fit.covariance, np.linalg.inv(information), rtol=1e-8)
    assert 0.0 <= fit.decrement < 1e-22


def test_balanced_covariance_is_the_sandwich_within_classes() -> None:
    logit, label = sample(5_000)
    fit = fit_logistic(logit, label == 1, balanced=True)
    x = np.stack([logit, np.ones_like(logit)])
    weight = np.where(label == 1, 0.5 / label.mean(), 0.5 / (1.0 - label.mean()))
    probability = 1.0 / (1.0 + np.exp(-(fit.coefficient @ x)))
    bread = np.linalg.inv((x * weight * probability * (1.0 - probability)) @ x.T)
    scores = x * weight * (probability - label)
    filling = sum(np.cov(scores[:, label == value], bias=True) * (label == value).sum() for value in (0, 1))
    np.testing.assert_allclose(fit.covariance, bread @ filling @ bread, rtol=1e-8)


@pytest.mark.parametrize(
    ("logit", "is_positive", "expected"),
    [([1, 2, 3, 4], [0, 1, 0, 1], True), ([1, 2, 2, 3], [0, 0, 1, 1], False), ([1, 1], [0, 1], False)],
)
def test_overlap_needs_both_orders_strictly(logit: list[float], is_positive: list[int], expected: bool) -> None:
    assert has_overlap(np.array(logit, float), np.array(is_positive, bool)) is expected
    assert has_overlap(-np.array(logit, float), np.array(is_positive, bool)) is expected


def test_columns_that_cannot_be_told_apart_are_refused() -> None:
    logit, label = sample(1_000)
    with pytest.raises(ValueError, match="tell the parameters apart"):
        fit_logistic(logit, label == 1, columns=(identity, lambda x: 2.0 * x + 1.0))
    with pytest.raises(ValueError, match="constant to rounding"):
        fit_logistic(logit, label == 1, columns=(identity, np.ones_like))


def test_a_minimum_at_infinity_is_refused() -> None:
    with pytest.raises(ValueError, match=r"did not converge|tell the parameters apart"):
        fit_logistic(np.array([-1.0, -0.5, 0.5, 1.0]), np.array([False, False, True, True]))


def test_a_far_start_is_no_trouble() -> None:
    """One stray row among separated ones: steps are halved where they overshoot."""
    logit = np.array([*np.linspace(-50.0, -1.0, 500), *np.linspace(1.0, 50.0, 500), 49.0])
    is_positive = np.array([False] * 500 + [True] * 500 + [False])
    fit = fit_logistic(logit, is_positive)
    probability = 1.0 / (1.0 + np.exp(-fit.coefficient[0] * logit - fit.coefficient[1]))
    assert abs(float((probability - is_positive).sum())) < 1e-8
    assert math.isfinite(fit.loss)
