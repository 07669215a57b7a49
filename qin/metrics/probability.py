"""How good probabilities are: losses, Cox regression, equal-mass bins and their debiased error.

Every function reads logits, never probabilities, so that no clipping constant enters a result.
"""

import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from qin.metrics.logistic import fit_logistic, has_overlap
from qin.metrics.logits import (
    Float64Array,
    FloatArray,
    IntArray,
    LabelArray,
    positive_rows,
    row_chunks,
    sigmoid,
)

_NORMAL_95 = 1.6448536269514722  # 95% quantile of the standard normal


def cox_calibration(logit: FloatArray, label: LabelArray) -> tuple[float, float]:
    """Regress the label on the logit: `logit P(y=1) = intercept + slope * logit`; (0, 1) is calibrated.

    Returns:
        intercept and slope.

    Raises:
        ValueError: See `qin.metrics.logits.positive_rows`; or the logits are constant or separate the classes, so
            that the likelihood has no finite maximum.

    Source: Cox (1958), Two further applications of a model for binary regression.
    """
    is_positive = positive_rows(logit, label)
    if not has_overlap(logit, is_positive):
        raise ValueError(
            "the classes must overlap in logit for a finite Cox slope: "
            "one class lies wholly at or above the other, or every logit is equal"
        )
    slope, intercept = fit_logistic(logit, is_positive).coefficient
    return float(intercept), float(slope)


@dataclass(frozen=True)
class ReliabilityBins:
    """Sums over bins of equal mass in logit; every array has shape (num_bins,), ascending in logit.

    Attributes:
        num_rows: Rows in each bin, at least one.
        num_positives: Positives in each bin.
        probability_sum: Sum of the predicted probabilities.
        variance_sum: Sum of `probability (1 - probability)`, the variance of the positives under calibration.
        residual_square_sum: Sum of `(label - probability)^2`.
    """

    num_rows: IntArray
    num_positives: IntArray
    probability_sum: Float64Array
    variance_sum: Float64Array
    residual_square_sum: Float64Array


def reliability_bins(logit: FloatArray, label: LabelArray, *, num_bins: int = 20) -> ReliabilityBins:
    """Group rows into at most `num_bins` bins of equal mass, equal logits always sharing a bin.

    Ties may empty a bin; empty bins are left out. Row order has no influence.

    Raises:
        ValueError: See `qin.metrics.logits.positive_rows`; or `num_bins` is not positive.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1: {num_bins=}")
    is_positive = positive_rows(logit, label)
    # Edges by a partition, which is linear; a sort of all rows would be most of the time.
    edge_rows = np.unique(np.arange(1, num_bins) * logit.size // num_bins)
    edges = np.unique(np.partition(logit, edge_rows)[edge_rows].astype(np.float64))
    sums = np.zeros((5, num_bins))
    for rows, chunk in row_chunks(logit):
        bin_index = np.searchsorted(edges, chunk, side="right")  # right: an edge's own ties all go above it
        probability = sigmoid(chunk)
        squared_residual = (is_positive[rows] - probability) ** 2
        columns = (None, is_positive[rows], probability, probability * (1.0 - probability), squared_residual)
        sums += [np.bincount(bin_index, weights=column, minlength=num_bins) for column in columns]
    sums = sums[:, sums[0] > 0]
    return ReliabilityBins(sums[0].astype(np.int64), sums[1].astype(np.int64), *sums[2:])


def calibration_error(bins: ReliabilityBins) -> tuple[float, float]:
    """The debiased root mean square calibration error, and its level under perfect calibration.

    Each bin's squared gap between mean label and mean probability is reduced by the sampling variance of that gap,
    `s^2 / n` with `s^2` the sample variance of `label - probability`. Where a bin holds one distinct probability
    this is the published `rate (1 - rate) / (n - 1)`. A negative total is reported as 0. A bin of one row has no
    sample variance and adds nothing.

    The second figure is the level that a perfectly calibrated model exceeds in 5% of samples: under calibration the
    total is a weighted sum of chi-square variables, taken as one scaled chi-square with the same mean and variance.

    Returns:
        error and null level, both on the probability scale.

    Source: Kumar, Liang and Ma (2019), Verified uncertainty calibration, section 5; Satterthwaite (1946) and Wilson
    and Hilferty (1931) for the quantile.
    """
    weight = bins.num_rows / bins.num_rows.sum()
    gap = (bins.num_positives - bins.probability_sum) / bins.num_rows
    with_variance = bins.num_rows > 1
    degrees = np.maximum(bins.num_rows - 1, 1)
    # a rounding error must not make the variance of equal residuals negative
    spread = np.maximum(bins.residual_square_sum - bins.num_rows * gap**2, 0.0)
    variance = spread / degrees / bins.num_rows
    squared_error = float(np.dot(weight, np.where(with_variance, gap**2 - variance, 0.0)))
    null_terms = np.where(with_variance, weight * bins.variance_sum / bins.num_rows**2, 0.0)
    return math.sqrt(max(squared_error, 0.0)), math.sqrt(_null_excess(null_terms))


def _null_excess(terms: Float64Array) -> float:
    """95% quantile of `sum_b terms[b] * (chi2_1 - 1)`."""
    largest = float(terms.max(initial=0.0))
    if largest == 0.0:
        return 0.0
    # Of the largest term's size: where every probability is within 1e-160 of 0 or 1, squares of the terms vanish.
    relative = terms / largest
    total, degrees = float(terms.sum()), float(relative.sum() ** 2 / np.dot(relative, relative))
    cube_root = 1.0 - 2.0 / (9.0 * degrees) + _NORMAL_95 * math.sqrt(2.0 / (9.0 * degrees))
    return max(total * (cube_root**3 - 1.0), 0.0)


def calibration_figures(logit: FloatArray, label: LabelArray, *, num_bins: int = 20) -> dict[str, float | None]:
    """How far the probabilities `sigmoid(logit)` are from observed rates.

    Args:
        logit: `(n,)`, on the natural scale.
        label: `(n,)` in {0, 1}.
        num_bins: Bins of the calibration error.

    Returns:
        `cox_intercept` and `cox_slope`, both None where no finite estimate exists; `calibration_error` and
        `calibration_error_null`.

    Raises:
        ValueError: See `qin.metrics.logits.positive_rows`.
    """
    cox: tuple[float | None, float | None] = None, None
    if has_overlap(logit, positive_rows(logit, label)):
        with suppress(ValueError):  # all but separated, or too close together: no finite estimate in float64
            cox = cox_calibration(logit, label)
    error, error_null = calibration_error(reliability_bins(logit, label, num_bins=num_bins))
    return {
        "cox_intercept": cox[0],
        "cox_slope": cox[1],
        "calibration_error": error,
        "calibration_error_null": error_null,
    }
