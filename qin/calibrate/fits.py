"""The calibrator that minimises log loss or WLL, by safeguarded Newton steps in float64, with standard errors.

Targets are the plain labels 0 and 1. Platt's own smoothed targets, which scikit-learn uses, pull the probabilities of
small samples away from 0 and 1; with the rows of a validation fold they change nothing that a standard error would see,
and plain targets keep the likelihood a likelihood.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from qin.calibrate.calibrator import Calibrator, Method, log_probability, minus_log_complement
from qin.metrics.logistic import LogisticFit, fit_logistic, has_overlap
from qin.metrics.logits import BoolArray, Float64Array, FloatArray, LabelArray, positive_rows, prior_logit

Objective = Literal["log_loss", "wll"]

_BACKWARDS = "the logits order the labels backwards"


class NoFitError(ValueError):
    """The rows determine no finite, increasing calibrator: they are too few, separated, or ordered backwards."""


@dataclass(frozen=True)
class CalibratorFit:
    """A fitted calibrator.

    Attributes:
        calibrator: without segments.
        standard_errors: of each parameter; None for one that its bound holds at 0.
        loss: mean log loss of the rows at the solution; the mean WLL where that is the objective.
    """

    calibrator: Calibrator
    standard_errors: dict[str, float | None]
    loss: float


@dataclass(frozen=True)
class LikelihoodRatio:
    """A test of nested models.

    Attributes:
        statistic: twice the gain in log-likelihood.
        p_value: of a gain as large if the smaller model holds and rows are independent.
    """

    statistic: float
    p_value: float


def check_objective(*, method: Method, objective: Objective) -> None:
    """Refuse an objective that the method cannot meet; `identity` meets either, having nothing to fit.

    Raises:
        ValueError: `method` or `objective` is unknown, or `temperature` is asked to minimise `wll`.
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {get_args(Method)}: {method=}")
    if objective not in get_args(Objective):
        raise ValueError(f"objective must be one of {get_args(Objective)}: {objective=}")
    if (method, objective) == ("temperature", "wll"):
        raise ValueError(
            "objective wll with method temperature diverges on the natural prior: WLL is least at the balanced "
            "prior, which a temperature can only approach by flattening every probability to 0.5. "
            "Fit log_loss and set predict.prior to balanced instead"
        )


def fit_calibrator(
    logit: FloatArray, label: LabelArray, *, method: Method, objective: Objective = "log_loss", offset: float = 0.0
) -> CalibratorFit:
    """Fit a method's parameters on `logit + offset`.

    With `wll` the rows are weighted so that both classes count alike; the weights move the fitted logit by
    `-logit(base rate)` exactly as `pos_weight` would, so that is added back, and the result is on the natural scale as
    with `log_loss`.

    Args:
        logit: ndarray of shape (n,), training scale.
        label: ndarray of shape (n,) in {0, 1}.
        method: see `Calibrator`.
        objective: the loss to minimise.
        offset: see `prior_offset`.

    Raises:
        ValueError: see `check_objective` and `qin.metrics.logits.positive_rows`.
        NoFitError: the method has no finite, increasing solution: constant logits, separated classes, logits that order
            the labels backwards.
    """
    check_objective(method=method, objective=objective)
    is_positive = positive_rows(logit, label)
    z = logit.astype(np.float64) + offset
    try:
        fitted = _FITS[method](z, is_positive, objective == "wll")
    except ValueError as error:
        raise NoFitError(str(error)) from error
    estimates = {name: estimate for name, (estimate, _) in fitted.parameters.items()}
    errors = {name: error for name, (_, error) in fitted.parameters.items()}
    return CalibratorFit(Calibrator(method, estimates, offset), errors, fitted.loss)


def bias_test(logit: FloatArray, label: LabelArray, *, offset: float = 0.0) -> LikelihoodRatio | None:
    """Test `z / temperature` against `a z + b`: whether a bias is missing beside the temperature.

    Returns:
        The test on one degree of freedom, or None where the larger model has no finite fit.

    Raises:
        ValueError: see `fit_calibrator`, for the temperature.

    Source: Wilks (1938), The large-sample distribution of the likelihood ratio.
    """
    smaller = fit_calibrator(logit, label, method="temperature", offset=offset).loss
    is_positive = positive_rows(logit, label)
    if not has_overlap(logit, is_positive):
        return None
    try:
        larger = fit_logistic(logit.astype(np.float64) + offset, is_positive).loss
    except ValueError:  # nearly separated
        return None
    statistic = max(2.0 * logit.size * (smaller - larger), 0.0)
    return LikelihoodRatio(statistic, math.erfc(math.sqrt(statistic / 2.0)))


# The methods


@dataclass(frozen=True)
class _Fitted:
    """Estimate and standard error of each parameter, and the loss."""

    parameters: Mapping[str, tuple[float, float | None]]
    loss: float


def _fit_identity(z: Float64Array, is_positive: BoolArray, balanced: bool) -> _Fitted:
    loss = np.logaddexp(0.0, np.where(is_positive, -z, z))
    if balanced:
        return _Fitted({}, float(0.5 * loss[is_positive].mean() + 0.5 * loss[~is_positive].mean()))
    return _Fitted({}, float(loss.mean()))


