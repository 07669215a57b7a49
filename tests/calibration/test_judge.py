"""Offsets and temperature against closed forms, scipy and simulation; the calibrator's file format; judging."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qin.calibration import (
    CalibrationReport,
    Calibrator,
    Method,
    Objective,
    check_objective,
    fit_and_judge,
    judge_half,
    prior_offset,
    shift_prior,
)
from qin.metrics import log_losses
from tests.test_metrics import sample

Array = NDArray[Any]


def mean_log_loss(logit: Array, label: Array) -> float:
    of_positives, of_negatives = log_losses(logit, label)
    rate = float(np.mean(label))
    return rate * of_positives + (1.0 - rate) * of_negatives


# Offsets


def test_offset_undoes_weights_and_downsampling_in_expectation() -> None:
    """The weighted, thinned objective of one constant logit is least at the natural logit less the offset."""
    rate = 0.02
    for pos_weight, neg_ratio, reweighted in [
        (1.0, 1.0, False),
        (49.0, 1.0, False),
        (3.0, 0.1, False),
        (3.0, 0.1, True),
    ]:
        kept_negatives = (1.0 - rate) * neg_ratio * (1.0 / neg_ratio if reweighted else 1.0)
        training_logit = math.log(rate * pos_weight / kept_negatives)
        offset = prior_offset(pos_weight=pos_weight, neg_ratio=neg_ratio, reweighted=reweighted)
        assert training_logit + offset == pytest.approx(math.log(rate / (1.0 - rate)), abs=1e-14)


@pytest.mark.parametrize(
    ("pos_weight", "neg_ratio", "message"),
    [
        (0.0, 1.0, "pos_weight must be positive and finite: pos_weight=0.0"),
        (math.inf, 1.0, "pos_weight must be positive and finite"),
        (1.0, 0.0, r"neg_ratio must lie in \(0, 1\]: neg_ratio=0.0"),
        (1.0, 1.5, r"neg_ratio must lie in \(0, 1\]: neg_ratio=1.5"),
    ],
)
def test_impossible_weights_are_refused(pos_weight: float, neg_ratio: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prior_offset(pos_weight=pos_weight, neg_ratio=neg_ratio, reweighted=False)


def test_prior_shift_moves_odds() -> None:
    logit = np.array([-5.0, 0.0, 2.0], dtype=np.float32)
    np.testing.assert_array_equal(shift_prior(logit, base_rate=0.02, prior="natural"), logit)
    odds = np.exp(shift_prior(logit, base_rate=0.02, prior=0.1) - logit)
    np.testing.assert_allclose(odds, (0.1 / 0.9) / (0.02 / 0.98), rtol=1e-12)
    balanced = shift_prior(logit, base_rate=0.02, prior="balanced")
    np.testing.assert_allclose(balanced, shift_prior(logit, base_rate=0.02, prior=0.5), rtol=1e-15)


def test_balanced_prior_minimises_wll_among_priors() -> None:
    logit, label = sample(400_000, seed=3)
    rate = float(label.mean())
    wll = {
        prior: sum(log_losses(shift_prior(logit, base_rate=rate, prior=prior), label))
        for prior in (0.4, 0.5, 0.6, rate)
    }
    assert min(wll, key=wll.__getitem__) == 0.5
    balanced = sum(log_losses(shift_prior(logit, base_rate=rate, prior="balanced"), label))
    assert balanced == pytest.approx(wll[0.5], rel=1e-12)


@pytest.mark.parametrize(("base_rate", "prior"), [(0.0, "natural"), (0.1, 0.0), (0.1, 1.0), (0.1, "flat")])
def test_impossible_priors_are_refused(base_rate: float, prior: Any) -> None:
    with pytest.raises(ValueError, match=r"must (lie strictly|be natural)"):
        shift_prior(np.zeros(2), base_rate=base_rate, prior=prior)


# The calibrator


def test_calibrator_adds_the_offset_then_divides() -> None:
    calibrated = Calibrator("temperature", 2.0, -1.0).apply(np.array([3.0, 5.0], dtype=np.float32))
    assert calibrated.dtype == np.float64
    assert calibrated.tolist() == [1.0, 2.0]
    logit = np.array([0.25, -7.0])
    np.testing.assert_array_equal(Calibrator("identity", 1.0, 0.0).apply(logit), logit)


def test_calibrator_survives_json() -> None:
    calibrator = Calibrator("temperature", 1.2345, -3.9)
    assert Calibrator.from_dict(json.loads(json.dumps(calibrator.to_dict()))) == calibrator
    assert Calibrator.from_dict({"method": "identity", "temperature": 1, "offset": 0}).temperature == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, r"unknown=\['extra'\]"),
        ({"offset": None}, "offset must be a number: offset=None"),
        ({"temperature": True}, "temperature must be a number: temperature=True"),
        ({"temperature": "1.0"}, "temperature must be a number"),
        ({"temperature": 0.0}, "temperature must be positive and finite"),
        ({"temperature": -1.0}, "temperature must be positive and finite"),
        ({"temperature": math.nan}, "temperature must be positive and finite"),
        ({"offset": math.inf}, "offset must be finite"),
        ({"method": "isotonic"}, "method must be one of"),
        ({"method": "identity"}, "identity must have temperature 1"),
    ],
)
def test_a_damaged_calibrator_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calibrator.from_dict({"method": "temperature", "temperature": 2.0, "offset": 0.0, **change})


def test_a_missing_key_is_refused() -> None:
    with pytest.raises(ValueError, match=r"missing=\['offset'\]"):
        Calibrator.from_dict({"method": "temperature", "temperature": 2.0})


# Fit and judge


def judged(logit: Array, label: Array, **changes: Any) -> CalibrationReport:
    judge = judge_half(np.arange(logit.size), seed=7)
    return fit_and_judge(logit, label, **{"judge": judge, "train_base_rate": 0.04, **changes})


def test_halves_are_balanced_reproducible_and_independent_of_order() -> None:
    rows = np.arange(100_000)
    half = judge_half(rows, seed=7)
    # four standard deviations of a fair coin, for the share, for agreement of neighbours and of two seeds
    for share in (half.mean(), (half[1:] == half[:-1]).mean(), (half == judge_half(rows, seed=8)).mean()):
        assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(rows.size)
    order = np.random.default_rng(0).permutation(rows.size)
    np.testing.assert_array_equal(judge_half(rows[order], seed=7), half[order])
    np.testing.assert_array_equal(judge_half(rows.astype(np.uint32), seed=7), half)
    np.testing.assert_array_equal(judge_half(rows[:10], seed=7), half[:10])


def splitmix64(value: int) -> int:
    """The published generator's output for one state, in Python integers."""
    mask = (1 << 64) - 1
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


