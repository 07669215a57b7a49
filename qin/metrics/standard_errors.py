"""Standard errors from one mechanism: each row's influence on a metric, summed within clusters.

To first order an estimate is the truth plus a sum of contributions, one per row: its influence divided by the number
of rows. The sum of their squares is the variance, of their sums within clusters where the rows of a cluster depend on
each other, and two models' contributions on the same rows, subtracted, give the variance of their paired difference.

Everything costs O(n log n) time and a few float64 values per row.

Source: Hampel (1974), The influence curve and its role in robust estimation; van der Vaart (1998), Asymptotic
Statistics, chapter 20 (the functional delta method).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from qin.metrics.logits import (
    BoolArray,
    Float64Array,
    FloatArray,
    IntArray,
    LabelArray,
    positive_rows,
    prior_logit,
    row_chunks,
    sigmoid,
)
from qin.metrics.probability import competition_score
from qin.metrics.ranking import RankingCounts, ranking_counts


@dataclass(frozen=True)
class Estimate:
    """A metric with what each row contributes to its error.

    Attributes:
        value: the metric.
        influence: ndarray of shape (n,), the influence function at each row over n; sums to 0.
    """

    value: float
    influence: Float64Array


def values_with_errors(
    estimates: Mapping[str, Estimate], is_positive: BoolArray, *, cluster: IntArray | None = None
) -> dict[str, float | None]:
    """Return `name` and `name_se` of each estimate, in their order; see `standard_error`."""
    figures: dict[str, float | None] = {}
    for name, estimate in estimates.items():
        figures[name] = estimate.value
        figures[f"{name}_se"] = standard_error(estimate.influence, is_positive, cluster=cluster)
    return figures


def standard_error(influence: Float64Array, is_positive: BoolArray, *, cluster: IntArray | None = None) -> float | None:
    """Return the standard error of an estimate, or of a difference of estimates on the same rows.

    With `a_g` and `b_g` the sums over the positives and over the negatives of cluster g, and `I1`, `I0` and `I` the
    number of clusters that hold a positive, a negative, any row, the variance is

        I1 / (I1 - 1) sum_g a_g^2 + I0 / (I0 - 1) sum_g b_g^2 + 2 I / (I - 1) sum_g a_g b_g.

    The factors belong to each class because positives are few: without clusters and for AUC this is DeLong's variance
    exactly, with clusters Obuchowski's; for a plain mean it is the usual `s^2 / n` up to the factors.

    Args:
        influence: ndarray of shape (n,); see `Estimate`.
        is_positive: bool ndarray of shape (n,).
        cluster: ndarray of shape (n,), codes from 0 of what is drawn independently, such as users; None for rows.

    Returns:
        The standard error, or None where a class lies in a single cluster and has no variance to be seen.

    Raises:
        ValueError: the shapes differ, or a code is negative.

    Source: Obuchowski (1997), Nonparametric analysis of clustered ROC curve data; DeLong, DeLong and Clarke-Pearson
    (1988), Comparing the areas under two or more correlated receiver operating characteristic curves.
    """
    if influence.shape != is_positive.shape or (cluster is not None and cluster.shape != influence.shape):
        shape = None if cluster is None else cluster.shape
        raise ValueError(f"shapes must be equal: {influence.shape=}, {is_positive.shape=}, cluster {shape}")
    if cluster is None:
        return _independent_error(influence, is_positive)
    of_positives, num_positive = _cluster_sums(influence, cluster, is_positive)
    of_negatives, num_negative = _cluster_sums(influence, cluster, ~is_positive)
    holders = [int(np.count_nonzero(num)) for num in (num_positive, num_negative, num_positive + num_negative)]
    if min(holders) < 2:
        return None
    factor = [count / (count - 1) for count in holders]
    variance = (
        factor[0] * np.dot(of_positives, of_positives)
        + factor[1] * np.dot(of_negatives, of_negatives)
        + 2.0 * factor[2] * np.dot(of_positives, of_negatives)
    )
    # never negative but for rounding: the last factor is the smallest
    return math.sqrt(max(float(variance), 0.0))


def _independent_error(influence: Float64Array, is_positive: BoolArray) -> float | None:
    """The same for rows alone, of which none holds both classes."""
    of_positives = influence[is_positive]
    num_positives, num_negatives = of_positives.size, influence.size - of_positives.size
    if min(num_positives, num_negatives) < 2:
        return None
    squares = float(np.dot(of_positives, of_positives))
    of_others = float(np.dot(influence, influence)) - squares  # spares a copy of the negatives
    variance = num_positives / (num_positives - 1) * squares + num_negatives / (num_negatives - 1) * of_others
    return math.sqrt(max(variance, 0.0))


def _cluster_sums(influence: Float64Array, cluster: IntArray, rows: BoolArray) -> tuple[Float64Array, IntArray]:
    """Return the sum of the influences and the number of the given rows, per cluster."""
    codes, num_clusters = cluster[rows], int(cluster.max()) + 1
    sums = np.bincount(codes, weights=influence[rows], minlength=num_clusters)
    return sums.astype(np.float64, copy=False), np.bincount(codes, minlength=num_clusters)


# Ranking


def ranking_estimates(logit: FloatArray, label: LabelArray) -> dict[str, Estimate]:
    """Return `ap` and `auc`.

    Raises:
        ValueError: see `qin.metrics.logits.positive_rows`.
    """
    is_positive = positive_rows(logit, label)
    counts = ranking_counts(logit, label)
    return {"ap": _average_precision(counts, logit, is_positive), "auc": _auc(counts, logit, is_positive)}


def _average_precision(counts: RankingCounts, logit: FloatArray, is_positive: BoolArray) -> Estimate:
    """Average precision and its influence function.

    AP is the functional `E[y P(s)] / E[y]` of the joint distribution of score s and label y, with `P(t) = T(t) / N(t)`,
    `T(t) = Pr(y = 1, s >= t)` and `N(t) = Pr(s >= t)`. Its derivative towards a point mass at (s, y) is

        (y (P(s) - AP) + y A(s) - B(s)) / E[y],
        A(t) = E[y' 1(s' <= t) / N(s')],  B(t) = E[y' 1(s' <= t) P(s') / N(s')]:

    a row's own place, and what it does to the precision at every positive that it reaches. Ties are one step, as in the
    estimate, because `>=` and `<=` include them. The class sizes count as random, as they are in a sample of rows.
    """
    value = counts.average_precision()
    num_selected = counts.true_positives() + counts.false_positives()
    precision = counts.true_positives() / num_selected
    gained = _from_zero(counts.num_positives_at / num_selected)
    lost = _from_zero(counts.num_positives_at * precision / num_selected)
    influence = np.empty(is_positive.size)
    for rows, _, num_reached in _reached(counts, logit):
        own = precision[num_reached - 1] - value + gained[num_reached]  # a positive reaches its own threshold
        influence[rows] = np.where(is_positive[rows], own, 0.0) - lost[num_reached]
    influence /= counts.num_positives_at.sum()
    return Estimate(value, influence)


def _auc(counts: RankingCounts, logit: FloatArray, is_positive: BoolArray) -> Estimate:
    """AUC with DeLong's placement values: the share of the other class that a row is ranked rightly against."""
    value = counts.auc()
    num_positives, num_negatives = int(counts.num_positives_at.sum()), counts.num_negatives
    won = (2 * num_negatives - counts.false_positives() - counts.false_positives_above()) / (2.0 * num_negatives)
    num_up_to = _from_zero(counts.num_positives_at.astype(np.float64))
    influence = np.empty(is_positive.size)
    for rows, chunk, num_reached in _reached(counts, logit):
        last = num_reached - 1
        is_tied = (num_reached > 0) & (counts.threshold[last] == chunk)
        lost = num_up_to[num_reached] - 0.5 * is_tied * counts.num_positives_at[last]
        of_negatives = (1.0 - lost / num_positives - value) / num_negatives
        influence[rows] = np.where(is_positive[rows], (won[last] - value) / num_positives, of_negatives)
    return Estimate(value, influence)


def _reached(counts: RankingCounts, logit: FloatArray) -> Iterator[tuple[slice, Float64Array, IntArray]]:
    """Chunks of rows and logits, with the number of thresholds at or below each; memory is bounded by the chunk."""
    for rows, chunk in row_chunks(logit):
        yield rows, chunk, np.searchsorted(counts.threshold, chunk, side="right")


def _from_zero(steps: Float64Array) -> Float64Array:
    return np.concatenate([[0.0], np.cumsum(steps)])


# Probabilities


def log_loss_estimate(logit: FloatArray, label: LabelArray) -> Estimate:
    """Return the mean loss over all rows, in nats.

    Raises:
        ValueError: see `qin.metrics.logits.positive_rows`.
    """
    is_positive = positive_rows(logit, label)
    return _mean(_row_losses(logit, is_positive))


def wll_estimate(logit: FloatArray, label: LabelArray, *, offset: float = 0.0) -> Estimate:
    """Return the mean of the two classes' mean losses from `logit + offset`.

    Raises:
        ValueError: see `qin.metrics.logits.positive_rows`.
    """
    is_positive = positive_rows(logit, label)
    losses = _row_losses(logit.astype(np.float64) + offset, is_positive)
    of_positives, of_negatives = _mean(losses[is_positive]), _mean(losses[~is_positive])
    influence = np.empty(label.size)
    influence[is_positive], influence[~is_positive] = 0.5 * of_positives.influence, 0.5 * of_negatives.influence
    return Estimate(0.5 * (of_positives.value + of_negatives.value), influence)


def calibration_ratio_estimate(logit: FloatArray, label: LabelArray) -> Estimate:
    """Return `sum p / sum y`, a quotient of two means.

    Raises:
        ValueError: see `qin.metrics.logits.positive_rows`.
    """
    is_positive = positive_rows(logit, label)
    probability = sigmoid(logit.astype(np.float64))
    num_positives = int(np.count_nonzero(is_positive))
    value = float(probability.sum()) / num_positives
    return Estimate(value, (probability - value * is_positive) / num_positives)


def probability_estimates(logit: FloatArray, label: LabelArray, *, base_rate: float) -> dict[str, Estimate]:
    """Return `log_loss`, `ne`, `wll`, `wll_balanced` and `calibration_ratio`, as `probability_metrics` does.

    Args:
        logit: ndarray of shape (n,), on the natural scale.
        label: ndarray of shape (n,) in {0, 1}.
        base_rate: click rate of the training rows, a constant here.

    Raises:
        ValueError: see `qin.metrics.logits.positive_rows`; or `base_rate` is not strictly between 0 and 1.
    """
    log_loss = log_loss_estimate(logit, label)
    return {
        "log_loss": log_loss,
        "ne": _normalised_entropy(log_loss, label == 1),
        "wll": wll_estimate(logit, label),
        "wll_balanced": wll_estimate(logit, label, offset=-prior_logit(base_rate)),
        "calibration_ratio": calibration_ratio_estimate(logit, label),
    }


def competition_estimate(*, ap: Estimate, wll: Estimate) -> Estimate:
    """Return `0.5 AP + 0.5 / (1 + WLL)`; both influences are over the same rows."""
    slope = -0.5 / (1.0 + wll.value) ** 2
    value = competition_score(ap=ap.value, wll=wll.value)
    return Estimate(value, 0.5 * ap.influence + slope * wll.influence)


def _row_losses(logit: FloatArray, is_positive: BoolArray) -> Float64Array:
    logit = logit.astype(np.float64)
    return np.logaddexp(0.0, np.where(is_positive, -logit, logit))


def _mean(values: Float64Array) -> Estimate:
    mean = float(np.mean(values))
    return Estimate(mean, (values - mean) / values.size)


def _normalised_entropy(log_loss: Estimate, is_positive: BoolArray) -> Estimate:
    """Return the loss over the entropy H of these rows' own click rate r, with `H'(r) = -logit(r)`."""
    rate = _mean(is_positive.astype(np.float64))
    slope = -prior_logit(rate.value)
    entropy = -rate.value * math.log(rate.value) - (1.0 - rate.value) * math.log1p(-rate.value)
    value = log_loss.value / entropy
    return Estimate(value, (log_loss.influence - value * slope * rate.influence) / entropy)
