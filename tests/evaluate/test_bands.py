"""Bands of the ranking curves: the formulas against plain counts, and their coverage by simulation."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from qin.evaluate.bands import Vertices, gain_effective_rows, precision_effective_rows, roc_effective_rows
from qin.evaluate.curves import Row, gains_curve, pr_curve, roc_curve, roc_vertices
from qin.metrics.ranking import ranking_counts
from tests.metrics.test_ranking import sample

Array = NDArray[Any]

FPR, RECALL, SHARE = (0.01, 0.05, 0.2, 0.5, 0.8), (0.1, 0.3, 0.6, 0.9), (0.01, 0.05, 0.2, 0.5)


def straight(num_positives: int, num_negatives: int) -> Vertices:
    """A random ranking's expected curve: one step of each class at a time."""
    steps = np.linspace(0.0, 1.0, 401)
    return Vertices(np.rint(steps * num_positives).astype(np.int64), np.rint(steps * num_negatives).astype(np.int64))


def test_vertices_are_the_corners_of_the_roc_polyline() -> None:
    vertices = roc_vertices(ranking_counts(np.array([3.0, 2.0, 2.0, 1.0]), np.array([0, 1, 0, 1])))
    assert vertices.false_positives.tolist() == [0, 1, 2, 2, 2, 2]
    assert vertices.true_positives.tolist() == [0, 0, 1, 1, 2, 2]


def test_slope_of_a_straight_curve_is_one() -> None:
    np.testing.assert_allclose(straight(400, 4_000).slope(), 1.0, rtol=0.02)


def test_on_a_straight_curve_the_errors_are_those_of_plain_rates() -> None:
    num_positives, num_negatives = 400, 4_000
    vertices, middle = straight(num_positives, num_negatives), 200
    # both classes' rates at one threshold vary by p (1 - p) / n, and the slope is 1
    assert 1.0 / roc_effective_rows(vertices)[middle] == pytest.approx(1 / num_positives + 1 / num_negatives, rel=0.02)
    # elasticity 1: the precision is a rate among the rows above the threshold
    assert precision_effective_rows(vertices)[middle] == pytest.approx(num_positives / 2 + num_negatives / 2, rel=0.02)
    # of a ranking that says nothing, the best half holds a binomial number of the clicks
    half, slope = np.array([0.5]), np.array([1.0])
    rate = num_positives / (num_positives + num_negatives)
    effective = gain_effective_rows(half, half, slope=slope, base_rate=rate, num_rows=num_positives + num_negatives)
    assert effective[0] == pytest.approx(num_positives / (1.0 - rate), rel=1e-3)


def test_bands_hold_their_curve_and_exist_at_its_ends() -> None:
    counts = ranking_counts(*sample(2_000))
    for rows, value in ((roc_curve(counts), "tpr"), (pr_curve(counts), "precision"), (gains_curve(counts), "gain")):
        for row in rows:
            assert 0.0 <= float(row["lower"]) <= float(row[value]) <= float(row["upper"]) <= 1.0
            assert float(row["upper"]) - float(row["lower"]) > 1e-3


def test_one_tie_wider_than_the_window_has_a_slope() -> None:
    vertices = Vertices(np.array([0, 0, 500, 500]), np.array([0, 0, 900, 900]))
    np.testing.assert_allclose(vertices.slope(), 1.0, rtol=0.01)


def truth(num_rows: int, *, base_rate: float, shift: float, spread: float) -> dict[str, list[float]]:
    """True values of the curves of two normal classes."""

    def above(threshold: float, of_clicks: bool) -> float:
        return float(norm.sf((threshold - shift) / spread) if of_clicks else norm.sf(threshold))

    def share_above(threshold: float) -> float:
        return base_rate * above(threshold, True) + (1.0 - base_rate) * above(threshold, False)

    precision = []
    for recall in RECALL:
        fpr = above(shift + spread * float(norm.isf(recall)), False)
        precision.append(base_rate * recall / (base_rate * recall + (1.0 - base_rate) * fpr))
    return {
        "roc": [above(float(norm.isf(fpr)), True) for fpr in FPR],
        "pr": precision,
        "gains": [above(brentq(lambda t, s=share: share_above(t) - s, -9.0, 9.0), True) for share in SHARE],
    }


def covered(rows: list[Row], axis: str, at: tuple[float, ...], values: list[float]) -> Array:
    """Whether the band at each abscissa holds the true value."""
    position = np.array([row[axis] for row in rows])
    found = [rows[int(np.argmax(position >= value - 1e-9))] for value in at]
    return np.array(
        [float(row["lower"]) <= value <= float(row["upper"]) for row, value in zip(found, values, strict=True)]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_rows", "base_rate", "shift", "spread"),
    [(5_000, 0.02, 1.2, 1.0), (1_000, 0.3, 1.0, 1.0), (5_000, 0.02, 0.6, 1.5)],
)
def test_bands_cover_the_true_curve(num_rows: int, base_rate: float, shift: float, spread: float) -> None:
    generator, num_draws = np.random.default_rng(0), 1_000
    true = truth(num_rows, base_rate=base_rate, shift=shift, spread=spread)
    hits = {name: np.zeros(len(values)) for name, values in true.items()}
    for _ in range(num_draws):
        label = (generator.random(num_rows) < base_rate).astype(np.int64)
        logit = generator.normal(size=num_rows) * np.where(label == 1, spread, 1.0) + shift * label
        counts = ranking_counts(logit, label)
        hits["roc"] += covered(roc_curve(counts, num_points=num_rows), "fpr", FPR, true["roc"])
        hits["pr"] += covered(pr_curve(counts, num_points=num_rows), "recall", RECALL, true["pr"])
        hits["gains"] += covered(gains_curve(counts), "share", SHARE, true["gains"])
    for name, count in hits.items():
        # 1000 draws of a 95% interval lie within 2 points; a first-order band may be another point or two off
        assert (count / num_draws >= 0.92).all(), (name, count / num_draws)
        assert (count / num_draws <= 0.985).all(), (name, count / num_draws)
