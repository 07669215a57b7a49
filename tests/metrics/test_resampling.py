"""The studentised bootstrap of average precision: its parts against scikit-learn, its intervals against promises."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from qin.metrics import resampling
from qin.metrics.definitions import AP, AUC, WLL, Metric, Rows, competition_estimate
from qin.metrics.estimate import Estimate, RankedBy
from qin.metrics.intervals import NORMAL_975, NORMAL_9995
from qin.metrics.paired import compare_logits
from qin.metrics.resampling import MANY_CLICKS, NUM_RESAMPLES, equivalent_z, normal_interval
from qin.metrics.standard_errors import confidence, standard_error

Array = NDArray[Any]


def weak(num_rows: int, *, seed: int = 0, decimals: int = 6, rate: float = 0.02) -> tuple[Array, Array, Array]:
    """Labels at a click rate, and two models that are as good."""
    rng = np.random.default_rng(seed)
    label = (rng.random(num_rows) < rate).astype(np.int8)
    shared, *noise = rng.normal(size=(3, num_rows))
    first, second = (np.round(shared + own + 0.7 * label, decimals) for own in noise)
    return label, first, second


def interval(estimate: Estimate, label: Array, *, cluster: Array | None = None) -> resampling.Interval:
    error = standard_error(estimate.influence, label == 1, cluster=cluster)
    found = confidence(estimate, label == 1, standard_error=error, cluster=cluster)
    assert found is not None
    return found


@pytest.mark.parametrize("decimals", [0, 6])
def test_each_resample_has_the_average_precision_and_the_influences_of_weighted_rows(decimals: int) -> None:
    label, logit, _ = weak(400, decimals=decimals, rate=0.1)
    is_positive = label == 1
    ranking = resampling._Ranking(1.0, logit, is_positive)
    ranking.keep(np.ones(np.count_nonzero(~is_positive), np.bool_))
    order = np.concatenate([np.flatnonzero(is_positive), np.flatnonzero(~is_positive)])
    weight = np.random.default_rng(1).integers(0, 4, (5, label.size)).astype(np.float64)
    value, influence = ranking.resampled(weight, int(is_positive.sum()))
    for draw in range(5):
        expected = average_precision_score(label[order], logit[order], sample_weight=weight[draw])
        assert value[draw] == pytest.approx(expected, abs=1e-12)
    for row in (0, 3, label.size // 2, label.size - 1):
        weights = np.stack([weight[0]] * 2)
        weights[:, row] += 1e-4, -1e-4
        high, low = (average_precision_score(label[order], logit[order], sample_weight=w) for w in np.abs(weights))
        if weight[0, row] > 0:
            assert influence[0, row] == pytest.approx((high - low) / 2e-4, rel=1e-4, abs=1e-9)
    plain, of_rows = ranking.resampled(np.ones((1, label.size)), int(is_positive.sum()))
    estimate = AP.estimate(Rows(logit, label))
    assert plain[0] == pytest.approx(estimate.value, abs=1e-14)
    assert of_rows[0] == pytest.approx(estimate.influence[order], abs=1e-15)


def test_rows_that_are_counted_as_they_are_change_an_interval_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The short cut for long logs: only the top of the ranking is drawn again."""
    label, first, second = weak(12_000)
    change = AP.estimate(Rows(second, label)).minus(AP.estimate(Rows(first, label)))
    short = interval(change, label)
    monkeypatch.setattr(resampling, "_EXACT_RANK", label.size)
    full = interval(change, label)
    width = full.upper - full.lower
    assert short.lower == pytest.approx(full.lower, abs=0.06 * width)
    assert short.upper == pytest.approx(full.upper, abs=0.06 * width)


def test_intervals_are_the_same_again_and_follow_the_rows_not_their_order() -> None:
    label, first, second = weak(3_000)
    found = compare_logits(first, second, label)["ap"]
    assert compare_logits(first, second, label)["ap"] == found
    back = compare_logits(second, first, label)["ap"]
    assert found.lower is not None
    assert found.upper is not None
    assert found.z is not None
    near = 0.01 * (found.upper - found.lower)  # the rows that count as they are give noise of their own
    assert back.lower == pytest.approx(-found.upper, abs=near)
    assert back.upper == pytest.approx(-found.lower, abs=near)
    assert back.z == pytest.approx(-found.z, abs=0.02)


