"""Exact ranking metrics from logits, in float64 and in bounded memory.

Rows are visited in chunks: besides its input, a metric holds one chunk and the positives. Standard errors belong beside
their metric in `ranking_metrics`.
"""

import numpy as np

from qin.metrics.logits import (
    FloatArray,
    IntArray,
    LabelArray,
    check_finite,
    positive_rows,
    row_chunks,
)


class RankingCounts:
    """Counts of negatives around each distinct positive logit, from which AP, AUC and both curves follow exactly.

    Only the positives are kept; the negatives may arrive in any number of chunks and in any order.

        counts = RankingCounts(logit[label == 1])
        for chunk in negative_chunks:
            counts.add_negatives(chunk)
        counts.average_precision(), counts.auc()

    Args:
        positive_logit: `(num_positives,)`, at least one, finite.
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
            ValueError: A logit is not finite.
        """
        check_finite(negative_logit)
        for _, chunk in row_chunks(negative_logit):
            # sorting the chunk makes the searches sequential: ten times faster than searching the positives
            chunk.sort()
            self._num_below += np.searchsorted(chunk, self.threshold, side="left")
            self._num_up_to += np.searchsorted(chunk, self.threshold, side="right")
        self.num_negatives += negative_logit.size

    def true_positives(self) -> IntArray:
        """The positives at or above each threshold, ascending in threshold."""
        return np.cumsum(self.num_positives_at[::-1], dtype=np.int64)[::-1]

    def false_positives(self) -> IntArray:
        """The negatives at or above each threshold."""
        return self.num_negatives - self._num_below

    def false_positives_above(self) -> IntArray:
        """The negatives strictly above each threshold."""
        return self.num_negatives - self._num_up_to

    def average_precision(self) -> float:
        """Return `sum_k (R_k - R_{k-1}) P_k` over the distinct thresholds, ties handled as one step.

        Raises:
            ValueError: No negatives were added.
        """
        self._check_both_classes()
        true_positives = self.true_positives()
        precision = true_positives / (true_positives + self.false_positives())
        return float(np.dot(self.num_positives_at, precision) / true_positives[0])

    def auc(self) -> float:
        """The share of (positive, negative) pairs in the right order, a tie counting one half.

        Raises:
            ValueError: No negatives were added.
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
    """The counts of rows that are already in memory.

    Raises:
        ValueError: See `qin.metrics.logits.positive_rows`.
    """
    is_positive = positive_rows(logit, label)
    counts = RankingCounts(logit[is_positive])
    for rows, chunk in row_chunks(logit):
        counts.add_negatives(chunk[~is_positive[rows]])
    return counts
