"""Fitted calibrators against closed forms, scikit-learn and scipy, and against simulations with a known answer."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from qin.calibrate.calibrator import Calibrator
from qin.calibrate.fits import CalibratorFit, Objective, bias_test, check_objective, fit_calibrator
from qin.calibrate.methods import Method
from qin.metrics.logits import log_losses
from tests.metrics.test_ranking import sample

Array = NDArray[Any]

TRUTH: dict[Method, dict[str, float]] = {
    "temperature": {"temperature": 2.0},
    "platt": {"a": 0.5, "b": 0.7},
    "beta": {"a": 0.4, "b": 1.5, "c": -0.6},
}
OBJECTIVES: list[tuple[Method, Objective]] = [
    ("temperature", "log_loss"),
    ("platt", "log_loss"),
    ("platt", "wll"),
    ("beta", "log_loss"),
    ("beta", "wll"),
]


def drawn(method: Method, *, num_rows: int, seed: int) -> tuple[Array, Array]:
    """Logits, and labels drawn from what the method's true parameters make of them."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1.5, 1.5, num_rows)
    probability = 1.0 / (1.0 + np.exp(-Calibrator(method, TRUTH[method]).apply(logit)))
    return logit, (rng.random(num_rows) < probability).astype(np.int8)


def loss_of(objective: Objective, logit: Array, label: Array) -> float:
    of_positives, of_negatives = log_losses(logit, label)
    rate = 0.5 if objective == "wll" else float(np.mean(label))
    return rate * of_positives + (1.0 - rate) * of_negatives


def values_of(fit: CalibratorFit) -> Array:
    return np.array(list(fit.calibrator.parameters.values()))


# Optimal


@pytest.mark.parametrize(("method", "objective"), OBJECTIVES)
def test_the_objective_is_least_at_the_fit(method: Method, objective: Objective) -> None:
    """The fitted logit, on the balanced scale for WLL, beats every neighbour, and its loss is the one reported."""
    logit, label = drawn(method, num_rows=5_000, seed=3)
    fit = fit_calibrator(logit - 1.0, label, method=method, objective=objective, offset=1.0)
    rate = float(label.mean())
    shift = -math.log(rate / (1.0 - rate)) if objective == "wll" else 0.0
    found = loss_of(objective, fit.calibrator.apply(logit - 1.0) + shift, label)
    assert fit.loss == pytest.approx(found, rel=1e-12)
    for name in fit.calibrator.parameters:
        for step in (-1e-3, 1e-3):
            moved = {**fit.calibrator.parameters, name: fit.calibrator.parameters[name] + step}
            assert loss_of(objective, Calibrator(method, moved).apply(logit) + shift, label) > found


def test_two_point_problem_has_its_closed_form() -> None:
    """With logits +c and -c right in a share f of rows, sigmoid(c / T) = f."""
    logit = np.repeat([1.5, -1.5], 100)
    label = np.concatenate([np.arange(100) < 80, np.arange(100) >= 80])
    fit = fit_calibrator(logit, label, method="temperature")
    temperature = fit.calibrator.parameters["temperature"]
    assert temperature == pytest.approx(1.5 / math.log(0.8 / 0.2), rel=1e-12)
    # Fisher information of 1/T is n f (1 - f) c^2
    expected = temperature**2 / math.sqrt(200 * 0.8 * 0.2 * 1.5**2)
    assert fit.standard_errors["temperature"] == pytest.approx(expected, rel=1e-12)


