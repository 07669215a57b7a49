"""The report half of the validation fold with its calibrated logits, as every figure of evaluate reads it."""

from dataclasses import dataclass

import numpy as np

from qin.calibrate.report import CalibrationReport
from qin.metrics.logits import BoolArray, Float64Array, IntArray
from qin.raw.segments import Segments
from qin.scored import ScoredRows


@dataclass(frozen=True, kw_only=True)
class ReportHalf:
    """Rows that decided nothing, on the original distribution: no downsampling, no weights.

    Attributes:
        scored: Blended logits and labels of the half.
        report: The calibration.
        calibrated: Logits from the calibrator that was fitted on the other half, `(n,)`.
        segments: Each row's segment, where the calibrator has shifts.
        cluster: Codes from 0 of what is drawn independently, such as users, `(n,)`; None for rows.
        is_reported: Which rows of the validation fold these are, `(num_validation_rows,)`.
    """

    scored: ScoredRows
    report: CalibrationReport
    calibrated: Float64Array
    segments: Segments | None
    cluster: IntArray | None
    is_reported: BoolArray

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
        clusters = None if cluster is None else np.unique(cluster[kept], return_inverse=True)[1]
        return cls(
            scored=scored.where(kept),
            report=report,
            calibrated=report.heldout.apply(scored.logit, segments)[kept],
            segments=None if segments is None else segments.where(kept),
            cluster=clusters,
            is_reported=kept,
        )
