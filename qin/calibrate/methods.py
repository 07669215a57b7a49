"""The calibration methods: one class each, with its parameters, its increasing curve and its fit, in one table.

With `z` the training logit on its natural scale and `p = sigmoid(z)`, the calibrated logit is

    identity       z
    temperature    z / temperature
    platt          a z + b
    beta           a log p - b log(1 - p) + c,  a and b not negative

`beta` holds `identity` (a = b = 1, c = 0), and bends the two tails of the logit differently. Fits minimise log loss, or
WLL by weighing both classes alike, with safeguarded Newton steps in float64, and give standard errors.

Targets are the plain labels 0 and 1. Platt's own smoothed targets, which scikit-learn uses, pull the probabilities of
small samples away from 0 and 1; with the rows of a validation fold they change nothing that a standard error would see,
and plain targets keep the likelihood a likelihood.

Source: Guo et al. (2017), On calibration of modern neural networks; Platt (1999), Probabilistic outputs for support
vector machines; Kull, Silva Filho and Flach (2017), Beta calibration.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from qin.metrics.logistic import LogisticFit, fit_logistic, has_overlap
from qin.metrics.logits import BoolArray, Float64Array, prior_logit

Method = Literal["temperature", "platt", "beta", "identity"]

_BACKWARDS = "the logits order the labels backwards"


@dataclass(frozen=True)
class Fitted:
    """What a fit finds.

    Attributes:
        parameters: Estimate and standard error by name; no error for one that its bound holds at 0.
        loss: Mean log loss of the rows at the solution; the mean WLL where the classes are balanced.
    """

    parameters: Mapping[str, tuple[float, float | None]]
    loss: float


class CalibrationMethod(Protocol):
    """An increasing curve of a logit with a few parameters.

    Attributes:
        parameters: Their names.
        fits_prior: Whether the fit moves the logits to the click rate of the rows it was made on.
        refuses_wll: Why the method cannot minimise WLL, or None where it can.
    """

    parameters: tuple[str, ...]
    fits_prior: bool
    refuses_wll: str | None

    def check(self, number: Mapping[str, float]) -> None:
        """Check that the curve increases.

        Raises:
            ValueError: Naming the parameter.
        """

    def curve(self, z: Float64Array, number: Mapping[str, float]) -> Float64Array:
        """Calibrated logits, `(n,)`, of natural logits `(n,)`; rows do not influence each other."""

    def fit(self, z: Float64Array, is_positive: BoolArray, *, balanced: bool) -> Fitted:
        """Fit the parameters on natural logits.

        Args:
            z: `(n,)`.
            is_positive: `(n,)`, with both classes.
            balanced: Whether both classes weigh alike; the result is on the natural scale all the same.

        Raises:
            ValueError: If no finite, increasing solution exists.
        """


class Identity:
    """`z` as it is; nothing is fitted."""

    parameters: tuple[str, ...] = ()
    fits_prior = False
    refuses_wll: str | None = None

    def check(self, number: Mapping[str, float]) -> None:
        """Without parameters nothing can be wrong."""

    def curve(self, z: Float64Array, number: Mapping[str, float]) -> Float64Array:  # noqa: ARG002
        """The logits themselves."""
        return z

    def fit(self, z: Float64Array, is_positive: BoolArray, *, balanced: bool) -> Fitted:
        """The loss of the logits as they are."""
        loss = np.logaddexp(0.0, np.where(is_positive, -z, z))
        if balanced:
            return Fitted({}, float(0.5 * loss[is_positive].mean() + 0.5 * loss[~is_positive].mean()))
        return Fitted({}, float(loss.mean()))


class Temperature:
    """`z / temperature`, which flattens or sharpens and leaves the logit 0 where it is."""

    parameters: tuple[str, ...] = ("temperature",)
    fits_prior = False
    refuses_wll: str | None = (
        "objective wll with method temperature diverges on the natural prior: WLL is least at the balanced "
        "prior, which a temperature can only approach by flattening every probability to 0.5. "
        "Fit log_loss and set predict.prior to balanced instead"
    )

    def check(self, number: Mapping[str, float]) -> None:
        """Refuse a temperature that is not positive."""
        if number["temperature"] <= 0.0:
            raise ValueError(f"temperature must be positive: temperature={number['temperature']}")

    def curve(self, z: Float64Array, number: Mapping[str, float]) -> Float64Array:
        """The logits divided by the temperature."""
        return z / number["temperature"]

    def fit(self, z: Float64Array, is_positive: BoolArray, *, balanced: bool) -> Fitted:
        """Newton in `1 / T`, where the loss is convex; the standard error of `T` follows by the delta method."""
        assert not balanced, "check_objective refuses it"
        _check_temperature_exists(z, is_positive)
        fit = fit_logistic(z, is_positive, intercept=False)
        inverse = float(fit.coefficient[0])
        # |d T / d (1 / T)| = T^2
        error = math.sqrt(fit.covariance[0, 0]) / inverse**2
        return Fitted({"temperature": (1.0 / inverse, error)}, fit.loss)


class Platt:
    """`a z + b`: a temperature and a bias."""

    parameters: tuple[str, ...] = ("a", "b")
    fits_prior = True
    refuses_wll: str | None = None

    def check(self, number: Mapping[str, float]) -> None:
        """Refuse a slope that is not positive."""
        if number["a"] <= 0.0:
            raise ValueError(f"a must be positive for platt: a={number['a']}")

    def curve(self, z: Float64Array, number: Mapping[str, float]) -> Float64Array:
        """The line."""
        return number["a"] * z + number["b"]

    def fit(self, z: Float64Array, is_positive: BoolArray, *, balanced: bool) -> Fitted:
        """Logistic regression of the label on the logit."""
        _check_overlap(z, is_positive, method="platt")
        fit = fit_logistic(z, is_positive, balanced=balanced)
        if fit.coefficient[0] <= 0.0:
            raise ValueError(f"no increasing platt is optimal: {_BACKWARDS}, a = {fit.coefficient[0]:.6g}")
        return _named(fit, ("a", "b"), is_positive, balanced=balanced)


class Beta:
    """`a log p - b log(1 - p) + c`: a slope for each tail of the logit, and a bias."""

    parameters: tuple[str, ...] = ("a", "b", "c")
    fits_prior = True
    refuses_wll: str | None = None

    def check(self, number: Mapping[str, float]) -> None:
        """Refuse exponents that are negative, or both 0."""
        if min(number["a"], number["b"]) < 0.0 or number["a"] == number["b"] == 0.0:
            raise ValueError(f"a and b must not be negative for beta, nor both 0: a={number['a']}, b={number['b']}")

    def curve(self, z: Float64Array, number: Mapping[str, float]) -> Float64Array:
        """The sum of the two columns and the bias."""
        return number["a"] * log_probability(z) + number["b"] * minus_log_complement(z) + number["c"]

    def fit(self, z: Float64Array, is_positive: BoolArray, *, balanced: bool) -> Fitted:
        """Fit both exponents; where one is negative, or no finite fit of both exists, fit with it held at 0.

        The loss is convex, so where the free optimum violates one bound the bounded optimum lies on that bound; where
        it violates both, or is at infinity, on the better of the two.
        """
        _check_overlap(z, is_positive, method="beta")
        at_bound = ["a", "b"]
        if _has_overlap_within(z, is_positive):
            free = fit_logistic(z, is_positive, columns=tuple(_BETA_COLUMNS.values()), balanced=balanced)
            at_bound = [name for name, value in zip(_BETA_COLUMNS, free.coefficient, strict=False) if value < 0.0]
            if not at_bound:
                return _named(free, ("a", "b", "c"), is_positive, balanced=balanced)
        bounded = [_fit_one_exponent(z, is_positive, balanced=balanced, zero=zero) for zero in at_bound]
        increasing = [fitted for fitted in bounded if fitted is not None]
        if not increasing:
            raise ValueError(f"no increasing beta is optimal: {_BACKWARDS}")
        return min(increasing, key=lambda fitted: fitted.loss)


# To add a method: its class above, its entry here, and its name in `Method` and in `qin.config.CalibrationParams`.
METHODS: Mapping[str, CalibrationMethod] = {
    "identity": Identity(),
    "temperature": Temperature(),
    "platt": Platt(),
    "beta": Beta(),
}


def log_probability(z: Float64Array) -> Float64Array:
    """Return `log sigmoid(z)`, beta's first column, without overflow."""
    return -np.logaddexp(0.0, -z)


