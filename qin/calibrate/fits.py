"""Fitting a calibrator by a method of the table, and the test of whether a bias is missing beside a temperature."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from qin.calibrate.calibrator import Calibrator
from qin.calibrate.methods import METHODS, Method
from qin.metrics.logistic import fit_logistic, has_overlap
from qin.metrics.logits import FloatArray, LabelArray, positive_rows

Objective = Literal["log_loss", "wll"]


class NoFitError(ValueError):
    """The rows determine no finite, increasing calibrator: they are too few, separated, or ordered backwards."""


@dataclass(frozen=True)
class CalibratorFit:
    """A fitted calibrator.

    Attributes:
        calibrator: Without segments.
        standard_errors: Of each parameter; None for one that its bound holds at 0.
        loss: Mean log loss of the rows at the solution; the mean WLL where that is the objective.
    """

    calibrator: Calibrator
    standard_errors: dict[str, float | None]
    loss: float


@dataclass(frozen=True)
class LikelihoodRatio:
    """A test of nested models.

    Attributes:
        statistic: Twice the gain in log-likelihood.
        p_value: Of a gain as large if the smaller model holds and rows are independent.
    """

    statistic: float
    p_value: float


def check_objective(*, method: Method, objective: Objective) -> None:
    """Refuse an objective that the method cannot meet; `identity` meets either, having nothing to fit.

    Raises:
        ValueError: `method` or `objective` is unknown, or the method cannot minimise `wll`.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {tuple(METHODS)}: {method=}")
    if objective not in get_args(Objective):
        raise ValueError(f"objective must be one of {get_args(Objective)}: {objective=}")
    refusal = METHODS[method].refuses_wll
    if objective == "wll" and refusal is not None:
        raise ValueError(refusal)


def fit_calibrator(
    logit: FloatArray, label: LabelArray, *, method: Method, objective: Objective = "log_loss", offset: float = 0.0
) -> CalibratorFit:
    """Fit a method's parameters on `logit + offset`.

    With `wll` the rows are weighted so that both classes count alike; the weights move the fitted logit by
    `-logit(base rate)` exactly as `pos_weight` would, so that is added back, and the result is on the natural scale as
    with `log_loss`.

    Args:
        logit: `(n,)`, training scale.
        label: `(n,)` in {0, 1}.
        method: One of `qin.calibrate.methods.METHODS`.
        objective: The loss to minimise.
        offset: See `prior_offset`.

    Raises:
        ValueError: See `check_objective` and `qin.metrics.logits.positive_rows`.
        NoFitError: The method has no finite, increasing solution: constant logits, separated classes, logits that order
            the labels backwards.
    """
    check_objective(method=method, objective=objective)
    is_positive = positive_rows(logit, label)
    z = logit.astype(np.float64) + offset
    try:
        fitted = METHODS[method].fit(z, is_positive, balanced=objective == "wll")
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
        ValueError: See `fit_calibrator`, for the temperature.

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
    # The larger model loses to the smaller by rounding alone. Then the tail of chi-squared with one degree of freedom.
    statistic = max(2.0 * logit.size * (smaller - larger), 0.0)
    return LikelihoodRatio(statistic, math.erfc(math.sqrt(statistic / 2.0)))
