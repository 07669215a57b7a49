"""Figures of the validation fold: which rows each is of, standard errors, stable keys."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qin.calibrate.holdout import CalibrationRows, CalibratorSpec, fit_calibration
from qin.evaluate.figures import curves, evaluate, evaluate_slices
from qin.evaluate.fold import ReportHalf
from qin.metrics.definitions import competition_score
from qin.metrics.gauc import grouped_auc
from qin.metrics.standard_errors import standard_error
from qin.raw.segments import Segments
from qin.runtime.files import write_json
from qin.scored.prior import TrainingPrior
from qin.scored.rows import ScoredRows
from qin.shards.folds import report_half
from tests.metrics.figures import probability_estimates, probability_metrics, ranking_estimates
from tests.metrics.test_ranking import sample

Array = NDArray[Any]
NUM_ROWS, SEED = 6_000, 3


def report_half_of(cluster: Array | None = None, *, segments: Segments | None = None) -> ReportHalf:
    logit, label = sample(NUM_ROWS)
    scored = ScoredRows(
        row=np.arange(NUM_ROWS) * 2,
        logit=(1.5 * logit).astype(np.float32),
        label=label.astype(np.uint8),
        is_report=report_half(np.arange(NUM_ROWS), seed=SEED).astype(np.uint8),
        prior=TrainingPrior(base_rate=0.04),
    )
    report = fit_calibration(
        CalibrationRows(scored.logit, scored.label, segments),
        is_report=scored.is_report == 1,
        prior=scored.prior,
        spec=None if segments is None else CalibratorSpec("temperature", "log_loss", "hour"),
    )
    return ReportHalf.of(scored, report, segments=segments, cluster=cluster)


def test_every_figure_is_of_the_report_half() -> None:
    half = report_half_of()
    figures = evaluate(half, num_bins=10)
    logit, label = sample(NUM_ROWS)
    kept = report_half(np.arange(NUM_ROWS), seed=SEED)
    np.testing.assert_array_equal(half.is_reported, kept)
    ranking = ranking_estimates((1.5 * logit[kept]).astype(np.float32), label[kept])
    for name, estimate in ranking.items():
        assert figures[name] == estimate.value
        assert figures[f"{name}_se"] == standard_error(estimate.influence, label[kept] == 1)
    expected = probability_metrics(half.calibrated, label[kept], base_rate=half.report.heldout_base_rate, num_bins=10)
    assert {name: figures["after"][name] for name in expected} == expected
    for name, estimate in probability_estimates(half.calibrated, label[kept], base_rate=0.04).items():
        assert figures["after"][f"{name}_se"] == standard_error(estimate.influence, label[kept] == 1)
    assert figures["rows"] == {"validation": NUM_ROWS, "reported": np.count_nonzero(kept)}
    assert figures["base_rate"] == label[kept].mean()
    assert figures["after"]["log_loss"] == pytest.approx(half.report.after["log_loss"], rel=1e-12)


def test_the_selection_half_changes_no_figure_but_by_the_calibrator() -> None:
    half = report_half_of()
    zeros = np.zeros(10, np.uint8)
    scored = replace(
        half.scored,
        row=np.append(half.scored.row, np.arange(10) + 10**6),
        logit=np.append(half.scored.logit, np.full(10, 50.0, np.float32)),
        label=np.append(half.scored.label, zeros),
        is_report=np.append(half.scored.is_report, zeros),
    )
    again = evaluate(ReportHalf.of(scored, half.report), num_bins=10)
    expected = evaluate(half, num_bins=10)
    assert {**again, "rows": None} == {**expected, "rows": None}


def test_the_score_adds_the_errors_of_both_its_parts() -> None:
    figures = evaluate(report_half_of(), num_bins=10)
    after = figures["after"]
    for name, wll in (("natural", "wll"), ("balanced", "wll_balanced")):
        value, error = figures["score"][name], figures["score"][f"{name}_se"]
        assert value == competition_score(ap=figures["ap"], wll=after[wll])
        parts = 0.5 * figures["ap_se"], 0.5 * after[f"{wll}_se"] / (1.0 + after[wll]) ** 2
        # a better score of a row raises both parts, so that their errors add up more than independent ones would
        assert np.hypot(*parts) < error < sum(parts)


def test_keys_are_the_same_with_and_without_a_group_key_and_only_gauc_is_none() -> None:
    cluster = np.random.default_rng(1).integers(0, 500, NUM_ROWS)
    plain, grouped = evaluate(report_half_of(), num_bins=10), evaluate(report_half_of(cluster), num_bins=10)
    assert list(plain) == list(grouped)
    assert list(plain["after"]) == list(grouped["after"])
    assert [name for name, value in plain.items() if value is None] == [
        "gauc",
        "gauc_se",
        "gauc_num_groups",
        "gauc_row_share",
    ]
    half = report_half_of(cluster)
    kept = half.is_reported
    found = grouped_auc(half.scored.logit, half.scored.label, np.unique(cluster[kept], return_inverse=True)[1])
    assert found is not None
    assert grouped["gauc"] == found.estimate.value
    assert grouped["gauc_num_groups"] == found.num_groups
    assert grouped["gauc_row_share"] == found.num_rows / np.count_nonzero(kept)
    assert 0.0 < grouped["gauc_se"] < 0.1
    assert grouped["ap"] == plain["ap"]
    assert grouped["ap_se"] != plain["ap_se"]
    assert grouped["after"]["log_loss_se"] != plain["after"]["log_loss_se"]


def test_no_gauc_where_every_row_is_a_group() -> None:
    assert evaluate(report_half_of(np.arange(NUM_ROWS)), num_bins=10)["gauc"] is None


def test_slices_are_in_the_order_asked_for(tmp_path: Any) -> None:
    fold = report_half_of()
    code = np.random.default_rng(2).integers(0, 25, fold.scored.row.size).astype(np.int32)
    names = tuple(f"{number:02d}" for number in range(25))
    figures, rows = evaluate_slices(fold, {"hour": Segments(names, code), "all": Segments(("x",), code * 0)})
    assert list(figures) == ["hour", "all"]
    assert len(figures["hour"]) == 21
    assert list(figures["hour"])[-1] == "other"
    whole = evaluate(fold, num_bins=10)
    assert figures["all"]["x"]["rows"] == whole["rows"]["reported"]
    for name in ("base_rate", "ap", "ap_se", "auc", "auc_se"):
        assert figures["all"]["x"][name] == whole[name]
    for name in ("calibration_ratio", "calibration_ratio_se"):
        assert figures["all"]["x"][name] == pytest.approx(whole["after"][name], rel=1e-12)
    assert sum(int(row["num_rows"]) for row in rows) == 2 * fold.scored.row.size
    write_json(tmp_path / "slices.json", figures)


def test_with_shifts_by_segment_every_key_means_the_same_rows_and_after_ranks_what_is_calibrated() -> None:
    """`ap` and `auc` are the blended logits' whatever the calibrator; `after` is calibration's, on the same rows."""
    is_late = (sample(NUM_ROWS)[1] == 1) | (np.arange(NUM_ROWS) % 2 == 0)  # clicks come late
    hour, users = Segments(("a", "b"), is_late.astype(np.int32)), np.arange(NUM_ROWS) // 10
    shifted, plain = report_half_of(users, segments=hour), report_half_of(users)
    figures, expected = evaluate(shifted, num_bins=10), evaluate(plain, num_bins=10)
    assert list(figures) == list(expected)
    of_model = [name for name in expected if name.split("_")[0] in ("rows", "base", "ap", "auc", "gauc")]
    assert len(of_model) == 12
    for name in of_model:
        assert figures[name] == expected[name], name
    label = shifted.scored.label
    for name, estimate in ranking_estimates(shifted.calibrated, label).items():
        assert figures["after"][name] == estimate.value == pytest.approx(shifted.report.after[name], rel=1e-12)
        # without shifts a calibrator keeps the order
        assert expected["after"][name] == pytest.approx(expected[name], rel=1e-12)
    assert figures["after"]["log_loss"] != expected["after"]["log_loss"]
    slices, _ = evaluate_slices(shifted, {"all": Segments(("x",), 0 * hour.code[shifted.is_reported])})
    assert slices["all"]["x"]["ap"] == figures["ap"]
    assert slices["all"]["x"]["rows"] == figures["rows"]["reported"]
    for name in ("pr", "roc", "gains"):
        assert curves(shifted, num_bins=5, num_points=50)[name] == curves(plain, num_bins=5, num_points=50)[name]


def test_curves_are_named_as_their_files() -> None:
    names = ["pr", "roc", "gains", "reliability", "score_histogram"]
    assert list(curves(report_half_of(), num_bins=5, num_points=50)) == names
