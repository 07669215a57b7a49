"""Figures of the validation fold: which rows each is of, standard errors, stable keys."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qin.calibrate.holdout import CalibrationRows, Recipe, fit_and_judge, judge_half
from qin.evaluate.figures import curves, evaluate, evaluate_slices
from qin.evaluate.fold import JudgedFold
from qin.metrics.definitions import competition_score
from qin.metrics.gauc import grouped_auc
from qin.metrics.standard_errors import standard_error
from qin.prior import TrainingPrior
from qin.raw.segments import Segments
from qin.runtime.files import write_json
from qin.scored import ScoredRows
from tests.metrics.figures import probability_estimates, probability_metrics, ranking_estimates
from tests.metrics.test_ranking import sample

Array = NDArray[Any]
NUM_ROWS, SEED = 6_000, 3


def judged_fold(cluster: Array | None = None, *, segments: Segments | None = None) -> JudgedFold:
    logit, label = sample(NUM_ROWS)
    scored = ScoredRows(
        row=np.arange(NUM_ROWS) * 2,
        logit=(1.5 * logit).astype(np.float32),
        label=label.astype(np.uint8),
        train_base_rate=0.04,
        pos_weight=1.0,
        neg_ratio=1.0,
        reweighted=True,
    )
    judge = judge_half(scored.row, seed=SEED)
    report = fit_and_judge(
        CalibrationRows(scored.logit, scored.label, segments),
        judge=judge,
        prior=TrainingPrior(base_rate=0.04),
        recipe=None if segments is None else Recipe("temperature", "log_loss", "hour"),
    )
    return JudgedFold.of(scored, report, judge_seed=SEED, segments=segments, cluster=cluster)


def test_ranking_is_of_all_rows_and_probabilities_of_the_judging_half() -> None:
    fold = judged_fold()
    figures = evaluate(fold, num_bins=10)
    label = fold.scored.label
    half, half_label = fold.calibrated[fold.is_judge], label[fold.is_judge]
    ranking = ranking_estimates(fold.scored.logit, label)
    for name, estimate in ranking.items():
        assert figures[name] == estimate.value
        assert figures[f"{name}_se"] == standard_error(estimate.influence, label == 1)
    expected = probability_metrics(half, half_label, base_rate=0.04, num_bins=10)
    assert {name: figures["after"][name] for name in expected} == expected
    for name, estimate in probability_estimates(half, half_label, base_rate=0.04).items():
        assert figures["after"][f"{name}_se"] == standard_error(estimate.influence, half_label == 1)
    assert figures["rows"] == {"validation": NUM_ROWS, "judged": half.size}
    assert figures["after"]["log_loss"] == pytest.approx(fold.report.after["log_loss"], rel=1e-12)


def test_the_score_adds_the_errors_of_both_its_parts() -> None:
    figures = evaluate(judged_fold(), num_bins=10)
    after = figures["after"]
    for name, wll in (("natural", "wll"), ("balanced", "wll_balanced")):
        value, error = figures["score"][name], figures["score"][f"{name}_se"]
        assert value == competition_score(ap=figures["ap"], wll=after[wll])
        parts = 0.5 * figures["ap_se"], 0.5 * after[f"{wll}_se"] / (1.0 + after[wll]) ** 2
        # a better score of a row raises both parts, so that their errors add up more than independent ones would
        assert np.hypot(*parts) < error < sum(parts)


def test_keys_are_the_same_with_and_without_a_group_key_and_only_gauc_is_none() -> None:
    cluster = np.random.default_rng(1).integers(0, 500, NUM_ROWS)
    plain, grouped = evaluate(judged_fold(), num_bins=10), evaluate(judged_fold(cluster), num_bins=10)
    assert list(plain) == list(grouped)
    assert list(plain["after"]) == list(grouped["after"])
    assert [name for name, value in plain.items() if value is None] == [
        "gauc",
        "gauc_se",
        "gauc_num_groups",
        "gauc_row_share",
    ]
    fold = judged_fold(cluster)
    found = grouped_auc(fold.scored.logit, fold.scored.label, cluster)
    assert found is not None
    assert grouped["gauc"] == found.estimate.value
    assert (grouped["gauc_num_groups"], grouped["gauc_row_share"]) == (found.num_groups, found.num_rows / NUM_ROWS)
    assert 0.0 < grouped["gauc_se"] < 0.1
    assert grouped["ap"] == plain["ap"]
    assert grouped["ap_se"] != plain["ap_se"]
    assert grouped["after"]["log_loss_se"] != plain["after"]["log_loss_se"]


def test_no_gauc_where_every_row_is_a_group() -> None:
    assert evaluate(judged_fold(np.arange(NUM_ROWS)), num_bins=10)["gauc"] is None


def test_slices_are_in_the_order_asked_for_and_judge_the_judging_half(tmp_path: Any) -> None:
    fold = judged_fold()
    code = np.random.default_rng(2).integers(0, 25, NUM_ROWS).astype(np.int32)
    names = tuple(f"{number:02d}" for number in range(25))
    figures, rows = evaluate_slices(fold, {"hour": Segments(names, code), "all": Segments(("x",), code * 0)})
    assert list(figures) == ["hour", "all"]
    assert len(figures["hour"]) == 21
    assert list(figures["hour"])[-1] == "other"
    whole = evaluate(fold, num_bins=10)
    for name in ("rows", "base_rate", "ap", "ap_se", "auc", "auc_se"):
        assert figures["all"]["x"][name] == whole[name]
    for name in ("calibration_ratio", "calibration_ratio_se"):
        assert figures["all"]["x"][name] == pytest.approx(whole["after"][name], rel=1e-12)
    assert sum(int(row["num_rows"]) for row in rows) == 2 * fold.is_judge.sum()
    write_json(tmp_path / "slices.json", figures)


def test_with_shifts_by_segment_every_key_means_the_same_rows_and_the_judging_half_ranks_under_after() -> None:
    """`ap` and `auc` are the network's on all rows whatever the calibrator; `after` is calibration's, of half."""
    hour, users = Segments(("a", "b"), (np.arange(NUM_ROWS) % 2).astype(np.int32)), np.arange(NUM_ROWS) // 10
    shifted, plain = judged_fold(users, segments=hour), judged_fold(users)
    figures, expected = evaluate(shifted, num_bins=10), evaluate(plain, num_bins=10)
    assert list(figures) == list(expected)
    of_network = [name for name in expected if name.split("_")[0] in ("rows", "base", "ap", "auc", "gauc")]
    assert len(of_network) == 12
    for name in of_network:
        assert figures[name] == expected[name], name
    judged = shifted.is_judge
    label, calibrated = shifted.scored.label[judged], shifted.calibrated[judged]
    for name, estimate in ranking_estimates(calibrated, label).items():
        assert figures["after"][name] == estimate.value == pytest.approx(shifted.report.after[name], rel=1e-12)
        assert figures["after"][name] != expected["after"][name]
        # without shifts a calibrator keeps the order
        of_half = ranking_estimates(plain.scored.logit[judged], label)[name].value
        assert expected["after"][name] == pytest.approx(of_half, rel=1e-12)
    slices, _ = evaluate_slices(shifted, {"all": Segments(("x",), hour.code * 0)})
    assert slices["all"]["x"]["ap"] == figures["ap"]
    assert slices["all"]["x"]["rows"] == figures["rows"]
    for name in ("pr", "roc", "gains"):
        assert curves(shifted, num_bins=5, num_points=50)[name] == curves(plain, num_bins=5, num_points=50)[name]


def test_curves_are_named_as_their_files() -> None:
    names = ["pr", "roc", "gains", "reliability", "score_histogram"]
    assert list(curves(judged_fold(), num_bins=5, num_points=50)) == names