def minus_log_complement(z: Float64Array) -> Float64Array:
    """Return `-log(1 - sigmoid(z))`, beta's second column, without overflow."""
    return np.logaddexp(0.0, z)


_BETA_COLUMNS: Mapping[str, Callable[[Float64Array], Float64Array]] = {"a": log_probability, "b": minus_log_complement}


def _check_temperature_exists(z: Float64Array, is_positive: BoolArray) -> None:
    if z.min() == z.max():
        raise ValueError(f"logits must not all be equal to fit a temperature: every one is {z[0]}")
    if z[is_positive].min() >= 0.0 >= z[~is_positive].max():
        raise ValueError("no positive temperature is optimal: the sign of the logit separates the classes")
    # How the loss changes with 1 / T at 0, where every probability is one half. It is convex, so unless it falls there,
    # no positive 1 / T is better than none.
    slope_at_zero = 0.5 * float(z.mean()) - float(z[is_positive].mean()) * float(is_positive.mean())
    if slope_at_zero >= 0.0:
        raise ValueError(
            f"no positive temperature is optimal: {_BACKWARDS} or are off the natural prior, "
            f"mean((0.5 - label) * logit) must be negative and is {slope_at_zero:.6g}"
        )


def _fit_one_exponent(z: Float64Array, is_positive: BoolArray, *, balanced: bool, zero: str) -> Fitted | None:
    """Fit beta with the exponent `zero` held at 0; None where the other would be negative."""
    free = "b" if zero == "a" else "a"
    fit = fit_logistic(z, is_positive, columns=(_BETA_COLUMNS[free],), balanced=balanced)
    if fit.coefficient[0] <= 0.0:
        return None
    fitted = _named(fit, (free, "c"), is_positive, balanced=balanced)
    parameters = {**fitted.parameters, zero: (0.0, None)}
    return Fitted({name: parameters[name] for name in ("a", "b", "c")}, fitted.loss)


def _check_overlap(z: Float64Array, is_positive: BoolArray, *, method: str) -> None:
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


def _named(fit: LogisticFit, names: Sequence[str], is_positive: BoolArray, *, balanced: bool) -> Fitted:
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
    return Fitted({name: (float(value), math.sqrt(square)) for name, value, square in values}, fit.loss)
