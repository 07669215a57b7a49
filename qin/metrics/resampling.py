"""Intervals of average precision from few clicks: the bootstrap of rows or clusters, studentised.

AP rests on the few clicks that rank highest, so with some hundred clicks its standard error, right on average, rises
and falls with the estimate itself: a difference divided by it has lighter tails than the normal distribution, and a
true difference is called noise. What the ratio's distribution is, resampling tells:

1. Draw each unit (a row, or a cluster such as a user) w times, w of nearly a Poisson distribution of mean 1.
2. Compute the estimate and its standard error from the influences, both of the weighted rows.
3. The quantiles of `(estimate* - estimate) / error*` take the place of the normal ones, at both ends apart.

Memory and time are bounded by the resamples, whatever the number of rows: rows without a click that rank below
`_EXACT_RANK` in every ranking count as they are, because a resample changes their number by little there, and give the
estimate and its error the normal noise of their influences.

Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 12.5 (the bootstrap-t interval); Field
and Welsh (2007), Bootstrapping clustered data (resampling clusters whole).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from qin.metrics.estimate import RankedBy
from qin.metrics.intervals import NORMAL_975
from qin.metrics.logits import BoolArray, Float64Array, FloatArray, IntArray

# Clicks (or clusters that hold one) from which the normal distribution serves: see the table in docs/statistics.md.
MANY_CLICKS = 2_000

# A p-value is 2 / (resamples + 1) at least, which must pass the 0.1% of a clear difference; an interval needs fewer.
NUM_RESAMPLES = 2_399
INTERVAL_RESAMPLES = 999

# Below this rank a precision's denominator varies by about 2%, far less than the clicks above it do.
_EXACT_RANK = 2_048

# Of the estimate's error: what few rows leave of it in a resample whose order is perfect is rounding, not spread.
_LEAST_SPREAD = 1e-8

_BLOCK_VALUES = 1 << 19  # of a block of resamples: a few MiB per array
_SALT = 0x41504254  # "APBT"

# 256 equally likely draws of mean 1 and variance 1.008: a byte draws a Poisson weight.
_WEIGHTS = np.repeat(np.arange(6, dtype=np.float64), [95, 93, 47, 16, 4, 1])


@dataclass(frozen=True)
class Interval:
    """What an estimate says of the truth.

    Attributes:
        lower: 95% interval, equal tails.
        upper: Its other end.
        p_value: Two-sided, of a true value of 0.
        is_resampled: Whether these are bootstrap quantiles rather than normal ones.
    """

    lower: float
    upper: float
    p_value: float
    is_resampled: bool = False


def normal_interval(value: float, standard_error: float) -> Interval:
    """The interval of an estimate that is normal, `value +- 1.96 standard errors`."""
    spread = NORMAL_975 * standard_error
    if not standard_error:
        return Interval(value, value, 1.0 if value == 0.0 else 0.0)
    return Interval(value - spread, value + spread, math.erfc(abs(value) / standard_error / math.sqrt(2.0)))


def equivalent_z(p_value: float) -> float:
    """The normal deviate, not negative, that has this two-sided p-value."""
    return NormalDist().inv_cdf(1.0 - p_value / 2.0)


def resampled_interval(
    value: float,
    influence: Float64Array,
    *,
    ranked: Sequence[RankedBy],
    is_positive: BoolArray,
    cluster: IntArray | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The studentised bootstrap interval of an estimate that holds average precisions.

    Args:
        value: The estimate, such as a difference of two average precisions.
        influence: `(n,)`, each row's influence on it over n.
        ranked: Its average precisions; what else is in it counts by its influence, as a sum over rows.
        is_positive: `(n,)`, bool, with both classes.
        cluster: `(n,)`, codes from 0 of what is drawn independently; None for rows.
        num_resamples: Bootstrap samples.
        seed: Of the draws; the same for every estimate of the same rows.
    """
    sample = _Sample(influence, ranked, is_positive, cluster)
    _, error = (float(figure[0]) for figure in sample.figures(np.ones((1, sample.num_units)), np.zeros(1)))
    if error == 0.0:
        return Interval(value, value, 1.0 if value == 0.0 else 0.0)
    generator = np.random.default_rng((seed, _SALT))
    block = max(1, min(num_resamples, _BLOCK_VALUES // max(sample.num_rows, 1)))
    ratios = []
    for start in range(0, num_resamples, block):
        num_draws = min(block, num_resamples - start)
        draws = generator.integers(0, 256, (num_draws, sample.num_units), dtype=np.uint8)
        shift, of_sample = sample.figures(_WEIGHTS[draws], generator.standard_normal(num_draws))
        has_spread = of_sample > _LEAST_SPREAD * error
        ratios.append(np.divide(shift, of_sample, out=np.full(num_draws, np.nan), where=has_spread))
    ratio = np.concatenate(ratios)
    ratio = ratio[np.isfinite(ratio)]  # a sample without a click has no average precision
    if not ratio.size:
        return normal_interval(value, error)
    # The ends change places: an estimate that came out high by its own errors lies above the truth.
    low, high = np.quantile(ratio, [0.025, 0.975]).tolist()
    tail = int(min(np.count_nonzero(ratio >= value / error), np.count_nonzero(ratio <= value / error)))
    p_value = min(1.0, 2.0 * (tail + 1) / (ratio.size + 1))
    return Interval(value - high * error, value - low * error, p_value, is_resampled=True)


class _Sample:
    """Rows that are drawn again, and what they add to an estimate.

    Columns are the clicks, then the other active rows; units are what is drawn.
    """

    def __init__(
        self,
        influence: Float64Array,
        ranked: Sequence[RankedBy],
        is_positive: BoolArray,
        cluster: IntArray | None,
    ) -> None:
        rankings = [_Ranking(one.weight, one.logit, is_positive) for one in ranked]
        is_active = np.logical_or.reduce([ranking.is_exact for ranking in rankings])  # of the rows without a click
        clicks, others = np.flatnonzero(is_positive), np.flatnonzero(~is_positive)
        rows = np.concatenate([clicks, others[is_active]])
        self.num_rows, self._num_clicks = rows.size, clicks.size
        for ranking in rankings:
            ranking.keep(is_active)
        self._rankings = rankings
        self._set_units(rows, cluster)
        # What no ranking accounts for is a sum over rows, and stays one.
        unit = self._effects(np.ones((1, rows.size)))[1][0]
        self._linear = influence[rows] - unit
        self._set_remainder(influence, rows, cluster)

    def _set_units(self, rows: IntArray, cluster: IntArray | None) -> None:
        if cluster is None:
            self._codes, self._unit, self._order = None, None, None
            self.num_units = rows.size
            return
        self._codes, self._unit = np.unique(cluster[rows], return_inverse=True)
        self.num_units = self._codes.size
        self._order = np.argsort(self._unit, kind="stable")
        self._starts = np.searchsorted(self._unit[self._order], np.arange(self.num_units))

    def _set_remainder(self, influence: Float64Array, rows: IntArray, cluster: IntArray | None) -> None:
        """The influences of the rows that are not drawn again: by drawn unit, and the squares of all others."""
        rest = influence.copy()
        rest[rows] = 0.0
        if cluster is None:
            self._of_unit: Float64Array = np.zeros(1)
        else:
            rest = np.bincount(cluster, weights=rest).astype(np.float64, copy=False)
            self._of_unit = rest[self._codes]
            rest[self._codes] = 0.0
        self._variance = float(np.dot(rest, rest))

    def figures(self, weight: Float64Array, noise: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Each resample's shift of the estimate and its standard error, `(draws,)`.

        Args:
            weight: How often each unit is drawn, `(draws, num_units)`.
            noise: Standard normal, `(draws,)`, for the rows that are not drawn again.
        """
        of_rows = weight if self._unit is None else weight[:, self._unit]
        shift, effect = self._effects(of_rows)
        effect += self._linear
        shift = shift + (of_rows - 1.0) @ self._linear + math.sqrt(self._variance) * noise
        if self._order is not None:
            effect = np.add.reduceat(effect[:, self._order], self._starts, axis=1) + self._of_unit
            shift = shift + (weight - 1.0) @ self._of_unit
        return shift, np.sqrt(np.einsum("ij,ij,ij->i", weight, effect, effect) + self._variance)

    def _effects(self, weight: Float64Array) -> tuple[Float64Array, Float64Array]:
        """The shift of the average precisions, `(draws,)`, and each row's influence on them."""
        shift, effect = np.zeros(len(weight)), np.zeros_like(weight)
        for ranking in self._rankings:
            value, of_rows = ranking.resampled(weight, self._num_clicks)
            shift += ranking.weight * (value - ranking.value)
            effect += ranking.weight * of_rows
        return shift, effect


class _Ranking:
    """One average precision of weighted rows; thresholds are the distinct logits of clicks, descending."""

    def __init__(self, weight: float, logit: FloatArray, is_positive: BoolArray) -> None:
        self.weight = weight
        negated = -logit.astype(np.float64)
        threshold = np.unique(negated[is_positive])
        self._num_thresholds = threshold.size
        # A row counts at its place among the thresholds and at all lower ones; a tie is at its own.
        place = np.searchsorted(threshold, negated, side="left")
        self._of_clicks, self._of_others = place[is_positive], place[~is_positive]
        counts = np.bincount(self._of_others, minlength=threshold.size + 1)[:-1]
        selected = np.cumsum(counts) + np.cumsum(np.bincount(self._of_clicks, minlength=threshold.size))
        self.is_exact = self._of_others < np.searchsorted(selected, _EXACT_RANK, side="right")
        self.value = 0.0

    def keep(self, is_active: BoolArray) -> None:
        """Draw these rows without a click again, `(num_others,)`, and count the rest as they are."""
        size = self._num_thresholds
        self._fixed = np.cumsum(np.bincount(self._of_others[~is_active], minlength=size + 1)[:-1]).astype(np.float64)
        self._of_others = self._of_others[is_active]
        self._place = np.concatenate([self._of_clicks, self._of_others])
        self._sums = [_sorted_bounds(places, size) for places in (self._of_clicks, self._of_others)]
        ones = np.ones((1, self._place.size))
        self.value = float(self.resampled(ones, self._of_clicks.size)[0][0])

    def resampled(self, weight: Float64Array, num_clicks: int) -> tuple[Float64Array, Float64Array]:
        """The average precision, `(draws,)`, and each row's influence on it, `(draws, rows)`.

        The formulas are those of `qin.metrics.definitions`, with weights.
        """
        true, false = (
            _running_sums(part[:, order], bounds)
            for part, (order, bounds) in zip((weight[:, :num_clicks], weight[:, num_clicks:]), self._sums, strict=True)
        )
        selected = true + false + self._fixed
        precision = np.divide(true, selected, out=np.zeros_like(true), where=selected > 0.0)
        total = np.maximum(true[:, -1:], 1e-300)  # without any click all numerators are 0 too
        at = np.diff(true, axis=1, prepend=0.0) / total
        value = np.einsum("ij,ij->i", at, precision)
        share = np.divide(at, selected, out=np.zeros_like(at), where=selected > 0.0)
        lost = _from_below(share * precision)
        own = (precision - value[:, None]) / total + _from_below(share)[:, :-1]
        effect = -np.take(lost, self._place, axis=1)
        effect[:, :num_clicks] += np.take(own, self._of_clicks, axis=1)
        return value, effect


def _sorted_bounds(place: IntArray, size: int) -> tuple[IntArray, IntArray]:
    """An order by place, and how many rows lie at or above each of `size` thresholds."""
    order = np.argsort(place, kind="stable")
    return order, np.searchsorted(place[order], np.arange(size), side="right")


def _running_sums(values: Float64Array, bounds: IntArray) -> Float64Array:
    """The sums of the first `bounds` columns, `(draws, num_bounds)`."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return np.take(sums, bounds, axis=1)


def _from_below(values: Float64Array) -> Float64Array:
    """The sums over each threshold and all lower ones, `(draws, size + 1)`, the last 0."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values[:, ::-1], axis=1, out=sums[:, -2::-1])
    return sums
