"""Fit on the selection half of the validation fold, report the other half, fit again on all of it for deployment."""

from dataclasses import dataclass, replace

import numpy as np

from qin.calibrate.fits import (
    CalibratorFit,
    LikelihoodRatio,
    NoFitError,
    Objective,
    bias_test,
    check_objective,
    fit_calibrator,
)
from qin.calibrate.methods import Method
from qin.calibrate.report import CalibrationReport, Metrics
from qin.calibrate.shifts import fit_shifts
from qin.metrics.definitions import METRICS, Rows, values
from qin.metrics.logits import BoolArray, FloatArray, LabelArray, positive_rows
from qin.metrics.probability import calibration_figures
from qin.raw.segments import Segments
from qin.scored.prior import TrainingPrior


@dataclass(frozen=True)
class CalibratorSpec:
    """How to calibrate.

    Attributes:
        method: See `Calibrator`.
        objective: The loss to minimise; see `fit_calibrator`.
        by: Name of the column whose values get a shift each; None for one calibrator for all rows.
        kind: Its Arrow type.
    """

    method: Method = "temperature"
    objective: Objective = "log_loss"
    by: str | None = None
    kind: str = ""


@dataclass(frozen=True)
class CalibrationRows:
    """The validation fold.

    Attributes:
        logit: `(n,)`, training scale.
        label: `(n,)` in {0, 1}.
        segments: Each row's value of the spec's column, where it has one.
    """

    logit: FloatArray
    label: LabelArray
    segments: Segments | None = None

    def where(self, mask: BoolArray) -> "CalibrationRows":
        """The rows of a mask `(n,)`."""
        segments = None if self.segments is None else self.segments.where(mask)
        return CalibrationRows(self.logit[mask], self.label[mask], segments)


def fit_calibration(
    rows: CalibrationRows, *, is_report: BoolArray, prior: TrainingPrior, spec: CalibratorSpec | None = None
) -> CalibrationReport:
    """Fit twice, without the report half and with it, and report the first fit.

    A submission must be possible however few the clicks and however weak the model, so where the rows determine no
    calibrator the report holds an identity, and why. Where a half lacks a class, every row is reported: an identity has
    seen none of them.

    Args:
        rows: Every row of the validation fold.
        is_report: The rows to report, `(n,)`; see `qin.shards.folds.report_half`.
        prior: What the model was trained on.
        spec: What to fit; a temperature by default.

    Raises:
        ValueError: See `check_objective` and `qin.metrics.logits.positive_rows`.
    """
    spec = spec or CalibratorSpec()
    check_objective(method=spec.method, objective=spec.objective)
    if is_report.shape != rows.label.shape or is_report.dtype != np.bool_:
        raise ValueError(
            f"is_report must be a mask over the labels: {is_report.shape=}, {is_report.dtype=}, {rows.label.shape=}"
        )
    # Whatever is fitted, `positive_rows` refuses a fold of one class, and a logit that is no number.
    rates = {"train": prior.base_rate, "validation": float(positive_rows(rows.logit, rows.label).mean())}
    lone, identity = _lone_half(rows.label, is_report), CalibratorSpec("identity", spec.objective)
    if lone is not None:
        asked = None if spec.method == "identity" else lone
        everything = np.ones_like(is_report)
        return _report(_fit_twice(rows, everything, identity, prior), rows, everything, rates, not_fitted=asked)
    rates |= {name: float(rows.label[half].mean()) for name, half in (("selection", ~is_report), ("report", is_report))}
    try:
        return _report(_fit_twice(rows, is_report, spec, prior), rows, is_report, rates)
    except NoFitError as error:
        return _report(_fit_twice(rows, is_report, identity, prior), rows, is_report, rates, not_fitted=str(error))


def _lone_half(label: LabelArray, is_report: BoolArray) -> str | None:
    """Tell which half has one class only, if one has."""
    for name, half in (("selection", label[~is_report]), ("report", label[is_report])):
        num_clicks = int(np.count_nonzero(half == 1))
        if num_clicks in (0, half.size):
            return f"the {name} half has {num_clicks} clicks in {half.size} rows; a larger split.val_ratio has more"
    return None


@dataclass(frozen=True)
class _Fits:
    """The fit that is reported, the one that is deployed, and the test of the latter's bias."""

    spec: CalibratorSpec
    prior: TrainingPrior
    heldout: CalibratorFit
    deployed: CalibratorFit
    test: LikelihoodRatio | None


def _fit_twice(rows: CalibrationRows, is_report: BoolArray, spec: CalibratorSpec, prior: TrainingPrior) -> _Fits:
    fitting = rows if spec.method == "identity" else rows.where(~is_report)  # to an identity, all rows are the same
    # The first is what figures are of; the second has twice the rows and is what predict applies.
    heldout, deployed = (_fit(part, spec, offset=prior.offset) for part in (fitting, rows))
    is_temperature = spec.method == "temperature"
    # On all rows, with all the power there is: it judges the method, not a figure that is reported.
    test = bias_test(rows.logit, rows.label, offset=prior.offset) if is_temperature else None
    return _Fits(spec, prior, heldout, deployed, test)


def _report(
    fits: _Fits, rows: CalibrationRows, is_report: BoolArray, rates: dict[str, float], *, not_fitted: str | None = None
) -> CalibrationReport:
    reported, heldout = rows.where(is_report), fits.heldout.calibrator
    return CalibrationReport(
        deployed=fits.deployed.calibrator,
        heldout=heldout,
        standard_errors=fits.deployed.standard_errors,
        objective=fits.spec.objective,
        prior=fits.prior,
        base_rates={**rates, "report": float(reported.label.mean())},
        num_rows={
            "validation": int(rows.label.size),
            "selection": int(np.count_nonzero(~is_report)),
            "report": int(reported.label.size),
        },
        before=_metrics(reported.logit, reported.label, base_rate=rates["train"]),
        after=_metrics(
            heldout.apply(reported.logit, reported.segments),
            reported.label,
            # Without an intercept nothing has moved the logits from the click rate of training.
            base_rate=rates["selection" if heldout.fits_prior else "train"],
        ),
        likelihood_ratio=fits.test,
        not_fitted=not_fitted,
    )


def _fit(rows: CalibrationRows, spec: CalibratorSpec, *, offset: float) -> CalibratorFit:
    """Fit all rows' curve, then the segments' shifts beside it."""
    fit = fit_calibrator(rows.logit, rows.label, method=spec.method, objective=spec.objective, offset=offset)
    if spec.by is None:
        return fit
    if rows.segments is None:
        raise ValueError(f"the rows' segments are needed to calibrate by {spec.by}")
    # Beside the curve and after it, so that shifts are what the curve leaves, and shrink to it where rows are few.
    calibrated = fit.calibrator.apply(rows.logit)
    shifts = fit_shifts(calibrated, rows.label == 1, rows.segments, column=spec.by, kind=spec.kind)
    return replace(fit, calibrator=replace(fit.calibrator, segments=shifts))


def _metrics(logit: FloatArray, label: LabelArray, *, base_rate: float) -> Metrics:
    rows = Rows(logit, label, base_rate=base_rate)
    return {**values(METRICS.values(), rows), **calibration_figures(logit, label)}
