"""Paired differences of two models on the same rows."""

import numpy as np
import pytest
from scipy.stats import ttest_rel
from sklearn.metrics import average_precision_score, roc_auc_score

from qin.metrics.paired import Difference, compare_logits
from qin.metrics.standard_errors import standard_error
from tests.metrics.figures import log_loss_estimate, ranking_estimates
from tests.metrics.test_ranking import sample


def test_differences_are_second_minus_first_and_have_stable_keys() -> None:
    logit, label = sample(3_000)
    other = logit + np.random.default_rng(1).normal(size=label.size)
    found = compare_logits(logit, other, label)
    assert list(found) == ["ap", "auc", "log_loss", "wll"]
    for name, metric in (("ap", average_precision_score), ("auc", roc_auc_score)):
        assert found[name].first == pytest.approx(metric(label, logit), abs=1e-12)
        assert found[name].second == pytest.approx(metric(label, other), abs=1e-12)
    for row in found.values():
        assert row.difference == row.second - row.first
    losses = [np.logaddexp(0.0, np.where(label == 1, -z, z)) for z in (logit, other)]
    mean, error = found["log_loss"].difference, found["log_loss"].standard_error
    assert error is not None
    # the class factors exceed n / (n - 1) by at most one positive in a hundred
    assert mean / error == pytest.approx(ttest_rel(losses[1], losses[0]).statistic, rel=0.01)


def test_a_model_does_not_differ_from_itself() -> None:
    logit, label = sample(500)
    for row in compare_logits(logit, logit.copy(), label).values():
        assert (row.difference, row.standard_error) == (0.0, 0.0)


def test_pairing_removes_what_both_models_share() -> None:
    logit, label = sample(5_000)
    other = logit + 0.1 * np.random.default_rng(1).normal(size=label.size)
    paired = compare_logits(logit, other, label)
    alone = {**ranking_estimates(logit, label), "log_loss": log_loss_estimate(logit, label)}
    for name, estimate in alone.items():
        error, alone_error = paired[name].standard_error, standard_error(estimate.influence, label == 1)
        assert error is not None
        assert alone_error is not None
        assert error < 0.3 * alone_error


def test_one_cluster_per_row_is_no_cluster_and_copies_in_clusters_add_nothing() -> None:
    logit, label = sample(800)
    other = logit + np.random.default_rng(1).normal(size=label.size)
    rows = np.arange(label.size)
    plain = compare_logits(logit, other, label)
    for name, row in compare_logits(logit, other, label, cluster=rows).items():  # sums are in another order
        assert row.standard_error == pytest.approx(plain[name].standard_error, rel=1e-13), name
    copied = compare_logits(np.tile(logit, 3), np.tile(other, 3), np.tile(label, 3), cluster=np.tile(rows, 3))
    for name, row in plain.items():
        assert copied[name].standard_error == pytest.approx(row.standard_error, rel=1e-10), name


def test_a_single_cluster_has_no_standard_error() -> None:
    logit, label = sample(300)
    found = compare_logits(logit, -logit, label, cluster=np.zeros(300, dtype=np.int64))
    assert [row.standard_error for row in found.values()] == [None] * 4
    assert isinstance(found["ap"], Difference)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="of equal length"):
        compare_logits(np.arange(4.0), np.arange(3.0), np.array([0, 1, 0, 1]))
