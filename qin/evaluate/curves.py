"""Points of the diagnostic plots, each a list of flat rows to write as CSV.

Sizes are bounded whatever the number of rows, and the abscissas are stable: equal fractions of recall, numbered bins,
one fixed grid of probabilities. So two revisions' files differ line by line, and their plots overlay.
"""

import numpy as np

from qin.evaluate.bands import Vertices, gain_effective_rows, precision_effective_rows, roc_effective_rows
from qin.metrics.intervals import wilson_interval
from qin.metrics.logits import Float64Array, FloatArray, IntArray, LabelArray, positive_rows, row_chunks, sigmoid
from qin.metrics.probability import reliability_bins
from qin.metrics.ranking import RankingCounts

Row = dict[str, str | int | float]

# Finer below one in a hundred: a list that is shown is short, so the top is what a ranking is used for.
_SHARES = np.array([0.001, 0.002, 0.003, 0.005, 0.007, *np.arange(1, 101) / 100.0])
_BINS_PER_DECADE = 20
_NUM_DECADES = 6  # the histogram spans 1e-6 to 1; what lies below counts in its first bin


def pr_curve(counts: RankingCounts, *, num_points: int = 400) -> list[Row]:
    """Points of the exact precision-recall curve, evenly spaced in recall, both ends included.

    Args:
        counts: See `qin.metrics.ranking.ranking_counts`.
        num_points: Points to keep at most, at least two.

    Returns:
        Rows `recall`, `precision`, `lower` and `upper` (95% interval of the precision at this recall, see
        `qin.evaluate.bands`), `base_rate` (the precision of a random ranking, the same in every row) and `threshold`,
        the logit at or above which a row counts as predicted positive. Recall ascends to 1.

    Raises:
        ValueError: `num_points` is less than two.
    """
    vertices = roc_vertices(counts)
    on = slice(2, None, 2)  # each threshold's own corner; the one before it is just above the threshold
    true_positives, false_positives = vertices.true_positives[on], vertices.false_positives[on]
    precision = true_positives / (true_positives + false_positives)
    recall = true_positives / vertices.num_positives
    effective_rows = precision_effective_rows(vertices)[on]
    base_rate = vertices.num_positives / (vertices.num_positives + vertices.num_negatives)
    threshold = counts.threshold[::-1]
    return [
        {
            "recall": float(recall[point]),
            "precision": float(precision[point]),
            **_interval(precision[point], effective_rows[point]),
            "base_rate": base_rate,
            "threshold": float(threshold[point]),
        }
        for point in _evenly_spaced(recall, num_points)
    ]


def roc_curve(counts: RankingCounts, *, num_points: int = 400) -> list[Row]:
    """Points of the exact ROC curve, evenly spaced along it, both ends included.

    Args:
        counts: See `qin.metrics.ranking.ranking_counts`.
        num_points: Points to keep at most, at least two.

    Returns:
        Rows `fpr` and `tpr`, both ascending from 0 to 1, and `lower` and `upper` (95% interval of the true positive
        rate at this false positive rate, see `qin.evaluate.bands`).

    Raises:
        ValueError: `num_points` is less than two.
    """
    vertices = roc_vertices(counts)
    fpr = vertices.false_positives / vertices.num_negatives
    tpr = vertices.true_positives / vertices.num_positives
    effective_rows = roc_effective_rows(vertices)
    return [
        {"fpr": float(fpr[point]), "tpr": float(tpr[point]), **_interval(tpr[point], effective_rows[point])}
        for point in _evenly_spaced(0.5 * (fpr + tpr), num_points)
    ]


def gains_curve(counts: RankingCounts) -> list[Row]:
    """Which share of all clicks lies among the best-scored rows, on a fixed grid of shares of rows.

    Rows with equal scores are taken in random order: the curve is straight across a tie.

    Args:
        counts: See `qin.metrics.ranking.ranking_counts`.

    Returns:
        Rows `share` (of all rows, best first), `gain` (their share of the clicks), `lower` and `upper` (95% interval of
        the gain, see `qin.evaluate.bands`), `lift` (`gain / share`: their click rate over that of all rows) and
        `perfect`, the gain of a ranking with every click first.
    """
    vertices = roc_vertices(counts)
    num_rows = vertices.num_positives + vertices.num_negatives
    base_rate = vertices.num_positives / num_rows
    # the few shares beyond the data's resolution are read off the straight line to the first corner
    rows_above = vertices.true_positives + vertices.false_positives
    wanted = _SHARES * num_rows
    gain = np.interp(wanted, rows_above, vertices.true_positives) / vertices.num_positives
    slope = np.interp(wanted, rows_above, vertices.slope())
    effective_rows = gain_effective_rows(_SHARES, gain, slope=slope, base_rate=base_rate, num_rows=num_rows)
    return [
        {
            "share": float(share),
            "gain": float(gain[point]),
            **_interval(gain[point], effective_rows[point]),
            "lift": float(gain[point] / share),
            "perfect": min(float(share) / base_rate, 1.0),
        }
        for point, share in enumerate(_SHARES)
    ]


