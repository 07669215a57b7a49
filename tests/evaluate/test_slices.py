"""Figures by the value of a column against the same figures of those rows alone."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from qin.evaluate.slices import (
    CALIBRATION_COLUMNS,
    largest_segments,
    slice_calibration_rows,
    slice_figures,
    with_fingerprint,
)
from qin.metrics.intervals import wilson_interval
from qin.metrics.logits import sigmoid
from qin.metrics.standard_errors import standard_error
from qin.raw.segments import Segments
from tests.metrics.figures import calibration_ratio_estimate, ranking_estimates
from tests.metrics.test_ranking import sample

Array = NDArray[Any]


def segments_of(values: list[str]) -> Segments:
    names, code = np.unique(values, return_inverse=True)
    return Segments(tuple(names.tolist()), code.astype(np.int32))


def test_figures_are_those_of_the_rows_alone() -> None:
    logit, label = sample(6_000)
    rng = np.random.default_rng(1)
    segments = Segments(("a", "b", "c"), rng.integers(0, 3, label.size).astype(np.int32))
    cluster = rng.integers(0, 900, label.size)
    calibrated = 0.9 * logit - 0.2
    found = slice_figures(logit, calibrated, label, segments=segments, cluster=cluster)
    assert list(found) == ["a", "b", "c"]
    for code, figures in enumerate(found.values()):
        rows = segments.code == code
        assert figures["rows"] == rows.sum()
        assert figures["base_rate"] == label[rows].mean()
        assert figures["ap"] == pytest.approx(average_precision_score(label[rows], logit[rows]), abs=1e-12)
        assert figures["auc"] == pytest.approx(roc_auc_score(label[rows], logit[rows]), abs=1e-12)
        ratio = sigmoid(calibrated[rows]).sum() / label[rows].sum()
        assert figures["calibration_ratio"] == pytest.approx(ratio, rel=1e-12)
        estimates = ranking_estimates(logit[rows], label[rows])
        for name, estimate in estimates.items():
            error = standard_error(estimate.influence, label[rows] == 1, cluster=cluster[rows])
            assert figures[f"{name}_se"] == error
        assert 0.0 < figures["ap_lower"] < figures["ap"] < figures["ap_upper"] < 1.0
        of_ratio = calibration_ratio_estimate(calibrated[rows], label[rows])
        error = standard_error(of_ratio.influence, label[rows] == 1, cluster=cluster[rows])
        assert figures["calibration_ratio_se"] == error


def test_what_one_class_cannot_tell_is_none_and_keys_stay() -> None:
    logit, label = np.arange(8.0), np.array([0, 0, 0, 0, 1, 0, 1, 1])
    segments = segments_of(list("aaaabbbb"))
    found = slice_figures(logit, logit, label, segments=segments)
    assert list(found["a"]) == list(found["b"])
    assert found["a"] == {
        "rows": 4,
        "base_rate": 0.0,
        **dict.fromkeys(("ap", "ap_se", "ap_lower", "ap_upper", "auc", "auc_se")),
        **dict.fromkeys(("calibration_ratio", "calibration_ratio_se")),
    }
    assert found["b"]["auc"] == pytest.approx(2 / 3)
    assert found["b"]["auc_se"] is None  # one negative
    assert found["b"]["calibration_ratio"] == pytest.approx(sigmoid(logit[4:]).sum() / 3)


def test_values_with_few_rows_are_pooled_last() -> None:
    segments = segments_of(["x"] * 5 + ["a"] * 2 + ["q"] * 3 + ["b"] * 2 + ["c"])
    pooled = largest_segments(segments, max_values=3)
    assert pooled.names == ("a", "q", "x", "other")  # of a and b, the first by name
    names = [pooled.names[code] for code in pooled.code]
    assert names == ["x"] * 5 + ["a"] * 2 + ["q"] * 3 + ["other"] * 3
    assert largest_segments(segments, max_values=5) is segments


def test_a_value_named_other_is_not_pooled_into() -> None:
    segments = segments_of(["other"] * 3 + ["a"] * 2 + ["b"])
    pooled = largest_segments(segments, max_values=2)
    assert pooled.names == ("a", "other", "other values")
    assert pooled.code.tolist() == [1, 1, 1, 0, 0, 2]


def test_calibration_rows_hold_means_and_wilson_intervals() -> None:
    logit, label = sample(1_000)
    segments = segments_of(["a"] * 300 + ["c"] * 700)
    unused = Segments(("a", "b", "c"), np.where(segments.code == 0, 0, 2).astype(np.int32))
    found = slice_calibration_rows("shop", logit, label, segments=unused)
    assert [tuple(row) for row in found] == [CALIBRATION_COLUMNS] * 2
    assert [(row["column"], row["value"], row["num_rows"]) for row in found] == [("shop", "a", 300), ("shop", "c", 700)]
    for row, rows in zip(found, (slice(300), slice(300, None)), strict=True):
        assert row["predicted"] == pytest.approx(sigmoid(logit[rows]).mean(), rel=1e-12)
        assert row["observed"] == label[rows].mean()
        assert (row["lower"], row["upper"]) == wilson_interval(int(label[rows].sum()), num_rows=label[rows].size)


def test_the_pool_is_no_value() -> None:
    segments = segments_of(["other"] * 3 + ["other values"] * 2 + ["b"])
    assert largest_segments(segments, max_values=2).names == ("other", "other values", "other values values")


def test_very_long_values_have_names_of_their_own() -> None:
    long = ["x" * 200_000 + end for end in "ab"]
    for max_values in (1, 5):
        names = largest_segments(segments_of([*long, long[0], "c"]), max_values=max_values).names
        assert len(set(names)) == len(names)
        assert max(map(len, names)) < 300
        assert names[-1] == "other" or "c" in names
    assert largest_segments(segments_of([*long, "c"])).names[1].startswith("x" * 256 + "... ")


def test_the_fingerprint_takes_no_columns_place() -> None:
    figures = {"a": {"rows": 1}}
    assert with_fingerprint({"tab": figures}, "f") == {"tab": figures, "origin": "f"}
    slices = {"origin": figures, "origin.": figures}
    assert with_fingerprint(slices, "f") == {**slices, "origin..": "f"}