def test_clusters_of_one_row_are_rows_and_copies_in_clusters_add_nothing() -> None:
    label, first, second = weak(4_000)
    rows = np.arange(label.size)
    plain = compare_logits(first, second, label)["ap"]
    single = compare_logits(first, second, label, cluster=rows)["ap"]
    copied = compare_logits(*(np.tile(x, 3) for x in (first, second, label)), cluster=np.tile(rows, 3))["ap"]
    assert plain.lower is not None
    assert plain.upper is not None
    width = plain.upper - plain.lower
    for other in (single, copied):  # other draws
        assert other.lower == pytest.approx(plain.lower, abs=0.08 * width)
        assert other.upper == pytest.approx(plain.upper, abs=0.08 * width)


def test_users_widen_the_interval() -> None:
    rng = np.random.default_rng(5)
    user = np.repeat(np.arange(80), 50)
    trait, own = rng.normal(size=80)[user], rng.normal(size=user.size)
    label = (rng.random(user.size) < 1 / (1 + np.exp(3.0 - 1.5 * trait - own))).astype(np.int8)
    estimate = AP.estimate(Rows(trait + own, label))
    by_row, by_user = interval(estimate, label), interval(estimate, label, cluster=user)
    assert by_user.upper - by_user.lower > 1.5 * (by_row.upper - by_row.lower)


@pytest.mark.parametrize("metric", [AUC, WLL])
def test_other_metrics_and_many_clicks_are_normal(metric: Metric) -> None:
    label, first, _ = weak(2_000)
    estimate = metric.estimate(Rows(first, label))
    error = standard_error(estimate.influence, label == 1)
    assert error is not None
    assert interval(estimate, label) == normal_interval(estimate.value, error)
    label, first, _ = weak(4 * MANY_CLICKS, rate=0.3)
    estimate = AP.estimate(Rows(first, label))
    assert not interval(estimate, label).is_resampled
    user = np.arange(label.size) // 40  # as many clicks, of few users
    assert interval(estimate, label, cluster=user).is_resampled


def test_a_score_is_resampled_with_what_its_loss_adds() -> None:
    label, first, _ = weak(5_000)
    rows = Rows(first - 4.0, label)
    ap, wll = AP.estimate(rows), WLL.estimate(rows)
    score = competition_estimate(ap=ap, wll=wll)
    assert score.ranked == (RankedBy(0.5, rows.logit),)
    found, of_ap = interval(score, label), interval(ap, label)
    assert found.is_resampled
    assert found.lower < score.value < found.upper
    error = standard_error(score.influence, label == 1)
    assert error is not None
    assert found.upper - found.lower == pytest.approx(2 * NORMAL_975 * error, rel=0.25)
    assert found.upper - found.lower > 0.5 * (of_ap.upper - of_ap.lower)


def test_p_values_reach_a_clear_difference_and_a_model_equals_itself() -> None:
    assert equivalent_z(2 / (NUM_RESAMPLES + 1)) > NORMAL_9995
    assert equivalent_z(0.05) == pytest.approx(NORMAL_975)
    label, first, _ = weak(3_000, rate=0.1)
    found = compare_logits(first, first + 4.0 * label, label)["ap"]
    assert found.z is not None
    assert found.z > NORMAL_9995
    same = compare_logits(first, first.copy(), label)["ap"]
    assert (same.lower, same.upper, same.z) == (0.0, 0.0, None)


def test_the_weights_are_nearly_poisson() -> None:
    weights = resampling._WEIGHTS
    assert weights.size == 256
    assert weights.mean() == 1.0
    assert weights.var() == pytest.approx(1.0, abs=0.01)
    assert np.mean(weights == 0) == pytest.approx(math.exp(-1), abs=0.004)


def test_two_clicks_have_an_interval() -> None:
    label = np.zeros(200, np.int8)
    label[[3, 50]] = 1
    logit = np.random.default_rng(0).normal(size=200)
    found = interval(AP.estimate(Rows(logit, label)), label)
    assert np.isfinite([found.lower, found.upper, found.p_value]).all()


@pytest.mark.slow
def test_null_differences_of_few_clicks_are_found_in_five_percent_of_samples() -> None:
    """Of two weak models with 60 clicks: by standard errors alone far less often; see benchmarks/few_clicks.py."""
    found = []
    for seed in range(400):
        label, first, second = weak(1_500, seed=seed, rate=0.04)
        found.append(compare_logits(first, second, label)["ap"])
    resampled = np.mean([abs(row.z or 0.0) > NORMAL_975 for row in found])
    by_errors = np.mean([abs(row.difference) > NORMAL_975 * (row.standard_error or np.inf) for row in found])
    assert 0.02 < resampled < 0.085
    assert by_errors < 0.03
