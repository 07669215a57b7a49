"""Standard errors from one mechanism: each row's influence on a metric, summed within clusters.

To first order an estimate is the truth plus a sum of contributions, one per row: its influence divided by the number
of rows. The sum of their squares is the variance, of their sums within clusters where the rows of a cluster depend on
each other, and two models' contributions on the same rows, subtracted, give the variance of their paired difference.

Everything costs O(n log n) time and a few float64 values per row.

Source: Hampel (1974), The influence curve and its role in robust estimation; van der Vaart (1998), Asymptotic
Statistics, chapter 20 (the functional delta method).
"""

import math
from collections.abc import Mapping

import numpy as np

from qin.metrics.estimate import Estimate
from qin.metrics.logits import BoolArray, Float64Array, IntArray
from qin.metrics.resampling import (
    INTERVAL_RESAMPLES,
    MANY_CLICKS,
    NUM_RESAMPLES,
    Interval,
    normal_interval,
    resampled_interval,
)


def values_with_errors(
    estimates: Mapping[str, Estimate], is_positive: BoolArray, *, cluster: IntArray | None = None
) -> dict[str, float | None]:
    """Return `name` and `name_se` of each estimate, in their order, and the interval of an average precision.

    The interval's ends are `name_lower` and `name_upper`; what is an average precision or a score that holds one has
    them because `value +- 1.96 name_se` is not it where clicks are few.
    """
    figures: dict[str, float | None] = {}
    for name, estimate in estimates.items():
        error = standard_error(estimate.influence, is_positive, cluster=cluster)
        figures |= {name: estimate.value, f"{name}_se": error}
        if estimate.ranked:
            found = confidence(
                estimate, is_positive, cluster=cluster, standard_error=error, num_resamples=INTERVAL_RESAMPLES
            )
            # Neither an average precision nor a score is beyond 0 and 1, where quantiles of very few clicks may lie.
            ends = (None, None) if found is None else (max(found.lower, 0.0), min(found.upper, 1.0))
            figures |= {f"{name}_lower": ends[0], f"{name}_upper": ends[1]}
    return figures


def confidence(
    estimate: Estimate,
    is_positive: BoolArray,
    *,
    standard_error: float | None,
    cluster: IntArray | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval | None:
    """The 95% interval and p-value of an estimate: normal, or resampled where an AP rests on few clicks.

    Args:
        estimate: A figure, or the difference of two.
        is_positive: `(n,)`, bool.
        standard_error: Of the estimate; see `standard_error`.
        cluster: See `standard_error`.
        num_resamples: See `qin.metrics.resampling.resampled_interval`.

    Returns:
        None without a standard error.
    """
    if standard_error is None:
        return None
    if not estimate.ranked or _num_holders(is_positive, cluster) >= MANY_CLICKS:
        return normal_interval(estimate.value, standard_error)
    return resampled_interval(
        estimate.value,
        estimate.influence,
        ranked=estimate.ranked,
        is_positive=is_positive,
        cluster=cluster,
        num_resamples=num_resamples,
    )


def _num_holders(is_positive: BoolArray, cluster: IntArray | None) -> int:
    """Independent units that hold a click."""
    return int(np.count_nonzero(is_positive)) if cluster is None else np.unique(cluster[is_positive]).size


def standard_error(influence: Float64Array, is_positive: BoolArray, *, cluster: IntArray | None = None) -> float | None:
    """The standard error of an estimate, or of a difference of estimates on the same rows.

    With `a_g` and `b_g` the sums over the positives and over the negatives of cluster g, and `I1`, `I0` and `I` the
    number of clusters that hold a positive, a negative, any row, the variance is

        I1 / (I1 - 1) sum_g a_g^2 + I0 / (I0 - 1) sum_g b_g^2 + 2 I / (I - 1) sum_g a_g b_g.

    The factors belong to each class because positives are few: without clusters and for AUC this is DeLong's variance
    exactly, with clusters Obuchowski's; for a plain mean it is the usual `s^2 / n` up to the factors.

    Args:
        influence: `(n,)`; see `Estimate`.
        is_positive: `(n,)`, bool.
        cluster: `(n,)`, codes from 0 of what is drawn independently, such as users; None for rows.

    Returns:
        The standard error, or None where a class lies in a single cluster and has no variance to be seen.

    Raises:
        ValueError: The shapes differ, or a code is negative.

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
    """The sum of the influences and the number of the given rows, per cluster."""
    codes, num_clusters = cluster[rows], int(cluster.max()) + 1
    sums = np.bincount(codes, weights=influence[rows], minlength=num_clusters)
    return sums.astype(np.float64, copy=False), np.bincount(codes, minlength=num_clusters)
