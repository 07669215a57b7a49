"""Fit on one half of the validation fold, judge on the other, refit on all of it for deployment."""

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
from qin.metrics.definitions import PROBABILITY, RANKING, Rows, values
from qin.metrics.logits import BoolArray, FloatArray, LabelArray, positive_rows
from qin.metrics.probability import calibration_figures
from qin.prior import TrainingPrior
from qin.raw.segments import Segments


@dataclass(frozen=True)
class Recipe:
    """How to calibrate.

    Attributes:
        method: see `Calibrator`.
        objective: the loss to minimise; see `fit_calibrator`.
        by: name of the column whose values get a shift each; None for one calibrator for all rows.
    """

    method: Method = "temperature"
    objective: Objective = "log_loss"
    by: str | None = None


@dataclass(frozen=True)
class CalibrationRows:
    """The validation fold.

    Attributes:
        logit: ndarray of shape (n,), training scale.
        label: ndarray of shape (n,) in {0, 1}.
        segments: each row's value of the recipe's column, where it has one.
    """

    logit: FloatArray
    label: LabelArray
    segments: Segments | None = None

    def where(self, mask: BoolArray) -> "CalibrationRows":
        """Return the rows of a mask `(n,)`."""
        segments = None if self.segments is None else self.segments.where(mask)
        return CalibrationRows(self.logit[mask], self.label[mask], segments)


def fit_and_judge(
    rows: CalibrationRows, *, judge: BoolArray, prior: TrainingPrior, recipe: Recipe | None = None
) -> CalibrationReport:
    """Fit twice, without the rows that judge and with them, and judge the first fit.

    A submission must be possible however few the clicks and however weak the model, so where the rows determine no
    calibrator the report holds an identity, and why. Where a half lacks a class, every row judges: an identity has seen
    none of them.

    Args:
        rows: every row of the validation fold.
        judge: bool ndarray of shape (n,), true for the rows to judge on; see `qin.shards.folds.report_half`.
        prior: what the model was trained on.
        recipe: what to fit; a temperature by default.

    Raises:
        ValueError: see `check_objective` and `qin.metrics.logits.positive_rows`.
    """
    recipe = recipe or Recipe()
    check_objective(method=recipe.method, objective=recipe.objective)
    if judge.shape != rows.label.shape or judge.dtype != np.bool_:
        raise ValueError(f"judge must be a mask over the labels: {judge.shape=}, {judge.dtype=}, {rows.label.shape=}")
    rates = {"train": prior.base_rate, "validation": float(positive_rows(rows.logit, rows.label).mean())}
    lone, identity = _lone_half(rows.label, judge), Recipe("identity", recipe.objective)
    if lone is not None:
        asked = None if recipe.method == "identity" else lone
        everything = np.ones_like(judge)
        return _report(_fit_twice(rows, everything, identity, prior), rows, everything, rates, not_fitted=asked)
    rates |= {name: float(rows.label[half].mean()) for name, half in (("fit_half", ~judge), ("judge_half", judge))}
    try:
        return _report(_fit_twice(rows, judge, recipe, prior), rows, judge, rates)
    except NoFitError as error:
        return _report(_fit_twice(rows, judge, identity, prior), rows, judge, rates, not_fitted=str(error))


def _lone_half(label: LabelArray, judge: BoolArray) -> str | None:
    """Tell which half has one class only, if one has."""
    for name, half in (("fits", label[~judge]), ("judges", label[judge])):
        num_clicks = int(np.count_nonzero(half == 1))
        if num_clicks in (0, half.size):
            return (
                f"the half that {name} has {num_clicks} clicks in {half.size} rows; a larger split.val_ratio has more"
            )
    return None


@dataclass(frozen=True)
class _Fits:
    """The fit that is judged, the one that is deployed, and the test of the latter's bias."""

    recipe: Recipe
    prior: TrainingPrior
    judged: CalibratorFit
    deployed: CalibratorFit
    test: LikelihoodRatio | None


def _fit_twice(rows: CalibrationRows, judge: BoolArray, recipe: Recipe, prior: TrainingPrior) -> _Fits:
    fitting = rows if recipe.method == "identity" else rows.where(~judge)  # to an identity, all rows are the same
    judged, deployed = (_fit(part, recipe, offset=prior.offset) for part in (fitting, rows))
    is_temperature = recipe.method == "temperature"
    test = bias_test(rows.logit, rows.label, offset=prior.offset) if is_temperature else None
    return _Fits(recipe, prior, judged, deployed, test)


def _report(
    fits: _Fits, rows: CalibrationRows, judge: BoolArray, rates: dict[str, float], *, not_fitted: str | None = None
) -> CalibrationReport:
    judging, judged = rows.where(judge), fits.judged.calibrator
    return CalibrationReport(
        deployed=fits.deployed.calibrator,
        judged=judged,
        standard_errors=fits.deployed.standard_errors,
        objective=fits.recipe.objective,
        prior=fits.prior,
        base_rates={**rates, "judge_half": float(judging.label.mean())},
        num_rows={
            "validation": int(rows.label.size),
            "fit_half": int(np.count_nonzero(~judge)),
            "judge_half": int(judging.label.size),
        },
        before=_metrics(judging.logit, judging.label, base_rate=rates["train"]),
        after=_metrics(
            judged.apply(judging.logit, judging.segments),
            judging.label,
            base_rate=rates["fit_half" if judged.fits_prior else "train"],
        ),
        likelihood_ratio=fits.test,
        not_fitted=not_fitted,
    )


def _fit(rows: CalibrationRows, recipe: Recipe, *, offset: float) -> CalibratorFit:
    """Fit all rows' curve, then the segments' shifts beside it."""
    fit = fit_calibrator(rows.logit, rows.label, method=recipe.method, objective=recipe.objective, offset=offset)
    if recipe.by is None:
        return fit
    if rows.segments is None:
        raise ValueError(f"the rows' segments are needed to calibrate by {recipe.by}")
    shifts = fit_shifts(fit.calibrator.apply(rows.logit), rows.label == 1, rows.segments, column=recipe.by)
    return replace(fit, calibrator=replace(fit.calibrator, segments=shifts))


def _metrics(logit: FloatArray, label: LabelArray, *, base_rate: float) -> Metrics:
    rows = Rows(logit, label, base_rate=base_rate)
    return {**values((*RANKING, *PROBABILITY), rows), **calibration_figures(logit, label)}
