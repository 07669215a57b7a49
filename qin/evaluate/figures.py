"""The figures of metrics/evaluate.json, of each slice, and the rows of each plot."""

from collections.abc import Callable, Mapping
from typing import Any

from qin.evaluate.curves import Row, gains_curve, pr_curve, reliability_curve, roc_curve, score_histogram
from qin.evaluate.fold import Reported
from qin.evaluate.slices import largest_segments, slice_calibration_rows, slice_figures
from qin.metrics.definitions import METRICS, WLL, WLL_BALANCED, Rows, competition_estimate, estimates, ranking_metrics
from qin.metrics.gauc import grouped_auc
from qin.metrics.probability import calibration_figures
from qin.metrics.ranking import ranking_counts
from qin.metrics.standard_errors import standard_error, values_with_errors
from qin.raw.segments import Segments
from qin.runtime.progress import followed


def evaluate(half: Reported, *, num_bins: int) -> dict[str, Any]:
    """The figures for `metrics/evaluate.json`; see `qin.metrics.standard_errors.values_with_errors`.

    Args:
        half: The report half.
        num_bins: Bins of the calibration error.

    Returns:
        Row counts; `ap`, `auc` and GAUC (None without clusters) of the blended logits; under `after` those of the
        calibrated logits, their ranking included, which differs where a calibrator shifts by segment; under `score` the
        competition's. All of the report half.
    """
    label = half.scored.label
    before = Rows(half.scored.logit, label)
    after = Rows(half.calibrated, label, base_rate=half.base_rate)
    ranking, probability = estimates(ranking_metrics(), before), estimates(METRICS.values(), after)
    scores = {
        name: competition_estimate(ap=ranking["ap"], wll=probability[wll.name])
        for name, wll in (("natural", WLL), ("balanced", WLL_BALANCED))
    }
    return {
        "rows": {"validation": half.is_reported.size, "reported": label.size},
        "base_rate": float(label.mean()),
        **values_with_errors(ranking, before.is_positive, cluster=half.cluster),
        **_gauc(half),
        "score": values_with_errors(scores, before.is_positive, cluster=half.cluster),
        "after": {
            **values_with_errors(probability, after.is_positive, cluster=half.cluster),
            **calibration_figures(after.logit, after.label, num_bins=num_bins),
        },
    }


def fold_figures(half: Reported, *, num_bins: int) -> dict[str, Any]:
    """What `metrics/evaluate.json` holds of each of several folds; arguments as of `evaluate`."""
    figures = evaluate(half, num_bins=num_bins)
    named = {name: figures[name] for name in ("rows", "base_rate", "ap", "ap_se", "auc", "auc_se")}
    return {**named, **{name: figures["after"][name] for name in ("log_loss", "log_loss_se", "ne", "ne_se")}}


def _gauc(half: Reported) -> dict[str, float | int | None]:
    """AUC within clusters, with the number of those that hold both classes and their share of the rows."""
    names = ("gauc", "gauc_se", "gauc_num_groups", "gauc_row_share")
    label, cluster = half.scored.label, half.cluster
    found = None if cluster is None else grouped_auc(half.scored.logit, label, cluster)
    if found is None:
        return dict.fromkeys(names)
    error = standard_error(found.estimate.influence, label == 1, cluster=cluster)
    values = (found.estimate.value, error, found.num_groups, found.num_rows / label.size)
    return dict(zip(names, values, strict=True))


def evaluate_slices(
    half: Reported, segments_of: Mapping[str, Segments]
) -> tuple[dict[str, dict[str, dict[str, Any]]], list[Row]]:
    """Figures by column and value for `artifacts/slices.json`, and the rows of the slices' calibration plot.

    Args:
        half: The report half.
        segments_of: Each of its rows' value of each column; the values with few rows are pooled.
    """
    figures, points = {}, []
    for column, segments in followed(segments_of.items(), label="slices", unit="columns"):
        pooled = largest_segments(segments)
        figures[column] = slice_figures(
            half.scored.logit, half.calibrated, half.scored.label, segments=pooled, cluster=half.cluster
        )
        points += slice_calibration_rows(column, half.calibrated, half.scored.label, segments=pooled)
    return figures, points


def curves(half: Reported, *, num_bins: int, num_points: int) -> dict[str, list[Row]]:
    """The rows of each plot by name.

    Args:
        half: The report half.
        num_bins: Bins of the reliability plot.
        num_points: Points of a curve.
    """
    logit, label = half.scored.logit, half.scored.label
    counts = ranking_counts(logit, label)
    made: dict[str, Callable[[], list[Row]]] = {
        "pr": lambda: pr_curve(counts, num_points=num_points),
        "roc": lambda: roc_curve(counts, num_points=num_points),
        "gains": lambda: gains_curve(counts),
        "reliability": lambda: reliability_curve(logit, half.calibrated, label, num_bins=num_bins),
        "score_histogram": lambda: score_histogram(half.calibrated, label),
    }
    return {name: curve() for name, curve in followed(made.items(), label="curves", unit="curves")}
