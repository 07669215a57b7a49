"""The temperature that minimises log loss, by safeguarded Newton steps in float64."""

import math
from dataclasses import dataclass

import numpy as np

from qin.logits import BoolArray, FloatArray, LabelArray, positive_rows, row_chunks, sigmoid

_MAX_STEPS = 200


@dataclass(frozen=True)
class TemperatureFit:
    """A fitted temperature.

    Attributes:
        temperature: `T` of `sigmoid(logit / T)`.
        standard_error: of `temperature`, from the Fisher information by the delta method.
        gradient: mean derivative of the log loss in `1 / T` at the solution.
    """

    temperature: float
    standard_error: float
    gradient: float


def fit_temperature(logit: FloatArray, label: LabelArray) -> TemperatureFit:
    """Minimise the log loss of `sigmoid(logit / T)` over `T > 0`.

    In `a = 1 / T` the loss is convex, so Newton steps, kept inside a bracket of the root of the derivative, find its
    only minimum.

    Args:
        logit: ndarray of shape (n,), natural scale: add `prior_offset` first.
        label: ndarray of shape (n,) in {0, 1}.

    Raises:
        ValueError: bad shapes or values; one class only; constant logits; a loss that falls for ever as `T` nears 0
            (the sign of the logit separates the classes), or that is least at `a <= 0` (logits that order the
            labels backwards, or that still carry a large prior shift), so that no positive temperature is optimal.

    Source: Guo et al. (2017), On calibration of modern neural networks, section 4.2.
    """
    is_positive = positive_rows(logit, label)
    scale = math.sqrt(float(np.mean(np.square(logit, dtype=np.float64))))
    _check_temperature_exists(logit, is_positive)
    # in units of `scale` the problem does not depend on the size of the logits
    inverse, gradient, curvature = _solve_inverse(logit, is_positive, scale=scale)
    temperature = scale / inverse
    relative_error = 1.0 / (inverse * math.sqrt(logit.size * curvature))
    return TemperatureFit(temperature, temperature * relative_error, gradient * scale)


def _check_temperature_exists(logit: FloatArray, is_positive: BoolArray) -> None:
    if logit.min() == logit.max():
        raise ValueError(f"logits must not all be equal to fit a temperature: every one is {logit[0]}")
    if logit[is_positive].min() >= 0.0 >= logit[~is_positive].max():
        raise ValueError("no positive temperature is optimal: the sign of the logit separates the classes")
    mean = float(np.mean(logit, dtype=np.float64))
    mean_of_positives = float(np.mean(logit[is_positive], dtype=np.float64))
    slope_at_zero = 0.5 * mean - mean_of_positives * float(np.mean(is_positive))
    if slope_at_zero >= 0.0:
        raise ValueError(
            "no positive temperature is optimal: the logits order the labels backwards or are off the natural prior, "
            f"mean((0.5 - label) * logit) must be negative and is {slope_at_zero:.6g}"
        )


def _solve_inverse(logit: FloatArray, is_positive: BoolArray, *, scale: float) -> tuple[float, float, float]:
    """Return `scale / T`, and the loss's first and second derivative there."""
    low, high, inverse = 0.0, math.inf, scale
    for _ in range(_MAX_STEPS):
        gradient, curvature = _inverse_derivatives(logit, is_positive, inverse=inverse, scale=scale)
        if abs(gradient) <= 1e-13:
            return inverse, gradient, curvature
        if gradient < 0.0:
            low = inverse
        else:
            high = inverse
        step = inverse - gradient / curvature if curvature > 0.0 else math.nan
        if not low < step < high:
            step = 2.0 * low if high == math.inf else 0.5 * (low + high)
        if step in (low, high):  # neighbouring floats: rounding hides the root, nothing nearer exists
            return inverse, gradient, curvature
        inverse = step
    raise ValueError(f"the temperature did not converge in {_MAX_STEPS} steps: {gradient=}, {inverse=}")


def _inverse_derivatives(
    logit: FloatArray, is_positive: BoolArray, *, inverse: float, scale: float
) -> tuple[float, float]:
    gradient = curvature = 0.0
    for rows, chunk in row_chunks(logit):
        x = chunk / scale
        probability = sigmoid(inverse * x)
        gradient += float(np.sum((probability - is_positive[rows]) * x))
        curvature += float(np.sum(probability * (1.0 - probability) * x * x))
    return gradient / logit.size, curvature / logit.size