def test_two_point_platt_meets_both_rates() -> None:
    """Two logits leave no freedom: a and b are those of the two rates, with the errors of two binomials."""
    logit = np.repeat([2.0, -1.0], 100)
    label = np.concatenate([np.arange(100) < 70, np.arange(100) < 10])
    high, low = math.log(0.7 / 0.3), math.log(0.1 / 0.9)
    variance = {2.0: 1.0 / (100 * 0.7 * 0.3), -1.0: 1.0 / (100 * 0.1 * 0.9)}
    for objective in ("log_loss", "wll"):
        fit = fit_calibrator(logit, label, method="platt", objective=objective)
        a = (high - low) / 3.0
        assert fit.calibrator.parameters == pytest.approx({"a": a, "b": low + a}, rel=1e-10)
        errors = {
            "a": math.sqrt(variance[2.0] + variance[-1.0]) / 3.0,
            "b": math.sqrt((variance[2.0] + 4.0 * variance[-1.0]) / 9.0),
        }
        assert fit.standard_errors == pytest.approx(errors, rel=1e-8)


# Against others


class LogitModel(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier that returns its only column."""

    def fit(self, x: Array, y: Array) -> "LogitModel":
        self.classes_, self.n_features_in_ = np.array([0, 1]), 1
        return self

    def decision_function(self, x: Array) -> Array:
        return x[:, 0]

    def predict(self, x: Array) -> Array:
        return x[:, 0] > 0.0


def scikit_learn_calibrated(logit: Array, label: Array, method: str) -> Array:
    """Logits that scikit-learn's calibrator of a frozen model gives."""
    x = logit[:, None]
    model = CalibratedClassifierCV(FrozenEstimator(LogitModel().fit(x, label)), method=method, cv=2)
    probability = model.fit(x, label).predict_proba(x)[:, 1]
    logit_of: Array = np.log(probability) - np.log1p(-probability)
    return logit_of


def test_temperature_equals_scikit_learns_calibrator() -> None:
    logit, label = sample(20_000, seed=1)
    ours = fit_calibrator(2.0 * logit, label, method="temperature").calibrator.apply(2.0 * logit)
    np.testing.assert_allclose(ours, scikit_learn_calibrated(2.0 * logit, label, "temperature"), rtol=1e-5)


def test_platt_equals_scikit_learns_calibrator_but_for_its_smoothed_targets() -> None:
    """Platt's targets replace N+ clicks by N+ (N+ + 1) / (N+ + 2): a change of a few rows, far below the error."""
    logit, label = sample(20_000, seed=1)
    fit = fit_calibrator(logit, label, method="platt")
    theirs = scikit_learn_calibrated(logit, label, "sigmoid")
    a = float(np.polyfit(logit, theirs, 1)[0])
    assert fit.standard_errors["a"] is not None
    assert abs(fit.calibrator.parameters["a"] - a) < 0.1 * fit.standard_errors["a"]
    np.testing.assert_allclose(fit.calibrator.apply(logit), theirs, atol=0.01)

    positives, negatives = int(label.sum()), int((1 - label).sum())
    target = np.where(label == 1, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))

    def smoothed(weight: Array) -> float:
        linear = weight[0] * logit + weight[1]
        return float(np.mean(np.logaddexp(0.0, linear) - target * linear))

    smooth = minimize(smoothed, values_of(fit), method="BFGS", options={"gtol": 1e-9}).x
    np.testing.assert_allclose(smooth[0] * logit + smooth[1], theirs, atol=1e-3)  # that is the whole difference


@pytest.mark.parametrize("objective", ["log_loss", "wll"])
@pytest.mark.parametrize("method", ["platt", "beta"])
def test_platt_and_beta_equal_logistic_regressions(method: Method, objective: Objective) -> None:
    logit, label = drawn("beta", num_rows=5_000, seed=1)
    columns = [logit] if method == "platt" else [-np.logaddexp(0.0, -logit), np.logaddexp(0.0, logit)]
    x = np.stack(columns, axis=1)
    weight = "balanced" if objective == "wll" else None
    reference = LogisticRegression(C=np.inf, solver="newton-cg", tol=1e-12, max_iter=500, class_weight=weight)
    reference.fit(x, label)
    rate = float(label.mean())
    back = math.log(rate / (1.0 - rate)) if objective == "wll" else 0.0
    fit = fit_calibrator(logit, label, method=method, objective=objective)
    np.testing.assert_allclose(values_of(fit), [*reference.coef_[0], reference.intercept_[0] + back], rtol=1e-6)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_temperature_equals_a_root_of_its_derivative(scale: float, dtype: type) -> None:
    logit, label = sample(5_000, seed=1)
    logit = (scale * logit).astype(dtype)
    wide = logit.astype(np.float64)
    inverse = brentq(lambda a: float(np.dot(1.0 / (1.0 + np.exp(-a * wide)) - label, wide)), 0.05, 20.0, xtol=1e-14)
    temperature = fit_calibrator(logit, label, method="temperature").calibrator.temperature
    assert temperature == pytest.approx(1.0 / inverse, rel=1e-10)


