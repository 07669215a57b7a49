"""Every metric once: what it is of rows (a statistic) and how each row moves it (its influence), side by side.

To add a metric, add an entry to `METRICS`: `metrics/evaluate.json` has it with its standard error and `qin compare`
with its paired difference, which both follow from the influence.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qin.metrics.estimate import Estimate, RankedBy
from qin.metrics.logits import (
    BoolArray,
    Float64Array,
    FloatArray,
    IntArray,
    LabelArray,
    log_losses,
    positive_rows,
    prior_logit,
    row_chunks,
    sigmoid,
)
from qin.metrics.ranking import RankingCounts, ranking_counts


class Rows:
    """Logits and labels, with what several metrics read of them, each computed once and when first needed.

    Args:
        logit: `(n,)`, finite.
        label: `(n,)` in {0, 1}, both of them.
        base_rate: Click rate of the training rows, a constant here; only `WLL_BALANCED` reads it.

    Raises:
        ValueError: See `qin.metrics.logits.positive_rows`.
    """

    def __init__(self, logit: FloatArray, label: LabelArray, *, base_rate: float = 0.5) -> None:
        self.logit, self.label, self.base_rate = logit, label, base_rate
        self.is_positive: BoolArray = positive_rows(logit, label)

    @cached_property
    def num_positives(self) -> int:
        """Clicks."""
        return int(np.count_nonzero(self.is_positive))

    @cached_property
    def rate(self) -> float:
        """Click rate of these rows."""
        return self.num_positives / self.label.size

    @cached_property
    def counts(self) -> RankingCounts:
        """What the ranking follows from."""
        return ranking_counts(self.logit, self.label)

    @cached_property
    def class_losses(self) -> tuple[float, float]:
        """Mean loss of the clicks and of the other rows."""
        return log_losses(self.logit, self.label)

    @cached_property
    def row_losses(self) -> Float64Array:
        """Loss of each row."""
        return self.losses_at(0.0)

    def losses_at(self, offset: float) -> Float64Array:
        """Loss of each row from `logit + offset`."""
        shifted = self.logit.astype(np.float64) + offset
        return np.logaddexp(0.0, np.where(self.is_positive, -shifted, shifted))

    @cached_property
    def probability(self) -> Float64Array:
        """Click probability of each row."""
        return sigmoid(self.logit.astype(np.float64))


@dataclass(frozen=True)
class Metric:
    """One figure of rows.

    Attributes:
        name: Its key in the metrics files.
        statistic: Its value.
        influence: `(n,)`, given its value: the influence function at each row over n, which sums to 0.
        ranks: Whether it reads the order of rows alone, so that a calibrator of all rows leaves it as it is.
        lower_is_better: Whether it is a loss.
        is_compared: Whether `qin compare` shows it; one that says the same as another, or has no better side, is not.
        is_precision: Whether it is an average precision, whose intervals need `qin.metrics.resampling`.
    """

    name: str
    statistic: Callable[[Rows], float]
    influence: Callable[[Rows, float], Float64Array]
    ranks: bool = False
    lower_is_better: bool = False
    is_compared: bool = True
    is_precision: bool = False

    def estimate(self, rows: Rows) -> Estimate:
        """The value with each row's influence."""
        value = self.statistic(rows)
        ranked = (RankedBy(1.0, rows.logit),) if self.is_precision else ()
        return Estimate(value, self.influence(rows, value), ranked)


def estimates(metrics: Iterable[Metric], rows: Rows) -> dict[str, Estimate]:
    """Each metric's estimate by name."""
    return {metric.name: metric.estimate(rows) for metric in metrics}


def values(metrics: Iterable[Metric], rows: Rows) -> dict[str, float]:
    """Each metric's value by name, without its influence."""
    return {metric.name: metric.statistic(rows) for metric in metrics}


# Ranking


def _precision_influence(rows: Rows, value: float) -> Float64Array:
    """Influence of average precision.

    AP is the functional `E[y P(s)] / E[y]` of the joint distribution of score s and label y, with `P(t) = T(t) / N(t)`,
    `T(t) = Pr(y = 1, s >= t)` and `N(t) = Pr(s >= t)`. Its derivative towards a point mass at (s, y) is

        (y (P(s) - AP) + y A(s) - B(s)) / E[y],
        A(t) = E[y' 1(s' <= t) / N(s')],  B(t) = E[y' 1(s' <= t) P(s') / N(s')]:

    a row's own place, and what it does to the precision at every positive that it reaches. Ties are one step, as in the
    estimate, because `>=` and `<=` include them. The class sizes count as random, as they are in a sample of rows.
    """
    counts = rows.counts
    num_selected = counts.true_positives() + counts.false_positives()
    precision = counts.true_positives() / num_selected
    gained = _from_zero(counts.num_positives_at / num_selected)
    lost = _from_zero(counts.num_positives_at * precision / num_selected)
    influence = np.empty(rows.label.size)
    for part, _, num_reached in _reached(rows):
        own = precision[num_reached - 1] - value + gained[num_reached]  # a positive reaches its own threshold
        influence[part] = np.where(rows.is_positive[part], own, 0.0) - lost[num_reached]
    influence /= rows.num_positives
    return influence


def _auc_influence(rows: Rows, value: float) -> Float64Array:
    """DeLong's placement values: the share of the other class that a row is ranked rightly against."""
    counts, num_positives = rows.counts, rows.num_positives
    num_negatives = counts.num_negatives
    won = (2 * num_negatives - counts.false_positives() - counts.false_positives_above()) / (2.0 * num_negatives)
    num_up_to = _from_zero(counts.num_positives_at.astype(np.float64))
    influence = np.empty(rows.label.size)
    for part, chunk, num_reached in _reached(rows):
        last = num_reached - 1
        is_tied = (num_reached > 0) & (counts.threshold[last] == chunk)
        lost = num_up_to[num_reached] - 0.5 * is_tied * counts.num_positives_at[last]
        of_negatives = (1.0 - lost / num_positives - value) / num_negatives
        influence[part] = np.where(rows.is_positive[part], (won[last] - value) / num_positives, of_negatives)
    return influence


