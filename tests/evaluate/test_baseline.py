"""Each member beside the blend, on the rows that decided nothing."""

import logging

import numpy as np
import pytest

from qin.evaluate.baseline import compare_members
from qin.evaluate.fold import ReportHalf
from tests.evaluate.test_figures import NUM_ROWS, report_half_of
from tests.metrics.figures import probability_estimates, ranking_estimates
from tests.metrics.test_ranking import sample


def noisy(scale: float) -> np.ndarray:
    logit, _ = sample(NUM_ROWS)
    return logit + scale * np.random.default_rng(9).normal(size=NUM_ROWS)


def test_a_member_has_its_own_figures_and_the_models_difference_to_it() -> None:
    half = report_half_of()
    member = noisy(1.0)
    found = compare_members(half, {"network": member})["network"]
    rows, label = half.is_reported, half.scored.label
    ranking = ranking_estimates(member[rows], label)
    losses = probability_estimates(member[rows], label, base_rate=0.04)
    for name, estimate in {**ranking, "log_loss": losses["log_loss"], "wll": losses["wll"]}.items():
        assert found[name] == pytest.approx(estimate.value, rel=1e-12)
    best = ranking_estimates(half.calibrated, label)["auc"].value
    assert found["difference"]["auc"] == pytest.approx(best - found["auc"], abs=1e-12)
    assert found["difference"]["auc_lower"] < found["difference"]["auc"] < found["difference"]["auc_upper"]
    assert found["difference"]["auc_se"] > 0


def test_the_selection_half_of_a_member_does_not_count() -> None:
    half = report_half_of()
    member = noisy(1.0)
    other = np.where(half.is_reported, member, 7.0)
    assert compare_members(half, {"trees": member}) == compare_members(half, {"trees": other})


def worse_than_the_truth() -> ReportHalf:
    half = report_half_of()
    return ReportHalf(**{**half.__dict__, "calibrated": half.calibrated * 0.0 + noisy(6.0)[half.is_reported]})


def test_a_warning_where_the_trees_alone_are_better(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="qin"):
        compare_members(worse_than_the_truth(), {"network": noisy(0.0), "trees": noisy(0.0)})
    lines = [record.getMessage() for record in caplog.records]
    assert any(
        line.startswith("warning: the model is worse than its gradient boosted trees alone: auc") for line in lines
    )
    assert len(lines) == len(set(lines)) <= 4, "the network is no baseline"


def test_no_warning_where_the_model_is_better(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="qin"):
        compare_members(report_half_of(), {"trees": noisy(3.0)})
    assert not caplog.records