# Against a known truth


@pytest.mark.parametrize(("method", "objective"), OBJECTIVES)
def test_known_parameters_are_recovered_within_their_standard_errors(method: Method, objective: Objective) -> None:
    fit = fit_calibrator(*drawn(method, num_rows=50_000, seed=4), method=method, objective=objective)
    for name, truth in TRUTH[method].items():
        error = fit.standard_errors[name]
        assert error is not None
        assert abs(fit.calibrator.parameters[name] - truth) < 3.5 * error
        assert error < 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("method", "objective"), OBJECTIVES)
def test_standard_errors_are_the_spread_over_samples(method: Method, objective: Objective) -> None:
    fits = [
        fit_calibrator(*drawn(method, num_rows=5_000, seed=seed), method=method, objective=objective)
        for seed in range(300)
    ]
    for position, name in enumerate(TRUTH[method]):
        spread = np.std([values_of(fit)[position] for fit in fits], ddof=1)
        errors = [error for fit in fits if (error := fit.standard_errors[name]) is not None]
        assert len(errors) == len(fits)
        # the relative error of a standard deviation from 300 draws is 4%
        assert np.mean(errors) == pytest.approx(spread, rel=0.16)


def test_wll_gives_a_natural_scale_whatever_the_weights() -> None:
    """On a true Platt curve both objectives find it; without the shift back they would differ by logit(base rate)."""
    logit, label = drawn("platt", num_rows=100_000, seed=5)
    fits = [fit_calibrator(logit, label, method="platt", objective=name) for name in ("log_loss", "wll")]
    errors = np.array(list(fits[1].standard_errors.values()), np.float64)
    assert (np.abs(values_of(fits[0]) - values_of(fits[1])) < 3.0 * errors).all()
    mean = float((1.0 / (1.0 + np.exp(-fits[1].calibrator.apply(logit)))).mean())
    assert mean == pytest.approx(float(label.mean()), rel=0.02)


def test_log_loss_fits_with_an_intercept_meet_the_click_rate_exactly() -> None:
    logit, label = drawn("beta", num_rows=5_000, seed=5)
    for method in ("platt", "beta"):
        calibrated = fit_calibrator(logit, label, method=method).calibrator.apply(logit)
        assert float((1.0 / (1.0 + np.exp(-calibrated))).sum()) == pytest.approx(float(label.sum()), rel=1e-10)


@pytest.mark.parametrize("factor", [1e-12, 1e-3, 1e6, 1e12])
def test_fits_scale_with_the_logits(factor: float) -> None:
    logit, label = sample(2_000)
    for method in ("temperature", "platt"):
        reference, fit = (fit_calibrator(scale * logit, label, method=method) for scale in (1.0, factor))
        np.testing.assert_allclose(
            fit.calibrator.apply(factor * logit), reference.calibrator.apply(logit), rtol=1e-9, atol=1e-9
        )
    ratio = fit_calibrator(factor * logit, label, method="temperature").standard_errors["temperature"]
    assert ratio is not None
    assert ratio / factor == pytest.approx(
        fit_calibrator(logit, label, method="temperature").standard_errors["temperature"], rel=1e-8
    )


