"""Logistic regression on a few functions of one logit, in float64 and bounded memory.

What Cox's calibration figures, temperature, Platt and beta calibration share.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qin.metrics.logits import BoolArray, Float64Array, FloatArray, prior_logit, row_chunks, sigmoid

# A function of a chunk's logits `(rows,)`, to the same shape.
Column = Callable[[Float64Array], Float64Array]

_MAX_STEPS = 200
_MAX_CONDITION = 1e13


@dataclass(frozen=True)
class LogisticFit:
    """A fitted regression.

    Attributes:
        coefficient: Of each column, then the intercept if there is one, `(num_coefficients,)`.
        covariance: Of the coefficients' estimates, `(num_coefficients, num_coefficients)`.
        loss: Mean loss at the solution, each row by its class's weight.
        decrement: The loss that another Newton step would still gain, twice.
    """

    coefficient: Float64Array
    covariance: Float64Array
    loss: float
    decrement: float


def identity(logit: Float64Array) -> Float64Array:
    """The logit itself, as a column."""
    return logit


def has_overlap(logit: FloatArray, is_positive: BoolArray) -> bool:
    """Tell whether some negative lies strictly above a positive and some positive strictly above a negative.

    This is when a logistic regression on one variable and an intercept has a finite maximum.

    Source: Albert and Anderson (1984), On the existence of maximum likelihood estimates in logistic regression.
    """
    positive, negative = logit[is_positive], logit[~is_positive]
    return bool(positive.min() < negative.max() and negative.min() < positive.max())


def fit_logistic(
    logit: FloatArray,
    is_positive: BoolArray,
    *,
    columns: Sequence[Column] = (identity,),
    intercept: bool = True,
    balanced: bool = False,
) -> LogisticFit:
    """Minimise the mean log loss of `sigmoid(sum_k coefficient_k column_k(logit) + intercept)`.

    Newton steps, halved while the loss rises, on standardised columns, so that the problem does not depend on their
    size. The loss is convex; the caller makes sure that its minimum is finite.

    The covariance is the inverse Fisher information. With balanced classes the weights are no counts of rows, and it is
    the sandwich `H^-1 J H^-1`, `J` the scores' spread within the classes, whose sizes count as given.

    Args:
        logit: `(n,)`, finite.
        is_positive: `(n,)`, bool, both classes present.
        columns: Functions of the logit, none constant and none a multiple of another over these rows.
        intercept: Whether there is one.
        balanced: Weigh the rows so that both classes count for half of the loss.

    Raises:
        ValueError: The columns cannot be told apart in float64, or the minimum is not reached.

    Source: Huber (1967), The behavior of maximum likelihood estimates under nonstandard conditions (sandwich).
    """
    problem = _Problem(logit, is_positive, columns, intercept=intercept, balanced=balanced)
    start = np.zeros(len(columns) + intercept)
    if intercept and not balanced:
        start[-1] = prior_logit(float(np.mean(is_positive)))
    weight, moments, decrement = _minimise(problem, start)
    inverse = np.linalg.inv(moments.hessian) / logit.size
    if balanced:
        inverse = inverse @ problem.spread(weight) @ inverse
    to_raw = problem.to_raw()
    return LogisticFit(to_raw @ weight, to_raw @ inverse @ to_raw.T, moments.loss, decrement)


@dataclass(frozen=True)
class _Moments:
    """Mean loss, its gradient `(d,)` and its Hessian `(d, d)`."""

    loss: float
    gradient: Float64Array
    hessian: Float64Array


class _Problem:
    """Rows, standardised columns and class weights (of a negative, of a positive)."""

    def __init__(
        self, logit: FloatArray, is_positive: BoolArray, columns: Sequence[Column], *, intercept: bool, balanced: bool
    ) -> None:
        self._logit, self._is_positive, self._columns, self._intercept = logit, is_positive, columns, intercept
        rate = float(np.mean(is_positive))
        self._class_weight = np.array([0.5 / (1.0 - rate), 0.5 / rate] if balanced else [1.0, 1.0])
        # mean, which stays 0 where no intercept could take it up, and root mean square around it
        self._mean, self._scale = np.zeros(len(columns)), np.ones(len(columns))
        if intercept:
            self._mean = self._column_sums(power=1) / logit.size
        self._scale = np.sqrt(self._column_sums(power=2) / logit.size)
        if not (self._scale > 1e-14 * np.abs(self._mean)).all():
            raise ValueError("the logits are too close together: a function of them is constant to rounding")

    def _column_sums(self, *, power: int) -> Float64Array:
        sums = np.zeros(len(self._columns))
        for _, chunk in row_chunks(self._logit):
            sums += (self._standardised(chunk) ** power).sum(axis=1)
        return sums

    def to_raw(self) -> Float64Array:
        """The matrix `(d, d)` that takes weights of standardised columns to coefficients of raw ones."""
        matrix = np.diag(np.append(1.0 / self._scale, [1.0] * self._intercept))
        if self._intercept:
            matrix[-1, :-1] = -self._mean / self._scale
        return matrix

    def moments(self, weight: Float64Array) -> _Moments:
        """Loss and derivatives at `weight (d,)`."""
        loss, gradient, hessian = 0.0, np.zeros(weight.size), np.zeros((weight.size, weight.size))
        for rows, chunk in row_chunks(self._logit):
            x, label = self._design(chunk), self._is_positive[rows]  # (d, rows), (rows,)
            linear = weight @ x
            row_weight = self._class_weight[label.astype(np.intp)]
            probability = sigmoid(linear)
            loss += float(row_weight @ np.logaddexp(0.0, np.where(label, -linear, linear)))
            gradient += x @ (row_weight * (probability - label))
            hessian += (x * (row_weight * probability * (1.0 - probability))) @ x.T
        return _Moments(loss / self._logit.size, gradient / self._logit.size, hessian / self._logit.size)

    def spread(self, weight: Float64Array) -> Float64Array:
        """The scores' sum of squares around their class's mean, `(d, d)`."""
        squares, sums = np.zeros((weight.size, weight.size)), np.zeros((2, weight.size))
        for rows, chunk in row_chunks(self._logit):
            x, label = self._design(chunk), self._is_positive[rows]
            scores = x * (self._class_weight[label.astype(np.intp)] * (sigmoid(weight @ x) - label))
            squares += scores @ scores.T
            sums += scores[:, ~label].sum(axis=1), scores[:, label].sum(axis=1)
        num_positives = int(np.count_nonzero(self._is_positive))
        counts = np.array([[self._logit.size - num_positives], [num_positives]])
        squares -= sums.T @ (sums / counts)
        return squares

    def _standardised(self, chunk: Float64Array) -> Float64Array:
        raw: Float64Array = np.stack([column(chunk) for column in self._columns])
        raw -= self._mean[:, None]
        raw /= self._scale[:, None]
        return raw

    def _design(self, chunk: Float64Array) -> Float64Array:
        """Standardised columns and the intercept's ones, `(d, rows)`."""
        x = self._standardised(chunk)
        return np.vstack([x, np.ones_like(chunk)]) if self._intercept else x


def _minimise(problem: _Problem, weight: Float64Array) -> tuple[Float64Array, _Moments, float]:
    """The weights at the minimum, the moments there, and the last decrement."""
    now = problem.moments(weight)
    for _ in range(_MAX_STEPS):
        if not np.linalg.cond(now.hessian) <= _MAX_CONDITION:  # so written that a NaN ends here, too
            raise ValueError("the logits are too few or too close together to tell the parameters apart")
        step = np.linalg.solve(now.hessian, now.gradient)
        decrement = float(now.gradient @ step)
        # half of the decrement is the loss still to be gained: below rounding there is nothing left
        if decrement < 1e-22:
            return weight - step, now, decrement
        trial = problem.moments(weight - step)
        # where the gain is near rounding the loss cannot judge a step, and Newton's steps need no judge
        while decrement > 1e-12 * now.loss and trial.loss > now.loss:
            step = step / 2.0
            trial = problem.moments(weight - step)
        weight, now = weight - step, trial
    raise ValueError(f"the logistic regression did not converge in {_MAX_STEPS} steps: {now.gradient=}")
