"""Curve points against scikit-learn and scipy, and the DVC plot templates that draw them."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vl_convert
from dvc_render import VegaRenderer
from numpy.typing import NDArray
from sklearn.metrics import auc, average_precision_score, precision_recall_curve
from sklearn.metrics import roc_curve as reference_roc_curve

from qin.evaluate.curves import Row, gains_curve, pr_curve, reliability_curve, roc_curve, score_histogram
from qin.evaluate.importance import COLUMNS as IMPORTANCE_COLUMNS
from qin.metrics.ranking import ranking_counts
from tests.metrics.figures import ranking_metrics
from tests.metrics.test_ranking import sample

Array = NDArray[Any]
TEMPLATES = Path(__file__).parents[2] / ".dvc" / "plots"
OLDEST_VEGA_LITE = "5.8"  # DVC's page loads 5.2; this is the nearest that vl_convert has


def column(rows: list[Row], name: str) -> Array:
    return np.array([row[name] for row in rows])


@pytest.mark.parametrize("decimals", [1, 6])
def test_pr_points_lie_on_the_exact_curve_and_keep_its_ends_and_area(decimals: int) -> None:
    logit, label = sample(50_000)
    logit = np.round(logit, decimals)
    rows = pr_curve(ranking_counts(logit, label), num_points=400)
    precision, recall, threshold = precision_recall_curve(label, logit)
    exact = {(t, r, p) for t, r, p in zip(threshold, recall[:-1].round(12), precision[:-1].round(12), strict=True)}
    points = {(row["threshold"], round(float(row["recall"]), 12), round(float(row["precision"]), 12)) for row in rows}
    assert points <= exact
    assert len(rows) <= 400
    top = logit[label == 1].max()
    assert rows[0]["threshold"] == top
    assert rows[0]["recall"] == pytest.approx(np.sum(logit[label == 1] >= top) / label.sum())
    assert rows[-1]["recall"] == 1.0
    recalls = column(rows, "recall")
    assert (np.diff(recalls) > 0).all()
    area = np.dot(np.diff(recalls, prepend=0.0), column(rows, "precision"))
    assert area == pytest.approx(average_precision_score(label, logit), rel=0.02)
    assert set(column(rows, "base_rate")) == {label.mean()}


@pytest.mark.parametrize("decimals", [0, 6])
def test_roc_points_lie_on_the_exact_curve_and_keep_its_ends_and_area(decimals: int) -> None:
    logit, label = sample(50_000)
    logit = np.round(logit, decimals)
    rows = roc_curve(ranking_counts(logit, label), num_points=400)
    fpr, tpr, _ = reference_roc_curve(label, logit, drop_intermediate=False)
    exact = set(zip(fpr.round(12), tpr.round(12), strict=True))
    assert {(round(float(row["fpr"]), 12), round(float(row["tpr"]), 12)) for row in rows} <= exact
    assert len(rows) <= 400
    assert (rows[0]["fpr"], rows[0]["tpr"], rows[0]["lower"]) == (0.0, 0.0, 0.0)
    assert (rows[-1]["fpr"], rows[-1]["tpr"], rows[-1]["upper"]) == (1.0, 1.0, 1.0)
    assert (column(rows, "lower") <= column(rows, "tpr")).all()
    assert (column(rows, "upper") >= column(rows, "tpr")).all()
    area = auc(column(rows, "fpr"), column(rows, "tpr"))
    assert area == pytest.approx(ranking_metrics(logit, label)["auc"], abs=1e-3)


def test_short_curves_are_kept_whole() -> None:
    logit, label = np.array([3.0, 2.0, 2.0, 1.0, 0.0]), np.array([1, 0, 1, 0, 1])
    counts = ranking_counts(logit, label)
    rows = roc_curve(counts)
    assert auc(column(rows, "fpr"), column(rows, "tpr")) == pytest.approx(ranking_metrics(logit, label)["auc"])
    rows = pr_curve(counts)
    assert column(rows, "recall").tolist() == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert column(rows, "precision").tolist() == pytest.approx([1.0, 2 / 3, 3 / 5])


@pytest.mark.parametrize("decimals", [0, 6])
def test_gains_are_the_mean_over_random_orders_of_ties(decimals: int) -> None:
    logit, label = sample(1_000)
    logit = np.round(logit, decimals)
    rows = gains_curve(ranking_counts(logit, label))
    shares = column(rows, "share")
    assert (np.diff(shares) > 0).all()
    generator, gains = np.random.default_rng(0), np.zeros(shares.size)
    for _ in range(200):
        shuffled = generator.permutation(label.size)
        best_first = label[shuffled][np.argsort(-logit[shuffled], kind="stable")]
        caught = np.concatenate([[0.0], np.cumsum(best_first)])
        gains += np.interp(shares * label.size, np.arange(label.size + 1), caught) / label.sum() / 200
    np.testing.assert_allclose(column(rows, "gain"), gains, atol=0.015 if decimals == 0 else 1e-12)
    np.testing.assert_allclose(column(rows, "lift"), column(rows, "gain") / shares, rtol=1e-12)
    np.testing.assert_allclose(column(rows, "perfect"), np.minimum(shares * label.size / label.sum(), 1.0), rtol=1e-12)
    assert rows[-1]["gain"] == rows[-1]["lift"] == rows[-1]["perfect"] == 1.0


def test_a_curve_needs_two_points() -> None:
    counts = ranking_counts(*sample(200))
    with pytest.raises(ValueError, match="num_points must be at least 2: num_points=1"):
        pr_curve(counts, num_points=1)
    with pytest.raises(ValueError, match="num_points must be at least 2"):
        roc_curve(counts, num_points=0)


def test_reliability_rows_are_the_bins_of_both_series() -> None:
    logit, label = sample(2_000)
    before = 2.0 * logit
    rows = reliability_curve(before, logit, label, num_bins=10)
    assert [(row["series"], row["bin"]) for row in rows] == [(s, b) for s in ("before", "after") for b in range(1, 11)]
    order = np.argsort(logit)
    for number, members in enumerate(np.split(order, 10)):
        for row, series in ((rows[number], before), (rows[10 + number], logit)):
            assert row["num_rows"] == 200
            assert row["observed"] == label[members].mean()
            assert row["probability"] == pytest.approx((1.0 / (1.0 + np.exp(-series[members]))).mean(), rel=1e-12)


def test_histogram_counts_every_row_and_each_class_has_area_one() -> None:
    logit, label = sample(10_000)
    logit[:3] = (-40.0, 40.0, -800.0)  # below, at the top of, and far below the grid
    rows = score_histogram(logit, label)
    assert len(rows) == 240
    for clicked in (0, 1):
        members = [row for row in rows if row["label"] == clicked]
        assert sum(int(row["num_rows"]) for row in members) == np.sum(label == clicked)
        assert sum(float(row["density"]) for row in members) / 20 == pytest.approx(1.0, rel=1e-12)


def test_histogram_bins_hold_their_probabilities_and_leave_an_empty_margin() -> None:
    probability = np.array([0.0105, 0.0105, 0.2])
    rows = score_histogram(np.log(probability / (1.0 - probability)), np.array([1, 0, 0]))
    centres = column(rows[: len(rows) // 2], "probability")
    np.testing.assert_allclose(np.diff(np.log10(centres)), 0.05, rtol=1e-9)
    filled = [row for row in rows if row["num_rows"]]
    for row, expected in zip(filled, (0.0105, 0.2, 0.0105), strict=True):
        assert abs(np.log10(float(row["probability"]) / expected)) <= 0.025
    assert rows[0]["num_rows"] == rows[-1]["num_rows"] == 0


# Templates


def plot_rows() -> dict[str, list[Row]]:
    logit, label = sample(3_000)
    counts = ranking_counts(logit, label)
    checks: list[Row] = [
        {
            "epoch": c / 4,
            "step": 9 * c,
            "train_loss": 0.1,
            "val_log_loss": 0.1,
            "val_ap": 0.1,
            "val_auc": 0.7,
            "lr": 0.1,
        }
        for c in (1, 2)
    ]
    return {
        "pr": pr_curve(counts),
        "roc": roc_curve(counts),
        "gains": gains_curve(counts),
        "importance": [
            {"name": name, "kind": kind, "rank": rank, **dict.fromkeys(IMPORTANCE_COLUMNS[3:], 0.001 / rank)}
            for kind, names in (("field", ("hour", "seq")), ("pair", ("hour x seq",)))
            for rank, name in enumerate(names, start=1)
        ],
        "reliability": reliability_curve(2.0 * logit, logit, label),
        "slices": [
            {
                "column": "hour",
                "value": value,
                "num_rows": 9,
                "predicted": 0.2,
                "observed": 0.1,
                "lower": 0.0,
                "upper": 0.3,
            }
            for value in ("1", "null")
        ],
        "score_histogram": score_histogram(logit, label),
        "training": checks,
        "trees": [{"trees": number, "val_log_loss": 0.1 / number} for number in (1, 2)],
    }


AXES = {
    "gains": ("share", "gain"),
    "importance": ("log_loss_rise", "name"),
    "slices": ("predicted", "observed"),
    "pr": ("recall", "precision"),
    "roc": ("fpr", "tpr"),
    "reliability": ("probability", "observed"),
    "score_histogram": ("probability", "density"),
    "training": ("step", "val_log_loss"),
    "trees": ("trees", "val_log_loss"),
}


def fields(spec: object) -> set[str]:
    """Every name under a `field` key of a Vega-Lite document, its data aside."""
    if isinstance(spec, list):
        return set().union(*map(fields, spec))
    if not isinstance(spec, dict):
        return set()
    inner = set().union(*(fields(value) for key, value in spec.items() if key != "values"))
    return inner | ({spec["field"]} if isinstance(spec.get("field"), str) else set())


def made_in_template(spec: object) -> set[str]:
    """Every name that a transform of a Vega-Lite document makes."""
    if isinstance(spec, list):
        return set().union(*map(made_in_template, spec))
    if not isinstance(spec, dict):
        return set()
    made = spec.get("as", [])
    inner = set().union(*(made_in_template(value) for key, value in spec.items() if key != "values"))
    return inner | set([made] if isinstance(made, str) else made)


def filled_template(name: str, rows: list[Row]) -> dict[str, Any]:
    """What `dvc plots diff` makes of two revisions; a CSV reader hands over every cell as text."""
    datapoints = [{**{k: str(v) for k, v in row.items()}, "rev": rev} for rev in ("workspace", "HEAD") for row in rows]
    x, y = AXES[name]
    renderer = VegaRenderer(
        datapoints, f"plots/{name}.csv", template=name, template_dir=str(TEMPLATES), x=x, y=y, title="Title"
    )
    filled: dict[str, Any] = renderer.get_filled_template()
    return filled


def test_every_template_has_rows_to_be_tested_with() -> None:
    assert {path.stem for path in TEMPLATES.glob("*.json")} == set(AXES)


@pytest.mark.parametrize("name", AXES)
def test_template_compiles_with_the_rows_of_its_curve(name: str) -> None:
    rows = plot_rows()[name]
    spec = filled_template(name, rows)
    assert "<DVC_METRIC" not in json.dumps(spec, allow_nan=False)
    vega = vl_convert.vegalite_to_vega(copy.deepcopy(spec), vl_version=OLDEST_VEGA_LITE)
    assert any("values" in source and len(source["values"]) == 2 * len(rows) for source in vega["data"])
    numbers = {name for name, value in rows[0].items() if not isinstance(value, str)} - {"bin"}
    assert set(spec["data"]["format"]["parse"]) == numbers  # otherwise text would be compared as text
    assert fields(spec) - made_in_template(spec) - {"rev"} <= set(rows[0])
    assert set(AXES[name]) <= fields(spec) | {"val_log_loss"}  # folded into `value`, hence no field of its own


@pytest.mark.parametrize("name", AXES)
def test_template_draws_each_revision_in_its_own_colour(name: str) -> None:
    svg = vl_convert.vegalite_to_svg(filled_template(name, plot_rows()[name]), vl_version=OLDEST_VEGA_LITE)
    for needed in ("#0072B2", "#D55E00", "workspace", "HEAD", "Title"):
        assert needed in svg
    assert "NaN" not in svg


@pytest.mark.parametrize("name", AXES)
def test_template_draws_each_label_of_a_revision_in_its_own_colour(name: str) -> None:
    rows = [{"of_label": label, **row} for label in ("clicked", "liked") for row in plot_rows()[name]]
    svg = vl_convert.vegalite_to_svg(filled_template(name, rows), vl_version=OLDEST_VEGA_LITE)
    for needed in ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "workspace, clicked", "HEAD, liked"):
        assert needed in svg
    assert "NaN" not in svg
