"""The figures and curves of a trained, calibrated model on the validation fold."""

from typing import Any

from qin.calibration.halves import judge_half
from qin.calibration.report import CalibrationReport
from qin.curves import pr_curve, reliability_curve, roc_curve, score_histogram
from qin.data.segments import Segments
from qin.metrics import competition_score, probability_metrics, ranking_counts
from qin.scored import ScoredRows


def evaluate(
    scored: ScoredRows,
    report: CalibrationReport,
    *,
    segments: Segments | None = None,
    judge_seed: int,
    num_bins: int,
    num_points: int,
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Judge on the original distribution: no downsampling, no weights.

    Probabilities are judged on the half that the judged calibrator was not fitted on, before and after calibration
    alike, so that the two can be compared. Ranking uses every validation row, because a calibrator keeps the order;
    shifts by segment do not, so with them it uses the judged half too, after calibration.

    Args:
        scored: Logits of the validation fold.
        report: The calibration.
        segments: Each row's segment, where the calibrator has shifts.
        judge_seed: Seed that divided the halves.
        num_bins: Bins of the calibration error and the reliability plot.
        num_points: Points of a curve.

    Returns:
        JSON values for `metrics/evaluate.json`, and the rows of each plot by name.
    """
    is_judge = judge_half(scored.row, seed=judge_seed)
    before, label = scored.logit[is_judge], scored.label[is_judge]
    after = report.judged.apply(before, None if segments is None else segments.where(is_judge))
    counts = ranking_counts(scored.logit, scored.label) if segments is None else ranking_counts(after, label)
    ap = counts.average_precision()
    probability = {
        name: probability_metrics(logit, label, base_rate=base_rate, num_bins=num_bins)
        for name, logit, base_rate in (
            ("before", before, report.base_rates["train"]),
            ("after", after, report.judged_base_rate),
        )
    }
    calibrated = probability["after"]
    figures = {
        "rows": {"validation": int(scored.label.size), "judged": int(label.size)},
        "base_rate": float(scored.label.mean()),
        "ap": ap,
        "auc": counts.auc(),
        "score": {
            "natural": competition_score(ap=ap, wll=_number(calibrated["wll"])),
            "balanced": competition_score(ap=ap, wll=_number(calibrated["wll_balanced"])),
        },
        **probability,
    }
    plots = {
        "pr": pr_curve(counts, num_points=num_points),
        "roc": roc_curve(counts, num_points=num_points),
        "reliability": reliability_curve(before, after, label, num_bins=num_bins),
        "score_histogram": score_histogram(report.deployed.apply(scored.logit, segments), scored.label),
    }
    return figures, plots


def _number(value: float | None) -> float:
    assert value is not None, "only the Cox figures may be absent"
    return value
