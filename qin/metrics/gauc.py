"""AUC within groups, such as users: how well a model ranks what one user saw, whatever separates users."""

from dataclasses import dataclass

import numpy as np

from qin.metrics.estimate import Estimate
from qin.metrics.logits import BoolArray, Float64Array, FloatArray, IntArray, LabelArray, positive_rows


@dataclass(frozen=True)
class GroupedAuc:
    """Per-group AUC, averaged over groups.

    Attributes:
        estimate: The average; its influence holds only when summed over whole groups, so the groups (or what contains
            them) must be the clusters of its standard error.
        num_groups: Groups with both classes, the only ones that have an AUC.
        num_rows: Rows in those groups.
    """

    estimate: Estimate
    num_groups: int
    num_rows: int


def grouped_auc(logit: FloatArray, label: LabelArray, group: IntArray) -> GroupedAuc | None:
    """Return `sum_g n_g AUC_g / sum_g n_g` over the groups with both classes, `n_g` the rows of group g.

    One sort by group and logit, no loop over groups; ties count one half.

    Args:
        logit: `(n,)`.
        label: `(n,)` in {0, 1}.
        group: `(n,)`, codes from 0.

    Returns:
        None where no group holds both classes.

    Raises:
        ValueError: See `qin.metrics.logits.positive_rows`; or a shape differs.

    Source: Zhu et al. (2017), Optimized cost per click in Taobao display advertising (GAUC); weighted by impressions as
    in Zhou et al. (2018), Deep interest network for click-through rate prediction. The influence is that of a ratio of
    sums over independent groups.
    """
    is_positive = positive_rows(logit, label)
    if group.shape != label.shape:
        raise ValueError(f"group must have one code per row: {group.shape=}, {label.shape=}")
    num_rows = np.bincount(group)
    num_positives = np.bincount(group[is_positive], minlength=num_rows.size)
    num_pairs = num_positives * (num_rows - num_positives)
    is_mixed = num_pairs > 0
    if not is_mixed.any():
        return None
    wins = _half_wins(logit, is_positive, group, num_groups=num_rows.size)
    auc = np.divide(wins, 2.0 * num_pairs, out=np.zeros(num_rows.size), where=is_mixed)
    weight = np.where(is_mixed, num_rows, 0)
    value = float(np.dot(weight, auc) / weight.sum())
    per_row = np.where(is_mixed, auc - value, 0.0) / weight.sum()
    return GroupedAuc(Estimate(value, per_row[group]), int(np.count_nonzero(is_mixed)), int(weight.sum()))


def _half_wins(logit: FloatArray, is_positive: BoolArray, group: IntArray, *, num_groups: int) -> Float64Array:
    """Return, per group, the sum over its positives of twice the negatives below them plus the negatives tied."""
    order = np.lexsort((logit, group))
    group, logit, is_positive = group[order], logit[order], is_positive[order]
    is_first = np.append(True, (np.diff(group) != 0) | (np.diff(logit) != 0))  # of a run of ties
    start = np.flatnonzero(is_first)
    negatives = np.concatenate([[0], np.cumsum(~is_positive)])  # before each row, and in all
    stop = np.append(start[1:], group.size)
    before_group = negatives[np.searchsorted(group, group[start])]
    wins = negatives[start] + negatives[stop] - 2 * before_group  # per run, for each of its positives
    num_positives = np.add.reduceat(is_positive, start, dtype=np.int64)
    sums = np.bincount(group[start], weights=wins * num_positives, minlength=num_groups)
    return sums.astype(np.float64, copy=False)
