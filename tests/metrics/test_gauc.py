"""AUC within groups against scikit-learn, one group after the other."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from qin.metrics.gauc import grouped_auc
from qin.metrics.standard_errors import standard_error
from tests.metrics.figures import ranking_estimates
from tests.metrics.test_ranking import sample

Array = NDArray[Any]


def naive(logit: Array, label: Array, group: Array) -> tuple[float, int, int] | None:
    """One group after the other: average, groups with both classes, their rows."""
    aucs, weights = [], []
    for code in np.unique(group):
        rows = group == code
        if 0 < label[rows].sum() < rows.sum():
            aucs.append(roc_auc_score(label[rows], logit[rows]))
            weights.append(rows.sum())
    return (float(np.average(aucs, weights=weights)), len(aucs), int(np.sum(weights))) if aucs else None


@pytest.mark.parametrize("decimals", [0, 6])
def test_gauc_equals_a_loop_over_groups(decimals: int) -> None:
    logit, label = sample(3_000)
    logit = np.round(logit, decimals)
    group = np.random.default_rng(1).integers(0, 200, label.size)
    found = grouped_auc(logit, label, group)
    assert found is not None
    assert (found.estimate.value, found.num_groups, found.num_rows) == pytest.approx(naive(logit, label, group))
    assert 0 < found.num_groups < 200
    assert abs(found.estimate.influence.sum()) < 1e-12


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans(), st.integers(0, 4)), min_size=2, max_size=30))
def test_gauc_equals_a_loop_on_small_tied_samples_in_any_order(rows: list[tuple[int, bool, int]]) -> None:
    logit, label, group = (np.array(values) for values in zip(*rows, strict=True))
    if label.all() or not label.any():
        return
    expected, found = naive(logit.astype(float), label, group), grouped_auc(logit.astype(float), label, group)
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert (found.estimate.value, found.num_groups, found.num_rows) == pytest.approx(expected, abs=1e-12)


def test_one_group_is_the_auc() -> None:
    logit, label = sample(1_000)
    found = grouped_auc(logit, label, np.zeros(label.size, dtype=np.int64))
    assert found is not None
    assert found.estimate.value == pytest.approx(ranking_estimates(logit, label)["auc"].value, abs=1e-14)


def test_what_differs_between_groups_does_not_matter() -> None:
    logit, label = sample(2_000)
    group = np.random.default_rng(2).integers(0, 20, label.size)
    found, shifted = grouped_auc(logit, label, group), grouped_auc(logit + 10.0 * group, label, group)
    assert found is not None
    assert shifted is not None
    assert shifted.estimate.value == pytest.approx(found.estimate.value, abs=1e-12)


def test_the_standard_error_is_that_of_a_ratio_over_groups() -> None:
    logit, label = sample(20_000)
    group = np.random.default_rng(3).integers(0, 300, label.size)
    found = grouped_auc(logit, label, group)
    assert found is not None
    value, residuals = found.estimate.value, []
    for code in range(300):
        rows = group == code
        auc = roc_auc_score(label[rows], logit[rows]) if label[rows].any() else value
        residuals.append(rows.sum() * (auc - value))
    expected = np.sqrt(np.dot(residuals, residuals)) / found.num_rows
    # up to the factors of the number of groups
    assert standard_error(found.estimate.influence, label == 1, cluster=group) == pytest.approx(expected, rel=0.01)


def test_a_code_per_row_is_needed() -> None:
    with pytest.raises(ValueError, match="group must have one code per row"):
        grouped_auc(np.arange(2.0), np.array([0, 1]), np.array([0]))