def roc_vertices(counts: RankingCounts) -> Vertices:
    """The corners of the ROC polyline: its origin, two for each threshold from the highest down, its end.

    The two are the step from just above a threshold to just on it: flat up to it, then up, aslant on a tie.
    """
    true_positives, false_positives = counts.true_positives()[::-1], counts.false_positives()[::-1]
    above = counts.false_positives_above()[::-1], true_positives - counts.num_positives_at[::-1]
    steps = np.stack([np.stack(above), np.stack([false_positives, true_positives])], axis=2).reshape(2, -1)
    return Vertices(
        true_positives=np.concatenate([[0], steps[1], true_positives[-1:]]),
        false_positives=np.concatenate([[0], steps[0], [counts.num_negatives]]),
    )


def _interval(rate: float, effective_rows: float) -> dict[str, float]:
    lower, upper = wilson_interval(float(rate * effective_rows), num_rows=float(effective_rows))
    return {"lower": lower, "upper": upper}


def _evenly_spaced(position: Float64Array, num_points: int) -> IntArray:
    """Indices of at most `num_points` entries of an ascending array: both ends, evenly spread between."""
    if num_points < 2:
        raise ValueError(f"num_points must be at least 2: {num_points=}")
    if position.size <= num_points:
        return np.arange(position.size)
    targets = np.linspace(position[0], position[-1], num_points)
    points = np.searchsorted(position, targets)
    points[0], points[-1] = 0, position.size - 1
    return np.unique(points)


def reliability_curve(before: FloatArray, after: FloatArray, label: LabelArray, *, num_bins: int = 20) -> list[Row]:
    """Observed against predicted rates in equal-mass bins, before and after calibration.

    Args:
        before: `(n,)`, logits before calibration.
        after: `(n,)`, the same rows' logits after it.
        label: `(n,)` in {0, 1}.
        num_bins: Bins per series; ties may leave fewer.

    Returns:
        Rows `series` (`before` or `after`), `bin` (from 1), `probability` (mean prediction), `observed` (share of
        clicks), `lower` and `upper` (Wilson 95% interval of `observed`), `num_rows`.

    Raises:
        ValueError: See `qin.metrics.logits.positive_rows`; or `num_bins` is not positive.

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    rows: list[Row] = []
    for series, logit in (("before", before), ("after", after)):
        bins = reliability_bins(logit, label, num_bins=num_bins)
        sums = zip(bins.num_rows.tolist(), bins.num_positives.tolist(), bins.probability_sum.tolist(), strict=True)
        for number, (num_rows, num_positives, probability_sum) in enumerate(sums, start=1):
            lower, upper = wilson_interval(num_positives, num_rows=num_rows)
            rows.append(
                {
                    "series": series,
                    "bin": number,
                    "probability": probability_sum / num_rows,
                    "observed": num_positives / num_rows,
                    "lower": lower,
                    "upper": upper,
                    "num_rows": num_rows,
                }
            )
    return rows


def score_histogram(logit: FloatArray, label: LabelArray) -> list[Row]:
    """Each class's histogram of `sigmoid(logit)` over bins of equal width in its logarithm.

    The grid is the same for all data, 20 bins per decade from 1e-6 to 1, cut to the range that holds rows and one
    bin more on either side, so that a drawn outline closes. Each class's `density` is per decade and integrates to
    1, so that a rare class is as visible as a common one.

    Args:
        logit: `(n,)`.
        label: `(n,)` in {0, 1}.

    Returns:
        Rows `label` (0 or 1), `probability` (the bin's geometric centre), `density` and `num_rows`; at most 240.

    Raises:
        ValueError: See `qin.metrics.logits.positive_rows`.
    """
    is_positive = positive_rows(logit, label)
    num_bins = _BINS_PER_DECADE * _NUM_DECADES
    num_rows = np.zeros((2, num_bins), dtype=np.int64)
    for rows, chunk in row_chunks(logit):
        position = (np.log10(np.maximum(sigmoid(chunk), 1e-300)) + _NUM_DECADES) * _BINS_PER_DECADE
        bin_index = np.clip(np.floor(position), 0, num_bins - 1).astype(np.int64)
        for clicked in (0, 1):
            num_rows[clicked] += np.bincount(bin_index[is_positive[rows] == clicked], minlength=num_bins)
    density = num_rows * _BINS_PER_DECADE / num_rows.sum(axis=1, keepdims=True)
    used = np.flatnonzero(num_rows.any(axis=0))
    return [
        {
            "label": clicked,
            "probability": float(10.0 ** ((number + 0.5) / _BINS_PER_DECADE - _NUM_DECADES)),
            "density": float(density[clicked, number]),
            "num_rows": int(num_rows[clicked, number]),
        }
        for clicked in (0, 1)
        for number in range(max(int(used[0]) - 1, 0), min(int(used[-1]) + 2, num_bins))
    ]
