"""Fitting on one half and judging on the other, and the report that comes of it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qin.calibrate.fits import fit_calibrator
from qin.calibrate.holdout import CalibrationRows, Recipe, fit_and_judge
from qin.calibrate.methods import Method
from qin.calibrate.report import CalibrationReport, read_calibration
from qin.errors import ArtifactError
from qin.metrics.logits import log_losses
from qin.prior import TrainingPrior, shift_prior
from qin.raw.segments import Segments
from qin.runtime.files import write_exact_json
from qin.shards.folds import report_half
from tests.metrics.test_ranking import sample

Array = NDArray[Any]
METHODS: list[Method] = ["temperature", "platt", "beta", "identity"]


def judged(
    logit: Array,
    label: Array,
    recipe: Recipe | None = None,
    *,
    segments: Segments | None = None,
    judge: Array | None = None,
    **prior: Any,
) -> CalibrationReport:
    return fit_and_judge(
        CalibrationRows(logit, label, segments),
        judge=report_half(np.arange(logit.size), seed=7) if judge is None else judge,
        prior=TrainingPrior(**{"base_rate": 0.04, **prior}),
        recipe=recipe,
    )


def by_hour(num_rows: int, *, seed: int = 0) -> tuple[Array, Array, Segments]:
    """Logits, clicks that lean by hour, and the hours."""
    rng = np.random.default_rng(seed)
    code = rng.integers(0, 12, num_rows).astype(np.int32)
    logit = rng.normal(-2.5, 1.0, num_rows)
    true_logit = logit + np.linspace(-1.0, 1.0, 12)[code]
    label = (rng.random(num_rows) < 1.0 / (1.0 + np.exp(-true_logit))).astype(np.int8)
    return logit, label, Segments(tuple(f"{hour:02}" for hour in range(12)), code)


def mean_log_loss(logit: Array, label: Array) -> float:
    of_positives, of_negatives = log_losses(logit, label)
    rate = float(np.mean(label))
    return rate * of_positives + (1.0 - rate) * of_negatives


# Fit and judge


@pytest.mark.parametrize("method", METHODS)
def test_deployed_is_the_fit_of_all_rows_and_judged_that_of_one_half(method: Method) -> None:
    logit, label = sample(20_000)
    report = judged(logit, label, Recipe(method), pos_weight=math.e)
    fitting = ~report_half(np.arange(logit.size), seed=7)
    whole = fit_calibrator(logit, label, method=method, offset=-1.0)
    assert (report.deployed, report.standard_errors) == (whole.calibrator, whole.standard_errors)
    half = fit_calibrator(logit[fitting], label[fitting], method=method, offset=-1.0)
    assert report.judged == half.calibrator
    judged_loss = mean_log_loss(half.calibrator.apply(logit[~fitting]), label[~fitting])
    assert report.after["log_loss"] == pytest.approx(judged_loss, rel=1e-12)
    assert report.before["log_loss"] == pytest.approx(mean_log_loss(logit[~fitting], label[~fitting]), rel=1e-12)


@pytest.mark.parametrize("recipe", [Recipe(), Recipe("platt"), Recipe("beta", "wll"), Recipe(by="hour")])
def test_fit_never_sees_the_rows_that_judge(recipe: Recipe) -> None:
    logit, label, segments = by_hour(20_000)
    judge = report_half(np.arange(logit.size), seed=7)
    changed = label.copy()
    changed[judge] = np.random.default_rng(2).permutation(label[judge])
    report, other = (judged(logit, labels, recipe, segments=segments) for labels in (label, changed))
    assert report.judged == other.judged
    assert report.deployed != other.deployed
    assert report.after != other.after


def test_overconfident_logits_get_better_on_rows_not_fitted_and_keep_their_ranking() -> None:
    logit, label = sample(50_000)
    training_logit = 2.0 * logit + math.log(20.0)
    report = judged(training_logit, label, pos_weight=20.0)
    temperature, error = report.deployed.temperature, report.standard_errors["temperature"]
    assert temperature is not None
    assert error is not None
    assert abs(temperature - 2.0) < 4.0 * error
    before, after = report.before, report.after
    assert after["log_loss"] < before["log_loss"]  # type: ignore[operator]
    assert after["ap"] == pytest.approx(before["ap"], rel=1e-12)
    assert after["cox_slope"] == pytest.approx(1.0, abs=0.1)
    assert after["calibration_ratio"] == pytest.approx(1.0, abs=0.1)
    calibrated = report.deployed.apply(training_logit)
    np.testing.assert_allclose(calibrated, 2.0 * logit / temperature, rtol=1e-12, atol=1e-12)


def test_report_counts_and_rates_describe_the_halves() -> None:
    logit, label = sample(5_000)
    judge = report_half(np.arange(logit.size), seed=7)
    report = judged(logit, label)
    halves = {"validation": np.ones_like(judge), "fit_half": ~judge, "judge_half": judge}
    assert report.num_rows == {name: int(rows.sum()) for name, rows in halves.items()}
    assert report.base_rates == {"train": 0.04, **{name: label[rows].mean() for name, rows in halves.items()}}


def test_a_prior_shift_is_not_mended_by_temperature_but_by_its_offset_and_by_platt() -> None:
    logit, label = sample(60_000)
    at_best = mean_log_loss(*(rows[report_half(np.arange(logit.size), seed=7)] for rows in (logit, label)))
    shifted = logit + math.log(5.0)
    with_offset, platt = judged(shifted, label, pos_weight=5.0), judged(shifted, label, Recipe("platt"))
    without = judged(shifted, label)
    reports = {"with_offset": with_offset, "platt": platt, "without": without}
    # in units of log-likelihood, of which fitting one or two parameters costs about as many on other rows
    losses = {name: float(report.after["log_loss"] or 0.0) for name, report in reports.items()}
    cost = {name: platt.num_rows["judge_half"] * (loss - at_best) for name, loss in losses.items()}
    assert abs(cost["with_offset"]) < 8.0
    assert abs(cost["platt"]) < 8.0
    assert cost["without"] > 80.0
    assert with_offset.warnings() == platt.warnings() == []
    [warning] = without.warnings()
    assert "leaves a bias" in warning
    assert "calibration.method: platt" in warning
    assert without.likelihood_ratio is not None
    assert without.likelihood_ratio.p_value < 1e-6


def test_balanced_logits_without_their_offset_have_no_temperature_at_all() -> None:
    logit, label = sample(20_000)
    report = judged(logit + math.log(50.0), label)
    assert report.deployed.method == "identity"
    assert "off the natural prior" in (report.not_fitted or "")


@pytest.mark.parametrize("method", METHODS)
def test_output_keeps_one_meaning_whatever_the_objective(method: Method) -> None:
    """Natural output stays natural, and balanced output minimises WLL over shifts, after either objective."""
    logit, label = sample(50_000, seed=2)
    for objective in ("log_loss", "wll"):
        if (method, objective) == ("temperature", "wll"):
            continue
        report = judged(logit, label, Recipe(method, objective), base_rate=float(label.mean()))
        natural = report.deployed.apply(logit)
        assert float((1.0 / (1.0 + np.exp(-natural))).mean()) == pytest.approx(float(label.mean()), rel=0.05)
        balanced = shift_prior(natural, base_rate=report.base_rate, prior="balanced")
        wll = {shift: sum(log_losses(balanced, label, offset=shift)) for shift in (-0.2, 0.0, 0.2)}
        assert min(wll, key=wll.__getitem__) == 0.0


def test_the_output_prior_refers_to_the_rows_that_set_the_click_rate() -> None:
    """A temperature keeps the train fold's click rate; an intercept or segments take the validation rows'."""
    logit, label, segments = by_hour(10_000)
    for recipe, names in [
        (Recipe(), ("train", "train")),
        (Recipe("identity"), ("train", "train")),
        (Recipe("platt"), ("validation", "fit_half")),
        (Recipe("beta", "wll"), ("validation", "fit_half")),
        (Recipe(by="hour"), ("validation", "fit_half")),
    ]:
        report = judged(logit, label, recipe, segments=segments)
        assert (report.base_rate, report.judged_base_rate) == tuple(report.base_rates[name] for name in names)


# Segments


def test_segments_mend_on_rows_not_fitted_what_one_curve_cannot() -> None:
    logit, label, segments = by_hour(40_000)
    alone = judged(logit, label, Recipe("platt"))
    report = judged(logit, label, Recipe("platt", by="hour"), segments=segments)
    assert report.after["log_loss"] < alone.after["log_loss"] * 0.97  # type: ignore[operator]
    assert report.after["auc"] > alone.after["auc"]  # type: ignore[operator]
    shifts = report.deployed.segments
    assert shifts is not None
    assert shifts.column == "hour"
    assert shifts.tau == pytest.approx(np.linspace(-1.0, 1.0, 12).std(), rel=0.35)
    probability = 1.0 / (1.0 + np.exp(-report.deployed.apply(logit, segments)))
    for code, name in enumerate(segments.names):  # what shrinkage leaves of a segment's excess of clicks
        rows = segments.code == code
        excess = label[rows].sum() - probability[rows].sum()
        assert excess == pytest.approx(shifts.shift[name] / shifts.tau**2, abs=1e-6)
        assert abs(excess) < 0.5 * math.sqrt(label[rows].sum())


def test_a_column_without_its_segments_is_refused() -> None:
    with pytest.raises(ValueError, match="the rows' segments are needed to calibrate by hour"):
        judged(*sample(2_000), Recipe(by="hour"))


# Refusals


def test_a_fold_with_one_class_or_a_logit_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^both classes must be present: 0 positives in 8 rows"):
        judged(np.arange(8.0), np.zeros(8), judge=np.arange(8) >= 4)
    logit, label = sample(1_000)
    with pytest.raises(ValueError, match="every logit must be finite"):
        judged(np.where(np.arange(1_000) == 7, np.nan, logit), label)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ([0, 1, 0, 1, 0, 0, 0, 0], "the half that judges has 0 clicks in 4 rows"),
        ([1, 1, 1, 1, 0, 0, 0, 1], "the half that fits has 4 clicks in 4 rows"),
        ([0, 0, 0, 0, 0, 0, 0, 1], "the half that fits has 0 clicks in 4 rows"),
    ],
)
def test_where_a_half_has_one_class_every_row_judges_an_identity(
    method: Method, label: list[int], reason: str, tmp_path: Path
) -> None:
    report = judged(np.arange(8.0), np.array(label), Recipe(method), judge=np.arange(8) >= 4, pos_weight=math.e)
    for calibrator in (report.deployed, report.judged):
        assert (calibrator.method, calibrator.offset) == ("identity", -1.0)
    assert report.judges_all
    assert report.num_rows == {"validation": 8, "fit_half": 0, "judge_half": 8}
    assert report.base_rates == {"train": 0.04, "validation": np.mean(label), "judge_half": np.mean(label)}
    assert all(value is not None for name, value in report.after.items() if not name.startswith("cox"))
    if method == "identity":  # which was asked for
        assert (report.not_fitted, report.warnings()) == (None, [])
    else:
        assert report.not_fitted == f"{reason}; a larger split.val_ratio has more"
        [line] = report.warnings()
        assert reason in line
        assert "calibration.temperature_scaling: false" in line
    write_exact_json(tmp_path / "temperature.json", report.to_dict())
    assert read_calibration(tmp_path / "temperature.json") == report


def separated(num_rows: int) -> tuple[Array, Array]:
    logit = sample(num_rows)[0]
    logit = logit - np.median(logit)
    return logit, (logit > 0.0).astype(np.int8)


@pytest.mark.parametrize("by", [None, "hour"])
@pytest.mark.parametrize("method", ["temperature", "platt", "beta"])
@pytest.mark.parametrize("kind", ["backwards", "separated", "constant", "one click each"])
def test_rows_that_determine_no_calibrator_leave_the_probabilities_as_they_are(
    method: Method, kind: str, by: str | None
) -> None:
    logit, label = sample(4_000)
    if kind == "backwards":  # a model of AUC below one half
        logit = -logit
    elif kind == "separated":
        logit, label = separated(4_000)
    elif kind == "constant":
        logit = np.full(4_000, -2.0)
    judge = report_half(np.arange(logit.size), seed=7)
    if kind == "one click each":
        label = np.zeros(4_000, np.int8)
        label[[np.flatnonzero(judge)[3], np.flatnonzero(~judge)[3]]] = 1
        logit[label == 1] = logit.max() + 1.0
    segments = by_hour(4_000)[2] if by else None
    report = judged(logit, label, Recipe(method, by=by), segments=segments)
    assert (report.deployed.method, report.judged.method) == ("identity", "identity")
    assert report.deployed.segments is None
    assert not report.judges_all
    assert report.not_fitted
    assert len(report.warnings()) == 1
    np.testing.assert_array_equal(report.deployed.apply(logit), logit)
    assert report.base_rate == 0.04  # what an identity's probabilities refer to


def test_a_bad_mask_and_a_bad_recipe_are_refused() -> None:
    logit, label = sample(1_000)
    with pytest.raises(ValueError, match="judge must be a mask over the labels"):
        judged(logit, label, judge=np.arange(1_000))
    with pytest.raises(ValueError, match="wll with method temperature diverges"):
        judged(logit, label, Recipe("temperature", "wll"))


# The file


@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe("platt"), Recipe("beta", "wll"), Recipe("identity"), Recipe("platt", by="hour")]
)
def test_report_survives_its_file(recipe: Recipe, tmp_path: Path) -> None:
    logit, label, segments = by_hour(5_000)
    report = judged(logit, label, recipe, segments=segments, pos_weight=2.0, neg_ratio=0.5, reweighted=False)
    write_exact_json(tmp_path / "temperature.json", report.to_dict())
    assert read_calibration(tmp_path / "temperature.json") == report


def test_the_file_has_the_same_keys_for_every_recipe() -> None:
    logit, label, segments = by_hour(5_000)
    trees = [
        judged(logit, label, recipe, segments=segments).to_dict()
        for recipe in (Recipe(), Recipe("platt"), Recipe("identity"), Recipe(by="hour"))
    ]
    assert len({tuple(tree) for tree in trees}) == 1
    assert [tree["temperature"] is None for tree in trees] == [False, True, False, False]
    assert [tree["likelihood_ratio"] is None for tree in trees] == [False, True, True, False]
    assert [tree["segments"] is None for tree in trees] == [True, True, True, False]
    assert trees[0]["offset_parts"] == {"pos_weight": 1.0, "neg_ratio": 1.0, "reweighted": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "format 1, expected 3; run the calibrate stage again"),
        ({"format": None}, "format None, expected 3"),
        ({"extra": 0}, r"unknown=\['extra'\]"),
        ({"temperature": 7.0}, "temperature 7.0 is not that of the parameters"),
        ({"method": "beta"}, "method beta has the parameters"),
        ({"judged": {}}, r"missing=\['parameters', 'segments'\]"),
        ({"parameters": 3.0}, "float"),
        ({"base_rates": {}}, "'train'"),
        ({"offset_parts": {"pos_weight": 1.0}}, r"missing=\['neg_ratio', 'reweighted'\]"),
    ],
)
def test_another_file_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "temperature.json"
    write_exact_json(path, {**judged(*sample(5_000)).to_dict(), **change})
    with pytest.raises(ArtifactError, match=rf"^{path}: .*{message}"):
        read_calibration(path)


def test_a_file_without_a_format_or_a_key_is_refused(tmp_path: Path) -> None:
    tree = judged(*sample(5_000)).to_dict()
    for key, message in [("format", "format None, expected 3"), ("before", r"missing=\['before'\]")]:
        write_exact_json(tmp_path / "temperature.json", {name: value for name, value in tree.items() if name != key})
        with pytest.raises(ArtifactError, match=message):
            read_calibration(tmp_path / "temperature.json")


def test_headline_has_the_same_keys_for_every_recipe_and_is_part_of_the_report() -> None:
    logit, label, segments = by_hour(5_000)
    recipes = (Recipe(), Recipe("beta"), Recipe("identity"), Recipe(by="hour"))
    headlines = [judged(logit, label, recipe, segments=segments).headline() for recipe in recipes]
    flat = [json.dumps(headline, default=str) for headline in headlines]
    assert len({tuple(json.loads(text)) for text in flat}) == 1
    assert all(set(headline["likelihood_ratio"]) == {"statistic", "p_value"} for headline in headlines)
    report = judged(logit, label)
    headline = report.headline()
    assert (headline["temperature"], headline["offset"]) == (report.deployed.temperature, 0.0)
    assert headline["temperature_standard_error"] == report.standard_errors["temperature"]
    assert headline["after"] == {name: report.after[name] for name in ("ap", "log_loss", "wll")}
    assert headlines[3]["segment_tau"] > 0.0
    assert [headline["temperature_standard_error"] is None for headline in headlines] == [False, True, True, False]


def test_halves_are_balanced_reproducible_and_independent_of_order() -> None:
    rows = np.arange(100_000)
    half = report_half(rows, seed=7)
    # four standard deviations of a fair coin, for the share, for agreement of neighbours and of two seeds
    for share in (half.mean(), (half[1:] == half[:-1]).mean(), (half == report_half(rows, seed=8)).mean()):
        assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(rows.size)
    order = np.random.default_rng(0).permutation(rows.size)
    np.testing.assert_array_equal(report_half(rows[order], seed=7), half[order])
    np.testing.assert_array_equal(report_half(rows.astype(np.uint32), seed=7), half)
    np.testing.assert_array_equal(report_half(rows[:10], seed=7), half[:10])


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
    assert report_half(np.arange(200), seed=7).tolist() == expected


def test_bad_rows_and_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="unit must hold integers"):
        report_half(np.arange(3.0), seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"seed must lie in \[0, 2\*\*64\)"):
        report_half(np.arange(3), seed=-1)