def test_an_offset_is_applied_before_the_fit() -> None:
    logit, label = sample(5_000)
    for method in ("temperature", "platt", "beta", "identity"):
        shifted = fit_calibrator(logit + 2.0, label, method=method, offset=-2.0).calibrator
        plain = fit_calibrator(logit, label, method=method).calibrator
        assert shifted.offset == -2.0
        np.testing.assert_allclose(shifted.apply(logit + 2.0), plain.apply(logit), rtol=1e-9)


def test_one_contradicting_row_among_separated_ones_still_converges() -> None:
    logit = np.concatenate([np.linspace(1.0, 50.0, 500), np.linspace(-50.0, -1.0, 500), [0.5]])
    label = np.array([1] * 500 + [0] * 500 + [0])
    temperature = fit_calibrator(logit, label, method="temperature").calibrator.temperature
    assert temperature is not None
    probability = 1.0 / (1.0 + np.exp(-logit / temperature))
    assert abs(float(np.mean((probability - label) * logit))) < 1e-11


# Beta's bounds


def bounded_reference(logit: Array, label: Array) -> Array:
    """Beta's bounded optimum by a quasi-Newton method that knows bounds."""
    columns = np.stack([-np.logaddexp(0.0, -logit), np.logaddexp(0.0, logit), np.ones_like(logit)])

    def loss(weight: Array) -> tuple[float, Array]:
        linear = weight @ columns
        residual = 1.0 / (1.0 + np.exp(-linear)) - label
        return float(np.mean(np.logaddexp(0.0, linear) - label * linear)), columns @ residual / label.size

    bounds = [(0.0, None), (0.0, None), (None, None)]
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000}
    found: Array = minimize(loss, [1.0, 1.0, 0.0], jac=True, bounds=bounds, method="L-BFGS-B", options=options).x
    return found