def test_halves_follow_the_published_hash() -> None:
    assert splitmix64(1234567) == 6457827717110365317  # first output of the reference code for this seed
    key = splitmix64(7 ^ int.from_bytes(b"CALIBRAT", "big"))
    expected = [splitmix64(row ^ key) >> 63 == 1 for row in range(200)]
    assert judge_half(np.arange(200), seed=7).tolist() == expected


def test_bad_rows_and_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="row_number must hold integers"):
        judge_half(np.arange(3.0), seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"seed must lie in \[0, 2\*\*64\)"):
        judge_half(np.arange(3), seed=-1)


def test_fit_never_sees_the_rows_that_judge() -> None:
    logit, label = sample(20_000)
    judge = judge_half(np.arange(logit.size), seed=7)
    changed = label.copy()
    changed[judge] = np.random.default_rng(2).permutation(label[judge])
    report, other = judged(logit, label), judged(logit, changed)
    assert report.judged_temperature == other.judged_temperature
    assert report.temperature != other.temperature
    assert report.after != other.after


def test_overconfident_logits_get_better_on_rows_not_fitted_and_keep_their_ranking() -> None:
    logit, label = sample(100_000)
    offset = prior_offset(pos_weight=20.0, neg_ratio=1.0, reweighted=False)
    training_logit = 2.0 * logit - offset
    report = judged(training_logit, label, offset=offset)
    assert abs(report.temperature - 2.0) < 4.0 * report.standard_errors["temperature"]
    assert report.parameters == {"inverse_temperature": 1.0 / report.temperature}
    before, after = report.before, report.after
    assert after["log_loss"] < before["log_loss"]  # type: ignore[operator]
    assert after["ap"] == pytest.approx(before["ap"], rel=1e-12)
    assert after["cox_slope"] == pytest.approx(1.0, abs=0.1)
    assert after["calibration_ratio"] == pytest.approx(1.0, abs=0.1)
    calibrated = report.calibrator.apply(training_logit)
    np.testing.assert_allclose(calibrated, 2.0 * logit / report.temperature, rtol=1e-12, atol=1e-12)


