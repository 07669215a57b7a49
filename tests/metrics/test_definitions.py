"""The table of metrics: what each entry promises, and what a new one needs."""

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from qin.evaluate.figures import evaluate
from qin.experiments.compare import SharedRows, compare_runs, verdict
from qin.metrics.definitions import METRICS, Metric, Rows, compared_metrics, probability_metrics, ranking_metrics
from qin.metrics.standard_errors import standard_error
from tests.evaluate.test_figures import report_half_of
from tests.metrics.test_ranking import sample
from tests.project import ROOT

Array = NDArray[np.float64]


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_an_influence_sums_to_zero_and_follows_from_doubling_a_row(metric: Metric) -> None:
    """What the standard error rests on: to first order it is what one row more of the same changes."""
    logit, label = sample(2_000)
    rows = Rows(logit, label, base_rate=0.05)
    value, influence = metric.statistic(rows), metric.influence(rows, metric.statistic(rows))
    assert abs(influence.sum()) < 1e-9
    for row in (int(np.flatnonzero(label)[0]), int(np.flatnonzero(label == 0)[0])):
        more = Rows(np.append(logit, logit[row]), np.append(label, label[row]), base_rate=0.05)
        change = metric.statistic(more) - value
        assert change == pytest.approx(influence[row], rel=0.05, abs=2e-3 * abs(value) / np.sqrt(label.sum()))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_the_order_alone_decides_a_ranking_metric(metric: Metric) -> None:
    logit, label = sample(2_000)
    values = [metric.statistic(Rows(z, label)) for z in (logit, 0.5 * logit - 1.0)]
    assert (values[0] == values[1]) == metric.ranks
    assert (metric in ranking_metrics()) != (metric in probability_metrics())


def test_the_page_of_statistics_has_every_metric() -> None:
    page = (ROOT / "docs/statistics.md").read_text(encoding="utf-8")
    keys = set(re.findall(r"^\| `([^|]*)` \|", page, re.MULTILINE))
    named = {name.removeprefix("after.") for cell in keys for name in cell.replace("`", "").split(", ")}
    assert set(METRICS) - {"wll_balanced"} <= named  # which stands in the line of `wll`
    assert "`wll_balanced`" in page


def brier(rows: Rows) -> float:
    return float(np.mean((rows.probability - rows.is_positive) ** 2))


def brier_influence(rows: Rows, value: float) -> Array:
    squares: Array = (rows.probability - rows.is_positive) ** 2
    return (squares - value) / rows.label.size


def test_one_entry_in_the_table_is_a_new_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that the docs show: in evaluate with its error, before and after calibration, in `qin compare`."""
    monkeypatch.setitem(METRICS, "brier", Metric("brier", brier, brier_influence, lower_is_better=True))
    half = report_half_of()
    label = half.scored.label
    probability = 1.0 / (1.0 + np.exp(-half.calibrated))
    squares = (probability - label) ** 2
    figures = evaluate(half, num_bins=10)["after"]
    assert figures["brier"] == pytest.approx(squares.mean(), rel=1e-12)
    assert figures["brier_se"] == pytest.approx(squares.std(ddof=1) / np.sqrt(label.size), rel=0.01)
    assert half.report.after["brier"] == pytest.approx(squares.mean(), rel=1e-12)

    noisy = half.calibrated + 2.0 * np.random.default_rng(0).normal(size=label.size)
    rows = SharedRows(
        names=("good", "noisy"),
        row=half.scored.row,
        label=label,
        calibrated=(half.calibrated, noisy),
        base_rates=(0.04, 0.04),
        num_unshared=(0, 0),
    )
    found = compare_runs(rows)
    assert list(found) == [*(metric.name for metric in compared_metrics()), "score_natural", "score_balanced"]
    influence = brier_influence(Rows(half.calibrated, label), 0.0) - brier_influence(Rows(noisy, label), 0.0)
    expected = standard_error(influence - influence.mean(), label == 1)
    assert found["brier"].standard_error == pytest.approx(expected, rel=1e-6)
    assert verdict("brier", found["brier"]) == "A better"  # the smaller one
