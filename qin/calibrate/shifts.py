"""A shift of the calibrated logit per segment, shrunk towards 0 as far as the data ask for it.

The model is a logistic regression with a random intercept per segment over a known logit `eta`:

    label ~ Bernoulli(sigmoid(eta + shift_s)),    shift_s ~ Normal(0, tau^2)

`tau` maximises the marginal likelihood (empirical Bayes), and each segment's shift is the mode of its posterior. A
segment of many rows keeps its own click rate, a small one goes to the global calibration, and `tau = 0` switches all
shifts off where segments do not differ by more than chance.

Source: Breslow and Clayton (1993), Approximate inference in generalized linear mixed models; Shun and McCullagh (1995),
Laplace approximation of high dimensional integrals, for the correction of the approximation.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qin.metrics.logits import BoolArray, Float64Array, FloatArray, row_chunks, sigmoid
from qin.raw.segments import Segments
from qin.runtime.files import check_keys

_TAUS = tuple(0.01 * 400.0 ** (step / 6) for step in range(7))  # 0.01 to 4, in logits
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_TAU_TOLERANCE = 5e-3  # of log tau, far below its standard error
_MAX_STEPS = 1000  # a guard: each takes at least a quarter off the gradient


@dataclass(frozen=True)
class SegmentShifts:
    """Shifts of the calibrated logit.

    Attributes:
        column: Whose values are the segments.
        tau: Standard deviation of the shifts over segments; 0 for none.
        statistic: Likelihood ratio of `tau` against 0.
        p_value: Of a ratio as large if segments do not differ, rows are independent, and there are many segments.
        num_rows: Rows of each segment that was fitted, by name.
        shift: Posterior mode by name.
        standard_error: Posterior standard deviation by name, given `tau`.
        type: Arrow type of the column in the train file, as of `qin.columns.types.type_name`: a text `3.0` would be
            another segment than a number; empty where none is recorded.
    """

    column: str
    tau: float
    statistic: float
    p_value: float
    num_rows: Mapping[str, int]
    shift: Mapping[str, float]
    standard_error: Mapping[str, float]
    type: str = ""

    def __post_init__(self) -> None:
        for name, value in {"tau": self.tau, **self.shift}.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"a shift must be a finite number: {name}={value!r}")

    def of_rows(self, segments: Segments) -> Float64Array:
        """Each row's shift, `(num_rows,)`, 0 for a segment that was not fitted."""
        by_code = np.array([self.shift.get(name, 0.0) for name in segments.names], np.float64)
        return by_code[segments.code]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SegmentShifts":
        """Read what `dataclasses.asdict` wrote.

        Raises:
            ValueError: A key is missing or unknown.
        """
        check_keys({"type": "", **values}, [field.name for field in fields(cls)])
        return cls(**values)


def fit_shifts(
    logit: FloatArray, is_positive: BoolArray, segments: Segments, *, column: str, kind: str = ""
) -> SegmentShifts:
    """Estimate `tau` and the segments' shifts.

    Args:
        logit: `(n,)`, calibrated as a whole, natural scale.
        is_positive: `(n,)`, bool.
        segments: Each row's segment; names without a row are left out.
        column: Name of the column, for the record.
        kind: Its Arrow type, for the record.
    """
    code, present = _dense(segments)
    rows = _Rows(logit, is_positive, code, num_segments=present.size)
    tau, likelihood, at_zero = _best_tau(rows)
    shift, error = np.zeros(present.size), np.zeros(present.size)
    if tau > 0.0:
        shift = rows.modes(tau, shift)
        error = 1.0 / np.sqrt(rows.slopes(shift)[1] + tau**-2)
    statistic = 2.0 * (likelihood - at_zero)
    names = [segments.names[position] for position in present]
    return SegmentShifts(
        column=column,
        tau=tau,
        statistic=statistic,
        # Half of chi-squared's tail: 0 is the end of what `tau` may be, and half of all samples without spread lie
        # there.
        p_value=0.5 * math.erfc(math.sqrt(statistic / 2.0)) if tau > 0.0 else 1.0,
        num_rows=dict(zip(names, np.bincount(code).tolist(), strict=True)),
        shift=dict(zip(names, shift.tolist(), strict=True)),
        standard_error=dict(zip(names, error.tolist(), strict=True)),
        type=kind,
    )


