"""The table of methods: what the settings name, what each promises, and what a new entry needs."""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pytest

from qin.calibrate.calibrator import Calibrator
from qin.calibrate.fits import check_objective, fit_calibrator
from qin.calibrate.holdout import CalibrationRows, CalibratorSpec, fit_calibration
from qin.calibrate.methods import METHODS, Fitted, Method
from qin.calibrate.report import CalibrationReport
from qin.config import CalibrationParams
from qin.metrics.logits import BoolArray, Float64Array
from qin.scored.prior import TrainingPrior
from qin.shards.folds import report_half
from tests.metrics.test_ranking import sample


def test_the_settings_name_every_method_of_the_table_that_calibrates() -> None:
    assert set(get_args(Method)) == set(METHODS)
    named = get_args(CalibrationParams.model_fields["method"].annotation)
    assert set(named) == set(METHODS) - {"identity"}  # which is calibration.temperature_scaling: false


@pytest.mark.parametrize("name", METHODS)
def test_a_fitted_curve_increases_and_keeps_its_promise_of_the_prior(name: Method) -> None:
    logit, label = sample(20_000)
    shifted = 1.3 * logit + 0.8
    calibrator = fit_calibrator(shifted, label, method=name).calibrator
    z = np.linspace(-12.0, 12.0, 500)
    assert (np.diff(calibrator.apply(z)) > 0.0).all()
    rate = (1.0 / (1.0 + np.exp(-calibrator.apply(shifted)))).mean()
    assert (abs(rate - label.mean()) < 1e-9) == METHODS[name].fits_prior


@pytest.mark.parametrize("name", METHODS)
def test_the_settings_refuse_wll_where_the_method_does(name: Method) -> None:
    if METHODS[name].refuses_wll is None:
        check_objective(method=name, objective="wll")
        return
    with pytest.raises(ValueError, match=r"wll .*diverges"):
        check_objective(method=name, objective="wll")
    with pytest.raises(ValueError, match=r"wll .*diverges"):
        CalibrationParams.model_validate({"temperature_scaling": True, "method": name, "objective": "wll", "by": None})


class Bias:
    """`z + bias`, one Newton step from 0 repeated: a method that a developer might add."""

    parameters: tuple[str, ...] = ("bias",)
    fits_prior = True
    refuses_wll: str | None = None

    def check(self, number: Mapping[str, float]) -> None:
        """Every bias increases."""

    def curve(self, z: Float64Array, number: Mapping[str, float]) -> Float64Array:
        return z + number["bias"]

    def fit(self, z: Float64Array, is_positive: BoolArray, *, balanced: bool) -> Fitted:
        bias = 0.0
        for _ in range(20):
            p = 1.0 / (1.0 + np.exp(-(z + bias)))
            bias += float((is_positive.mean() - p.mean()) / (p * (1.0 - p)).mean())
        loss = np.logaddexp(0.0, np.where(is_positive, -(z + bias), z + bias)).mean()
        return Fitted({"bias": (bias, float(1.0 / np.sqrt((p * (1.0 - p)).sum())))}, float(loss))


def test_one_entry_in_the_table_is_a_new_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that the docs show: fitted, held out, written, read and applied, and nothing else knows its name."""
    table = {**METHODS, "bias": Bias()}
    for module in ("methods", "calibrator", "fits"):
        monkeypatch.setattr(f"qin.calibrate.{module}.METHODS", table)
    logit, label = sample(20_000)
    name: Any = "bias"
    rows = CalibrationRows(logit - 2.0, label)
    report = fit_calibration(
        rows,
        is_report=report_half(np.arange(label.size), seed=0),
        prior=TrainingPrior(base_rate=float(label.mean())),
        spec=CalibratorSpec(name),
    )
    assert report.deployed.parameters["bias"] == pytest.approx(2.0, abs=0.2)
    assert report.base_rate == report.base_rates["validation"]
    read = CalibrationReport.from_dict(report.to_dict())
    assert read == report
    applied = read.deployed.apply(rows.logit)
    assert np.array_equal(applied, rows.logit + read.deployed.parameters["bias"])
    with pytest.raises(ValueError, match=r"the parameters \('bias',\)"):
        Calibrator(name, {"a": 1.0})
