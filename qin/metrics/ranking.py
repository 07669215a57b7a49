"""Exact ranking and probability metrics from logits, in float64 and in bounded memory.

Every function reads logits, never probabilities, so that no clipping constant enters a result. Rows are
visited in chunks: besides its input, a metric holds one chunk and, for ranking, the positives. Standard errors
belong beside their metric in `ranking_metrics` and `probability_metrics`.
"""

import math

import numpy as np

from qin.metrics.logistic import has_overlap
from qin.metrics.logits import FloatArray, IntArray, LabelArray, check_finite, positive_rows, prior_logit, row_chunks
from qin.metrics.probability import calibration_error, cox_calibration, reliability_bins


class RankingCounts:
    """Counts of negatives around each distinct positive logit, from which AP, AUC and both curves follow exactly.

    Only the positives are kept; the negatives may arrive in any number of chunks and in any order.

        counts = RankingCounts(logit[label == 1])
        for chunk in negative_chunks:
            counts.add_negatives(chunk)
        counts.average_precision(), counts.auc()

    Args:
        positive_logit: ndarray of shape (num_positives,), at least one, finite.
    """

    def __init__(self, positive_logit: FloatArray) -> None:
        if positive_logit.size == 0:
            raise ValueError("both classes must be present: no positive logit")
        check_finite(positive_logit)
        self.threshold, self.num_positives_at = np.unique(
            positive_logit.astype(np.float64), return_counts=True
        )  # ascending, each of shape (num_thresholds,)
        self.num_negatives = 0
        self._num_below: IntArray = np.zeros(self.threshold.size, dtype=np.int64)
        self._num_up_to: IntArray = np.zeros(self.threshold.size, dtype=np.int64)

    def add_negatives(self, negative_logit: FloatArray) -> None:
        """Count one array of negatives, of any length.

        Raises:
            ValueError: a logit is not finite.
        """
        check_finite(negative_logit)
        for _, chunk in row_chunks(negative_logit):
            # sorting the chunk makes the searches sequential: ten times faster than searching the positives
            chunk.sort()
            self._num_below += np.searchsorted(chunk, self.threshold, side="left")
            self._num_up_to += np.searchsorted(chunk, self.threshold, side="right")
        self.num_negatives += negative_logit.size

    def true_positives(self) -> IntArray:
        """Return the positives at or above each threshold, ascending in threshold."""
        return np.cumsum(self.num_positives_at[::-1], dtype=np.int64)[::-1]

    def false_positives(self) -> IntArray:
        """Return the negatives at or above each threshold."""
        return self.num_negatives - self._num_below

    def false_positives_above(self) -> IntArray:
        """Return the negatives strictly above each threshold."""
        return self.num_negatives - self._num_up_to

    def average_precision(self) -> float:
        """Return `sum_k (R_k - R_{k-1}) P_k` over the distinct thresholds, ties handled as one step.

        Raises:
            ValueError: no negatives were added.
        """
        self._check_both_classes()
        true_positives = self.true_positives()
        precision = true_positives / (true_positives + self.false_positives())
        return float(np.dot(self.num_positives_at, precision) / true_positives[0])

    def auc(self) -> float:
        """Return the share of (positive, negative) pairs in the right order, a tie counting one half.

        Raises:
            ValueError: no negatives were added.
        """
        self._check_both_classes()
        # pairs can pass 2^53, where float64 stops being exact, but each row's count cannot
        twice_won = (self._num_below + self._num_up_to).astype(np.float64)
        mean_won = np.dot(self.num_positives_at, twice_won / 2.0) / self.num_positives_at.sum()
        return float(mean_won / self.num_negatives)

    def _check_both_classes(self) -> None:
        if self.num_negatives == 0:
            raise ValueError("both classes must be present: no negative logit")