def _fit_temperature(z: Float64Array, is_positive: BoolArray, _: bool) -> _Fitted:
    """Newton in `1 / T`, where the loss is convex; the standard error of `T` follows by the delta method."""
    _check_temperature_exists(z, is_positive)
    fit = fit_logistic(z, is_positive, intercept=False)
    inverse = float(fit.coefficient[0])
    error = math.sqrt(fit.covariance[0, 0]) / inverse**2
    return _Fitted({"temperature": (1.0 / inverse, error)}, fit.loss)


def _check_temperature_exists(z: Float64Array, is_positive: BoolArray) -> None:
    if z.min() == z.max():
        raise ValueError(f"logits must not all be equal to fit a temperature: every one is {z[0]}")
    if z[is_positive].min() >= 0.0 >= z[~is_positive].max():
        raise ValueError("no positive temperature is optimal: the sign of the logit separates the classes")
    slope_at_zero = 0.5 * float(z.mean()) - float(z[is_positive].mean()) * float(is_positive.mean())
    if slope_at_zero >= 0.0:
        raise ValueError(
            f"no positive temperature is optimal: {_BACKWARDS} or are off the natural prior, "
            f"mean((0.5 - label) * logit) must be negative and is {slope_at_zero:.6g}"
        )


def _fit_platt(z: Float64Array, is_positive: BoolArray, balanced: bool) -> _Fitted:
    _check_overlap(z, is_positive, method="platt")
    fit = fit_logistic(z, is_positive, balanced=balanced)
    if fit.coefficient[0] <= 0.0:
        raise ValueError(f"no increasing platt is optimal: {_BACKWARDS}, a = {fit.coefficient[0]:.6g}")
    return _named(fit, ("a", "b"), is_positive, balanced)


def _fit_beta(z: Float64Array, is_positive: BoolArray, balanced: bool) -> _Fitted:
    """Fit both exponents; where one is negative, or no finite fit of both exists, fit with it held at 0.

    The loss is convex, so where the free optimum violates one bound the bounded optimum lies on that bound; where it
    violates both, or is at infinity, on the better of the two.
    """
    _check_overlap(z, is_positive, method="beta")
    held = ["a", "b"]
    if _has_overlap_within(z, is_positive):
        free = fit_logistic(z, is_positive, columns=tuple(_BETA_COLUMNS.values()), balanced=balanced)
        held = [name for name, value in zip(_BETA_COLUMNS, free.coefficient, strict=False) if value < 0.0]
        if not held:
            return _named(free, ("a", "b", "c"), is_positive, balanced)
    bounded = [_fit_one_exponent(z, is_positive, balanced, zero=zero) for zero in held]
    increasing = [fitted for fitted in bounded if fitted is not None]
    if not increasing:
        raise ValueError(f"no increasing beta is optimal: {_BACKWARDS}")
    return min(increasing, key=lambda fitted: fitted.loss)


def _fit_one_exponent(z: Float64Array, is_positive: BoolArray, balanced: bool, *, zero: str) -> _Fitted | None:
    """Fit beta with the exponent `zero` held at 0; None where the other would be negative."""
    free = "b" if zero == "a" else "a"
    fit = fit_logistic(z, is_positive, columns=(_BETA_COLUMNS[free],), balanced=balanced)
    if fit.coefficient[0] <= 0.0:
        return None
    fitted = _named(fit, (free, "c"), is_positive, balanced)
    parameters = {**fitted.parameters, zero: (0.0, None)}
    return _Fitted({name: parameters[name] for name in ("a", "b", "c")}, fitted.loss)


def _check_overlap(z: Float64Array, is_positive: BoolArray, *, method: Method) -> None:
    if z.min() == z.max():
        raise ValueError(f"logits must not all be equal to fit {method}: every one is {z[0]}")
    if has_overlap(z, is_positive):
        return
    if z[is_positive].min() >= z[~is_positive].max():
        raise ValueError(f"no finite {method} is optimal: a threshold on the logit separates the classes")
    raise ValueError(f"no increasing {method} is optimal: {_BACKWARDS}, every positive below every negative")


def _has_overlap_within(z: Float64Array, is_positive: BoolArray) -> bool:
    """Tell whether each class has a row strictly inside the other's range.

    Beta's two columns draw a convex curve, which a line cuts at most twice: only an interval can separate classes.
    """
    positive, negative = z[is_positive], z[~is_positive]
    return bool(
        ((negative.min() < positive) & (positive < negative.max())).any()
        and ((positive.min() < negative) & (negative < positive.max())).any()
    )


def _named(fit: LogisticFit, names: Sequence[str], is_positive: BoolArray, balanced: bool) -> _Fitted:
    """Name the coefficients, the intercept on the natural scale.

    Balanced, the intercept gains `logit(base rate)`, whose variance is `1 / positives + 1 / negatives`, and which the
    other estimates, that take the class sizes as given, do not depend on.
    """
    coefficient, variance = fit.coefficient.copy(), fit.covariance.diagonal().copy()
    if balanced:
        num_positives = int(np.count_nonzero(is_positive))
        coefficient[-1] += prior_logit(num_positives / is_positive.size)
        variance[-1] += 1.0 / num_positives + 1.0 / (is_positive.size - num_positives)
    values = zip(names, coefficient, variance, strict=True)
    return _Fitted({name: (float(value), math.sqrt(square)) for name, value, square in values}, fit.loss)


_BETA_COLUMNS = {"a": log_probability, "b": minus_log_complement}
_FITS: dict[Method, Callable[[Float64Array, BoolArray, bool], _Fitted]] = {
    "identity": _fit_identity,
    "temperature": _fit_temperature,
    "platt": _fit_platt,
    "beta": _fit_beta,
}