def _reached(rows: Rows) -> Iterator[tuple[slice, Float64Array, IntArray]]:
    """Chunks of rows and logits, with the number of thresholds at or below each; memory is bounded by the chunk."""
    for part, chunk in row_chunks(rows.logit):
        yield part, chunk, np.searchsorted(rows.counts.threshold, chunk, side="right")


def _from_zero(steps: Float64Array) -> Float64Array:
    return np.concatenate([[0.0], np.cumsum(steps)])


# Probabilities


def _log_loss(rows: Rows) -> float:
    of_clicks, of_others = rows.class_losses
    return rows.rate * of_clicks + (1.0 - rows.rate) * of_others


def _log_loss_influence(rows: Rows, value: float) -> Float64Array:
    return (rows.row_losses - value) / rows.label.size


def _entropy(rows: Rows) -> float:
    """Entropy of a click at these rows' own rate."""
    return -rows.rate * math.log(rows.rate) - (1.0 - rows.rate) * math.log1p(-rows.rate)


def _normalised_entropy(rows: Rows) -> float:
    """Log loss over the entropy.

    Source: He et al. (2014), Practical lessons from predicting clicks on ads at Facebook, section 2.
    """
    return _log_loss(rows) / _entropy(rows)


def _normalised_entropy_influence(rows: Rows, value: float) -> Float64Array:
    """Of a quotient whose denominator is the entropy `H(r)` of the rate r, with `H'(r) = -logit(r)`."""
    of_loss = _log_loss_influence(rows, _log_loss(rows))
    of_rate = (rows.is_positive - rows.rate) / rows.label.size
    return (of_loss + value * prior_logit(rows.rate) * of_rate) / _entropy(rows)


def _weighted_log_loss(rows: Rows) -> float:
    """Mean of the two classes' mean losses."""
    return 0.5 * sum(rows.class_losses)


def _weighted_log_loss_influence(rows: Rows, _: float) -> Float64Array:
    return _class_mean_influence(rows, rows.row_losses)


def _balanced_log_loss(rows: Rows) -> float:
    """The same for `logit - logit(base_rate)`."""
    return 0.5 * sum(log_losses(rows.logit, rows.label, offset=-prior_logit(rows.base_rate)))


def _balanced_log_loss_influence(rows: Rows, _: float) -> Float64Array:
    return _class_mean_influence(rows, rows.losses_at(-prior_logit(rows.base_rate)))


def _class_mean_influence(rows: Rows, losses: Float64Array) -> Float64Array:
    """Of the mean of both classes' means: each row's distance from its own class."""
    influence = np.empty(losses.size)
    for of_class in (rows.is_positive, ~rows.is_positive):
        own = losses[of_class]
        influence[of_class] = 0.5 * (own - own.mean()) / own.size
    return influence


def _calibration_ratio(rows: Rows) -> float:
    """Predicted over observed clicks."""
    return float(rows.probability.sum()) / rows.num_positives


def _calibration_ratio_influence(rows: Rows, value: float) -> Float64Array:
    return (rows.probability - value * rows.is_positive) / rows.num_positives


AP = Metric("ap", lambda rows: rows.counts.average_precision(), _precision_influence, ranks=True, is_precision=True)
AUC = Metric("auc", lambda rows: rows.counts.auc(), _auc_influence, ranks=True)
LOG_LOSS = Metric("log_loss", _log_loss, _log_loss_influence, lower_is_better=True)
NE = Metric("ne", _normalised_entropy, _normalised_entropy_influence, lower_is_better=True, is_compared=False)
WLL = Metric("wll", _weighted_log_loss, _weighted_log_loss_influence, lower_is_better=True)
WLL_BALANCED = Metric("wll_balanced", _balanced_log_loss, _balanced_log_loss_influence, lower_is_better=True)
CALIBRATION_RATIO = Metric("calibration_ratio", _calibration_ratio, _calibration_ratio_influence, is_compared=False)

# By name, in the order of the files.
METRICS = {metric.name: metric for metric in (AP, AUC, LOG_LOSS, NE, WLL, WLL_BALANCED, CALIBRATION_RATIO)}


def ranking_metrics() -> tuple[Metric, ...]:
    """Those that read the order of rows alone."""
    return tuple(metric for metric in METRICS.values() if metric.ranks)


def probability_metrics() -> tuple[Metric, ...]:
    """Those that read probabilities."""
    return tuple(metric for metric in METRICS.values() if not metric.ranks)


def compared_metrics() -> tuple[Metric, ...]:
    """Those that `qin compare` shows."""
    return tuple(metric for metric in METRICS.values() if metric.is_compared)


def competition_score(*, ap: float, wll: float) -> float:
    """Return `0.5 AP + 0.5 / (1 + WLL)`, higher is better.

    Source: Toss NEXT ML challenge (2025), evaluation rule.
    """
    return 0.5 * ap + 0.5 / (1.0 + wll)


def competition_estimate(*, ap: Estimate, wll: Estimate) -> Estimate:
    """The score of two estimates whose influences are over the same rows."""
    slope = -0.5 / (1.0 + wll.value) ** 2
    value = competition_score(ap=ap.value, wll=wll.value)
    ranked = tuple(RankedBy(0.5 * one.weight, one.logit) for one in ap.ranked)
    return Estimate(value, 0.5 * ap.influence + slope * wll.influence, ranked)