class _Rows:
    """Rows of known logit, and sums over segments of their likelihood and its derivatives in the shift."""

    def __init__(
        self, logit: FloatArray, is_positive: BoolArray, code: NDArray[np.int64], *, num_segments: int
    ) -> None:
        self._logit, self._is_positive, self._code, self.num_segments = logit, is_positive, code, num_segments

    def slopes(self, shift: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return, per segment at `shift (num_segments,)`, clicks less expected clicks, and the clicks' variance."""
        gradient, information = np.zeros((2, self.num_segments))
        for code, label, eta in self._shifted(shift):
            probability = sigmoid(eta)
            gradient += self._sum(code, label - probability)
            information += self._sum(code, probability * (1.0 - probability))
        return gradient, information

    def modes(self, tau: float, start: Float64Array) -> Float64Array:
        """The posterior modes, by Newton from `start` in all segments at once.

        A step is at most 1. The third derivative of the log posterior is at most its second, so each step takes at
        least a quarter off a segment's gradient.
        """
        shift = start
        for _ in range(_MAX_STEPS):
            gradient, information = self.slopes(shift)
            step = (gradient - shift / tau**2) / (information + tau**-2)
            shift = shift + np.clip(step, -1.0, 1.0)
            if np.abs(step).max() < 1e-6:  # the error left is its square
                return shift
        raise ValueError(f"the segments' shifts did not converge in {_MAX_STEPS} steps: {tau=}")

    def likelihood(self, tau: float, mode: Float64Array) -> float:
        """The log marginal likelihood at `tau`: Laplace's approximation at the modes and its first correction.

        With `h` the negative log posterior and `h2`, `h3`, `h4` its derivatives at the mode, a segment's integral is
        `exp(-h) sqrt(2 pi / h2) (1 + 5 h3^2 / (24 h2^3) - h4 / (8 h2^2))`.
        """
        total, (information, h3, h4) = 0.0, np.zeros((3, self.num_segments))
        for code, label, eta in self._shifted(mode):
            total -= float(np.logaddexp(0.0, np.where(label, -eta, eta)).sum())
            probability = sigmoid(eta)
            variance = probability * (1.0 - probability)
            information += self._sum(code, variance)
            h3 += self._sum(code, variance * (1.0 - 2.0 * probability))
            h4 += self._sum(code, variance * (1.0 - 6.0 * variance))
        if tau == 0.0:
            return total
        h2 = information + tau**-2
        correction = 5.0 * h3**2 / (24.0 * h2**3) - h4 / (8.0 * h2**2)
        # The correction itself and not the logarithm of one plus it, which is the same to its order and exists always.
        return total + float(np.sum(correction - 0.5 * (mode / tau) ** 2 - 0.5 * np.log1p(tau**2 * information)))

    def _shifted(self, shift: Float64Array) -> Iterator[tuple[NDArray[np.int64], BoolArray, Float64Array]]:
        for rows, chunk in row_chunks(self._logit):
            code = self._code[rows]
            yield code, self._is_positive[rows], chunk + shift[code]

    def _sum(self, code: NDArray[np.int64], values: Float64Array) -> Float64Array:
        return np.bincount(code, values, self.num_segments).astype(np.float64)


def _best_tau(rows: _Rows) -> tuple[float, float, float]:
    """Return `tau` of the largest marginal likelihood, that likelihood, and the one at 0.

    A coarse grid brackets the maximum, a golden section narrows it down.
    """
    mode = np.zeros(rows.num_segments)
    at_zero = rows.likelihood(0.0, mode)

    def likelihood(log_tau: float) -> float:
        nonlocal mode  # the modes move little from one tau to the next
        mode = rows.modes(math.exp(log_tau), mode)
        return rows.likelihood(math.exp(log_tau), mode)

    grid = [math.log(tau) for tau in _TAUS]
    values = [likelihood(log_tau) for log_tau in grid]
    best = int(np.argmax(values))
    if values[best] <= at_zero:
        return 0.0, at_zero, at_zero
    narrowed = _golden_maximum(likelihood, grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    value, log_tau = max(narrowed, (values[best], grid[best]))
    return math.exp(log_tau), value, at_zero


def _golden_maximum(function: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """Value and place of the maximum of a function with one in `[low, high]`."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > _TAU_TOLERANCE:
        if at_left >= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return max((at_left, left), (at_right, right))


def _dense(segments: Segments) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Codes without gaps, and the position in `names` of each."""
    present, code = np.unique(segments.code, return_inverse=True)
    return code.astype(np.int64), present.astype(np.int64)