@pytest.mark.parametrize(("seed", "held"), [(0, "a"), (1, "b")])
def test_a_negative_exponent_is_held_at_zero_and_the_rest_refitted(seed: int, held: str) -> None:
    """The truth bends down at one end, which no increasing curve does."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0.0, 2.0, 4_000)
    truth = {"a": -0.5, "b": 1.5} if held == "a" else {"a": 1.5, "b": -0.5}
    linear = -truth["a"] * np.logaddexp(0.0, -logit) + truth["b"] * np.logaddexp(0.0, logit)
    label = (rng.random(logit.size) < 1.0 / (1.0 + np.exp(-linear))).astype(np.int8)
    fit = fit_calibrator(logit, label, method="beta")
    assert fit.calibrator.parameters[held] == 0.0
    assert [name for name, error in fit.standard_errors.items() if error is None] == [held]
    np.testing.assert_allclose(values_of(fit), bounded_reference(logit, label), atol=1e-4)


def test_classes_that_only_an_interval_separates_have_a_bounded_fit() -> None:
    """Clicks between two ranges without: the free fit is infinite, the increasing one is not."""
    logit = np.concatenate([np.linspace(-4.0, -1.0, 40), np.linspace(-0.5, 0.5, 30), np.linspace(1.0, 2.0, 10)])
    label = np.concatenate([np.zeros(40), np.ones(30), np.zeros(10)]).astype(np.int8)
    fit = fit_calibrator(logit, label, method="beta")
    np.testing.assert_allclose(values_of(fit), bounded_reference(logit, label), atol=1e-4)
    assert fit.calibrator.parameters["b"] == 0.0


# The test for a bias


def test_bias_test_is_the_likelihood_ratio_of_the_two_fits() -> None:
    logit, label = drawn("platt", num_rows=5_000, seed=0)
    test = bias_test(logit, label)
    losses = [fit_calibrator(logit, label, method=method).loss for method in ("temperature", "platt")]
    assert test is not None
    assert test.statistic == pytest.approx(2.0 * 5_000 * (losses[0] - losses[1]), rel=1e-12)
    assert test.p_value < 1e-6


@pytest.mark.slow
def test_bias_test_rejects_a_true_temperature_as_often_as_it_should() -> None:
    """Uniform p-values where there is no bias: 200 of them, the share below 0.1 within three standard errors."""
    tests = [bias_test(*drawn("temperature", num_rows=2_000, seed=seed)) for seed in range(200)]
    p_values = np.array([test.p_value for test in tests if test is not None])
    assert p_values.size == 200
    assert abs(np.mean(p_values < 0.1) - 0.1) < 3.0 * math.sqrt(0.1 * 0.9 / 200)
    assert abs(p_values.mean() - 0.5) < 3.0 / math.sqrt(12 * 200)


def test_bias_test_does_not_exist_where_a_bias_would_separate_the_classes() -> None:
    assert bias_test(np.array([0.5, 1.0, -1.0, 2.0, 3.0]), np.array([0, 0, 0, 1, 1])) is None


# Refused


BACKWARDS = [-1.0, -2.0, 1.0, 2.0, -1.5, 1.5], [1, 1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("method", "logit", "label", "message"),
    [
        ("temperature", [1.0, 2.0], [1, 1], "both classes must be present: 2 positives in 2 rows"),
        ("platt", [1.0, math.nan], [0, 1], "every logit must be finite"),
        ("temperature", [2.0, 2.0, 2.0], [0, 1, 1], "must not all be equal to fit a temperature: every one is 2.0"),
        ("temperature", [0.0, 0.0], [0, 1], "logits must not all be equal"),
        ("platt", [2.0, 2.0, 2.0], [0, 1, 1], "logits must not all be equal to fit platt: every one is 2.0"),
        ("beta", [2.0, 2.0, 2.0], [0, 1, 1], "logits must not all be equal to fit beta: every one is 2.0"),
        ("temperature", [-1.0, 0.0, 0.0, 2.0], [0, 0, 1, 1], "the sign of the logit separates the classes"),
        (
            "platt",
            [-1.0, 0.0, 0.0, 2.0],
            [0, 0, 1, 1],
            "no finite platt is optimal: a threshold on the logit separates",
        ),
        ("beta", [-1.0, 0.5, 1.0, 2.0], [0, 0, 1, 1], "no finite beta is optimal: a threshold on the logit separates"),
        ("temperature", [-1.0, -2.0, 1.0, 2.0], [1, 1, 0, 0], "the logits order the labels backwards"),
        ("temperature", [-1.0, 1.0, -1.0, 1.0], [0, 0, 1, 1], "the logits order the labels backwards"),
        ("platt", *BACKWARDS, "no increasing platt is optimal: the logits order the labels backwards, a = -"),
        ("beta", *BACKWARDS, "no increasing beta is optimal: the logits order the labels backwards$"),
        ("platt", [-1.0, -2.0, 1.0], [1, 1, 0], "backwards, every positive below every negative"),
        ("beta", [-1.0, -2.0, 1.0], [1, 1, 0], "backwards, every positive below every negative"),
        ("beta", [-900.0, -800.0, -850.0, -870.0], [0, 0, 1, 1], "too close together|tell the parameters apart"),
    ],
)
def test_problems_without_an_increasing_finite_solution_are_refused(
    method: Method, logit: list[float], label: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_calibrator(np.array(logit), np.array(label), method=method)


def test_wll_cannot_be_fitted_by_temperature_and_leaves_the_identity_alone() -> None:
    logit, label = sample(1_000)
    with pytest.raises(ValueError, match=r"wll with method temperature diverges .* predict.prior to balanced"):
        fit_calibrator(logit, label, method="temperature", objective="wll")
    fit = fit_calibrator(logit, label, method="identity", objective="wll", offset=-1.5)
    assert (fit.calibrator, fit.standard_errors) == (Calibrator("identity", {}, -1.5), {})
    assert fit.loss == pytest.approx(loss_of("wll", logit - 1.5, label), rel=1e-12)


@pytest.mark.parametrize(("method", "objective"), [("spline", "log_loss"), ("temperature", "auc")])
def test_unknown_methods_and_objectives_are_refused(method: Method, objective: Objective) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        check_objective(method=method, objective=objective)
