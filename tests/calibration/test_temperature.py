"""The fitted temperature against a closed form, scikit-learn, scipy, and simulation with a known answer."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from sklearn.linear_model import LogisticRegression

from qin.temperature import fit_temperature
from tests.test_metrics import sample

Array = NDArray[Any]


def test_two_point_problem_has_its_closed_form() -> None:
    """With logits +c and -c right in a share f of rows, sigmoid(c / T) = f."""
    logit = np.repeat([1.5, -1.5], 100)
    label = np.concatenate([np.arange(100) < 80, np.arange(100) >= 80])
    fit = fit_temperature(logit, label)
    assert fit.temperature == pytest.approx(1.5 / math.log(0.8 / 0.2), rel=1e-12)
    # Fisher information of 1/T is n f (1 - f) c^2
    expected = fit.temperature**2 / math.sqrt(200 * 0.8 * 0.2 * 1.5**2)
    assert fit.standard_error == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_temperature_equals_scikit_learn_and_scipy(scale: float, dtype: type) -> None:
    logit, label = sample(5_000, seed=1)
    logit = (scale * logit).astype(dtype)
    reference = LogisticRegression(C=np.inf, fit_intercept=False, solver="newton-cg", tol=1e-12, max_iter=200)
    reference.fit(logit[:, None].astype(np.float64), label)
    fit = fit_temperature(logit, label)
    assert fit.temperature == pytest.approx(1.0 / reference.coef_[0, 0], rel=1e-8)
    wide = logit.astype(np.float64)
    inverse = brentq(lambda a: float(np.dot(1.0 / (1.0 + np.exp(-a * wide)) - label, wide)), 0.05, 20.0, xtol=1e-14)
    assert fit.temperature == pytest.approx(1.0 / inverse, rel=1e-10)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_known_temperature_is_recovered_within_its_standard_error(temperature: float) -> None:
    logit, label = sample(200_000, seed=4)
    fit = fit_temperature(logit * temperature, label)
    assert abs(fit.temperature - temperature) < 4.0 * fit.standard_error
    assert fit.standard_error < 0.02 * temperature


def test_standard_error_is_the_spread_over_samples() -> None:
    fits = [fit_temperature(*sample(3_000, seed=seed)) for seed in range(200)]
    spread = np.std([fit.temperature for fit in fits], ddof=1)
    # the relative error of a standard deviation from 200 draws is 5%
    assert np.mean([fit.standard_error for fit in fits]) == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize("factor", [1e-12, 1e-3, 1e6, 1e12])
def test_temperature_scales_with_the_logits(factor: float) -> None:
    logit, label = sample(2_000)
    reference = fit_temperature(logit, label)
    fit = fit_temperature(factor * logit, label)
    assert fit.temperature == pytest.approx(factor * reference.temperature, rel=1e-10)
    assert fit.standard_error == pytest.approx(factor * reference.standard_error, rel=1e-8)


def test_one_contradicting_row_among_separated_ones_still_converges() -> None:
    logit = np.concatenate([np.linspace(1.0, 50.0, 500), np.linspace(-50.0, -1.0, 500), [0.5]])
    label = np.array([1] * 500 + [0] * 500 + [0])
    fit = fit_temperature(logit, label)
    assert fit.temperature > 0.0
    assert abs(fit.gradient) < 1e-11


@pytest.mark.parametrize(
    ("logit", "label", "message"),
    [
        ([1.0, 2.0], [1, 1], "both classes must be present: 2 positives in 2 rows"),
        ([2.0, 2.0, 2.0], [0, 1, 1], "logits must not all be equal to fit a temperature: every one is 2.0"),
        ([0.0, 0.0], [0, 1], "logits must not all be equal"),
        ([-1.0, 0.0, 0.0, 2.0], [0, 0, 1, 1], "the sign of the logit separates the classes"),
        ([-1.0, -2.0, 1.0, 2.0], [1, 1, 0, 0], "the logits order the labels backwards"),
        ([-1.0, 1.0, -1.0, 1.0], [0, 0, 1, 1], "the logits order the labels backwards"),
        ([1.0, math.nan], [0, 1], "every logit must be finite"),
    ],
)
def test_problems_without_a_positive_solution_are_refused(logit: list[float], label: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_temperature(np.array(logit), np.array(label))
