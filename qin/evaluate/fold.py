"""The validation fold with its calibrated logits, as every figure of evaluate reads it."""

from dataclasses import dataclass

import numpy as np

from qin.calibrate.report import CalibrationReport
from qin.metrics.logits import BoolArray, Float64Array, IntArray
from qin.raw.segments import Segments
from qin.scored import ScoredRows


@dataclass(frozen=True, kw_only=True)
class JudgedFold:
    """The validation fold, ready to be judged on the original distribution: no downsampling, no weights.

    Probabilities are judged on the half that the judged calibrator was not fitted on, and so is their ranking there.
    The network's own ranking is of every row: a calibrator keeps the order, and where shifts by segment do not, the
    figure still means the same rows and the same logits as in every other run.

    Attributes:
        scored: training-scale logits and labels.
        report: the calibration.
        calibrated: logits from the judged calibrator, `(n,)`.
        is_judge: rows of the judging half, `(n,)`.
        segments: each row's segment, where the calibrator has shifts.
        cluster: codes from 0 of what is drawn independently, such as users, `(n,)`; None for rows.
    """

    scored: ScoredRows
    report: CalibrationReport
    calibrated: Float64Array
    is_judge: BoolArray
    segments: Segments | None
    cluster: IntArray | None

    @classmethod
    def of(
        cls,
        scored: ScoredRows,
        report: CalibrationReport,
        *,
        segments: Segments | None = None,
        cluster: IntArray | None = None,
    ) -> "JudgedFold":
        """Apply the calibrators.

        Args:
            scored: Logits of the validation fold.
            report: The calibration.
            segments: See the class, as for `cluster`.
            cluster: See the class.
        """
        calibrated, is_judge = report.judged.apply(scored.logit, segments), scored.is_report == 1
        if report.judges_all:
            is_judge = np.ones_like(is_judge)
        return cls(
            scored=scored,
            report=report,
            calibrated=calibrated,
            is_judge=is_judge,
            segments=segments,
            cluster=cluster,
        )

    def cluster_of(self, rows: BoolArray) -> IntArray | None:
        """Return the clusters of the rows of a mask."""
        return None if self.cluster is None else self.cluster[rows]
