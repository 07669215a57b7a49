"""The figures of metrics/evaluate.json, of each slice, and the rows of each plot."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from qin.evaluate.curves import Row, gains_curve, pr_curve, reliability_curve, roc_curve, score_histogram
from qin.evaluate.fold import JudgedFold
from qin.evaluate.slices import largest_segments, slice_calibration_rows, slice_figures
from qin.metrics.definitions import PROBABILITY, RANKING, WLL, WLL_BALANCED, Rows, competition_estimate, estimates
from qin.metrics.estimate import Estimate
from qin.metrics.gauc import grouped_auc
from qin.metrics.logits import BoolArray
from qin.metrics.probability import calibration_figures
from qin.metrics.ranking import ranking_counts
from qin.metrics.standard_errors import standard_error, values_with_errors
from qin.raw.segments import Segments


def evaluate(fold: JudgedFold, *, num_bins: int) -> dict[str, Any]:
    """Return the figures for `metrics/evaluate.json`; see `qin.metrics.standard_errors.values_with_errors`.

    Args:
        fold: The judged fold.
        num_bins: Bins of the calibration error.

    Returns:
        Row counts; `ap`, `auc` and GAUC (None without clusters) of the network's logits on all rows; under `after` what
        judges the calibrated logits on the judging half, their ranking included; under `score` the competition's, of
        the ranking of all rows and the WLL of the judging half.
    """
    judged, label = fold.is_judge, fold.scored.label
    everything = Rows(fold.scored.logit, label)
    half = Rows(fold.calibrated[judged], label[judged], base_rate=fold.report.judged_base_rate)
    ranking, probability = estimates(RANKING, everything), estimates((*RANKING, *PROBABILITY), half)
    scores = {
        name: competition_estimate(ap=ranking["ap"], wll=_among_all(probability[wll.name], judged))
        for name, wll in (("natural", WLL), ("balanced", WLL_BALANCED))
    }
    return {
        "rows": {"validation": int(label.size), "judged": int(np.count_nonzero(judged))},
        "base_rate": float(label.mean()),
        **values_with_errors(ranking, everything.is_positive, cluster=fold.cluster),
        **_gauc(fold),
        "score": values_with_errors(scores, everything.is_positive, cluster=fold.cluster),
        "after": {
            **values_with_errors(probability, half.is_positive, cluster=fold.cluster_of(judged)),
            **calibration_figures(half.logit, half.label, num_bins=num_bins),
        },
    }


def _among_all(estimate: Estimate, rows: BoolArray) -> Estimate:
    """The same sum over rows as one over all rows, of which the others do not count."""
    influence = np.zeros(rows.size)
    influence[rows] = estimate.influence
    return Estimate(estimate.value, influence)


def _gauc(fold: JudgedFold) -> dict[str, float | int | None]:
    """AUC within clusters, with the number of those that hold both classes and their share of the rows."""
    names = ("gauc", "gauc_se", "gauc_num_groups", "gauc_row_share")
    label, cluster = fold.scored.label, fold.cluster
    found = None if cluster is None else grouped_auc(fold.scored.logit, label, cluster)
    if found is None:
        return dict.fromkeys(names)
    error = standard_error(found.estimate.influence, label == 1, cluster=cluster)
    values = (found.estimate.value, error, found.num_groups, found.num_rows / label.size)
    return dict(zip(names, values, strict=True))


def evaluate_slices(
    fold: JudgedFold, segments_of: Mapping[str, Segments]
) -> tuple[dict[str, dict[str, dict[str, Any]]], list[Row]]:
    """Return figures by column and value for `artifacts/slices.json`, and the rows of the slices' calibration plot.

    Args:
        fold: The judged fold.
        segments_of: Each row's value of each column; the values with few rows are pooled.
    """
    figures, points = {}, []
    for column, segments in segments_of.items():
        pooled = largest_segments(segments)
        figures[column] = slice_figures(
            fold.scored.logit,
            fold.calibrated,
            fold.scored.label,
            is_judge=fold.is_judge,
            segments=pooled,
            cluster=fold.cluster,
        )
        logit, label = fold.calibrated[fold.is_judge], fold.scored.label[fold.is_judge]
        points += slice_calibration_rows(column, logit, label, segments=pooled.where(fold.is_judge))
    return figures, points


def curves(fold: JudgedFold, *, num_bins: int, num_points: int) -> dict[str, list[Row]]:
    """Return the rows of each plot by name.

    Args:
        fold: The judged fold.
        num_bins: Bins of the reliability plot.
        num_points: Points of a curve.
    """
    scored, is_judge = fold.scored, fold.is_judge
    counts = ranking_counts(scored.logit, scored.label)
    before, after, label = scored.logit[is_judge], fold.calibrated[is_judge], scored.label[is_judge]
    return {
        "pr": pr_curve(counts, num_points=num_points),
        "roc": roc_curve(counts, num_points=num_points),
        "gains": gains_curve(counts),
        "reliability": reliability_curve(before, after, label, num_bins=num_bins),
        "score_histogram": score_histogram(fold.report.deployed.apply(scored.logit, fold.segments), scored.label),
    }