def test_report_counts_and_rates_describe_the_halves() -> None:
    logit, label = sample(5_000)
    judge = judge_half(np.arange(logit.size), seed=7)
    report = judged(logit, label)
    halves = {"fit_half": ~judge, "judge_half": judge, "validation": np.ones_like(judge)}
    assert report.num_rows == {name: int(rows.sum()) for name, rows in halves.items()}
    assert report.base_rates == {"train": 0.04, **{name: label[rows].mean() for name, rows in halves.items()}}


def test_identity_fits_nothing_and_applies_the_offset() -> None:
    logit, label = sample(5_000)
    report = judged(logit, label, method="identity", offset=-1.5)
    assert (report.temperature, report.judged_temperature) == (1.0, 1.0)
    assert report.standard_errors == report.parameters == {}
    np.testing.assert_array_equal(report.calibrator.apply(logit), logit - 1.5)


def test_a_prior_shift_is_not_mended_by_temperature() -> None:
    logit, label = sample(200_000)
    at_best = mean_log_loss(*(rows[judge_half(np.arange(logit.size), seed=7)] for rows in (logit, label)))
    offset = prior_offset(pos_weight=5.0, neg_ratio=1.0, reweighted=False)
    without = judged(logit - offset, label, offset=0.0)
    with_offset = judged(logit - offset, label, offset=offset)
    assert with_offset.after["log_loss"] == pytest.approx(at_best, rel=1e-4)
    assert without.after["log_loss"] > at_best * 1.02  # type: ignore[operator]


def test_balanced_logits_without_their_offset_have_no_temperature_at_all() -> None:
    logit, label = sample(20_000)
    offset = prior_offset(pos_weight=50.0, neg_ratio=1.0, reweighted=False)
    with pytest.raises(ValueError, match="off the natural prior"):
        judged(logit - offset, label, offset=0.0)


def test_wll_cannot_be_fitted_by_temperature() -> None:
    logit, label = sample(1_000)
    with pytest.raises(ValueError, match=r"wll with method temperature diverges .* predict.prior to balanced"):
        judged(logit, label, objective="wll")
    check_objective(method="identity", objective="wll")
    check_objective(method="temperature", objective="log_loss")


@pytest.mark.parametrize(("method", "objective"), [("spline", "log_loss"), ("temperature", "auc")])
def test_unknown_methods_and_objectives_are_refused(method: Method, objective: Objective) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        check_objective(method=method, objective=objective)


def test_a_half_with_one_class_or_a_bad_mask_is_refused() -> None:
    logit, label = np.arange(8.0), np.array([0, 1, 0, 1, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="both classes must be present: 0 positives in 4 rows"):
        judged(logit, label, judge=np.arange(8) >= 4)
    with pytest.raises(ValueError, match="judge must be a mask over the labels"):
        judged(logit, label, judge=np.arange(8))


def test_report_survives_json_and_refuses_other_keys() -> None:
    report = judged(*sample(5_000))
    values = json.loads(json.dumps(report.to_dict()))
    assert CalibrationReport.from_dict(values) == report
    assert replace(report, offset=1.0).calibrator.offset == 1.0
    with pytest.raises(ValueError, match=r"unknown=\['extra'\]"):
        CalibrationReport.from_dict({**values, "extra": 0})
    del values["before"]
    with pytest.raises(ValueError, match=r"missing=\['before'\]"):
        CalibrationReport.from_dict(values)


def test_headline_is_part_of_the_report() -> None:
    logit, label = sample(2000, seed=3)
    report = judged(logit, label)
    headline = report.headline()
    assert (headline["temperature"], headline["offset"]) == (report.temperature, report.offset)
    assert headline["temperature_standard_error"] == report.standard_errors["temperature"]
    assert headline["after"] == {name: report.after[name] for name in ("ap", "log_loss", "wll")}
    assert replace(report, standard_errors={}).headline()["temperature_standard_error"] == 0.0
