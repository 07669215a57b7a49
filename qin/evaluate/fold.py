"""The report half of the validation folds with its calibrated logits, as every figure of evaluate reads it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qin.calibrate.report import CalibrationReport, reported_base_rate
from qin.metrics.logits import BoolArray, Float64Array, IntArray
from qin.raw.segments import Segments
from qin.scored.rows import ScoredRows, pooled, rows_in_order


@dataclass(frozen=True, kw_only=True)
class Reported:
    """Rows that decided nothing, on the original distribution: no downsampling, no weights.

    Attributes:
        scored: Blended logits and labels of these rows.
        calibrated: Logits from a calibrator that was fitted on other rows, `(n,)`.
        base_rate: Click rate that the calibrated probabilities refer to.
        cluster: Codes from 0 of what is drawn independently, such as users, `(n,)`; None for rows.
        is_reported: Which rows of the validation fold, or of all folds, these are, `(num_validation_rows,)`.
    """

    scored: ScoredRows
    calibrated: Float64Array
    base_rate: float
    cluster: IntArray | None
    is_reported: BoolArray


@dataclass(frozen=True, kw_only=True)
class ReportHalf(Reported):
    """The report half of one validation fold, with the calibrator that was fitted on the other half.

    Attributes:
        report: The calibration.
        segments: Each row's segment, where the calibrator has shifts.
    """

    report: CalibrationReport
    segments: Segments | None

    @classmethod
    def of(
        cls,
        scored: ScoredRows,
        report: CalibrationReport,
        *,
        segments: Segments | None = None,
        cluster: IntArray | None = None,
    ) -> "ReportHalf":
        """Apply the calibrator.

        Args:
            scored: Logits of the whole validation fold.
            report: The calibration. Where it reports all rows, because a half lacks a class, so do the figures.
            segments: Each validation row's segment, where the calibrator has shifts.
            cluster: Codes of the validation rows' clusters; None for rows.
        """
        kept = np.ones(scored.row.size, np.bool_) if report.reports_all else scored.is_report == 1
        return cls(
            scored=scored.where(kept),
            report=report,
            calibrated=report.heldout.apply(scored.logit, segments)[kept],
            base_rate=report.heldout_base_rate,
            segments=None if segments is None else segments.where(kept),
            cluster=_of_rows(cluster, kept),
            is_reported=kept,
        )


def out_of_fold(
    halves: Sequence[ReportHalf], folds: Sequence[ScoredRows], *, cluster: IntArray | None = None
) -> Reported:
    """The report halves of several folds as one, in the order of the train file: each row from the model of its fold.

    Args:
        halves: Of the folds.
        folds: The whole folds.
        cluster: Codes of their rows' clusters, in the order of the train file; None for rows.
    """
    scored = [half.scored for half in halves]
    order = rows_in_order(scored)
    is_reported = np.concatenate([half.is_reported for half in halves])[rows_in_order(folds)]
    return Reported(
        scored=pooled(scored),
        calibrated=np.concatenate([half.calibrated for half in halves])[order],
        base_rate=reported_base_rate([half.report for half in halves]),
        cluster=_of_rows(cluster, is_reported),
        is_reported=is_reported,
    )


def _of_rows(cluster: IntArray | None, kept: BoolArray) -> IntArray | None:
    """The clusters of some rows, numbered without gaps."""
    # Sums are kept for each number up to the largest, so clusters that other rows alone have are left out.
    return None if cluster is None else np.unique(cluster[kept], return_inverse=True)[1]