def ranking_counts(logit: FloatArray, label: LabelArray) -> RankingCounts:
    """Return the counts of rows that are already in memory.

    Raises:
        ValueError: see `qin.metrics.logits.positive_rows`.
    """
    is_positive = positive_rows(logit, label)
    counts = RankingCounts(logit[is_positive])
    for rows, chunk in row_chunks(logit):
        counts.add_negatives(chunk[~is_positive[rows]])
    return counts


def log_losses(logit: FloatArray, label: LabelArray, *, offset: float = 0.0) -> tuple[float, float]:
    """Return the mean loss of the positives and of the negatives, each from `logit + offset`.

    Returns:
        `mean(-log p | y=1)` and `mean(-log(1-p) | y=0)`, in nats.

    Raises:
        ValueError: see `qin.metrics.logits.positive_rows`.
    """
    is_positive = positive_rows(logit, label)
    positive_loss = negative_loss = 0.0
    for rows, chunk in row_chunks(logit):
        shifted = chunk + offset
        positive_loss += float(np.logaddexp(0.0, -shifted[is_positive[rows]]).sum())
        negative_loss += float(np.logaddexp(0.0, shifted[~is_positive[rows]]).sum())
    num_positives = int(np.count_nonzero(is_positive))
    return positive_loss / num_positives, negative_loss / (label.size - num_positives)


def competition_score(*, ap: float, wll: float) -> float:
    """Return `0.5 AP + 0.5 / (1 + WLL)`, higher is better.

    Source: Toss NEXT ML challenge (2025), evaluation rule.
    """
    return 0.5 * ap + 0.5 / (1.0 + wll)


def ranking_metrics(logit: FloatArray, label: LabelArray) -> dict[str, float]:
    """Return `ap` and `auc`.

    Raises:
        ValueError: see `qin.metrics.logits.positive_rows`.
    """
    counts = ranking_counts(logit, label)
    return {"ap": counts.average_precision(), "auc": counts.auc()}


def probability_metrics(
    logit: FloatArray, label: LabelArray, *, base_rate: float, num_bins: int = 20
) -> dict[str, float | None]:
    """Return what judges the probabilities `sigmoid(logit)`.

    Args:
        logit: ndarray of shape (n,), on the natural scale.
        label: ndarray of shape (n,) in {0, 1}.
        base_rate: click rate of the training rows, which `wll_balanced` takes out of the logit.
        num_bins: bins of the calibration error.

    Returns:
        `log_loss`; `ne`, log loss over that of these rows' own click rate; `wll`, the mean of the two classes' mean
        losses; `wll_balanced`, the same for `logit - logit(base_rate)`; `calibration_ratio`, `sum p / sum y`;
        `cox_intercept` and `cox_slope`, both None where no finite estimate exists; `calibration_error` and
        `calibration_error_null`.

    Raises:
        ValueError: see `qin.metrics.logits.positive_rows`; or `base_rate` is not strictly between 0 and 1.

    Source: He et al. (2014), Practical lessons from predicting clicks on ads at Facebook, section 2 (NE).
    """
    is_positive = positive_rows(logit, label)
    rate = float(np.mean(is_positive))
    entropy = -rate * math.log(rate) - (1.0 - rate) * math.log1p(-rate)
    positive_loss, negative_loss = log_losses(logit, label)
    log_loss = rate * positive_loss + (1.0 - rate) * negative_loss
    cox = cox_calibration(logit, label) if has_overlap(logit, is_positive) else (None, None)
    bins = reliability_bins(logit, label, num_bins=num_bins)
    error, error_null = calibration_error(bins)
    return {
        "log_loss": log_loss,
        "ne": log_loss / entropy,
        "wll": 0.5 * positive_loss + 0.5 * negative_loss,
        "wll_balanced": 0.5 * sum(log_losses(logit, label, offset=-prior_logit(base_rate))),
        "calibration_ratio": float(bins.probability_sum.sum() / bins.num_positives.sum()),
        "cox_intercept": cox[0],
        "cox_slope": cox[1],
        "calibration_error": error,
        "calibration_error_null": error_null,
    }
