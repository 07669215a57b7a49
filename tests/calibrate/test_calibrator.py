"""The calibrator's equations, that it increases, and what it refuses."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.calibrate.calibrator import Calibrator
from qin.calibrate.methods import Method
from qin.calibrate.shifts import SegmentShifts
from qin.metrics import logits
from qin.raw.segments import Segments

SHIFTS = SegmentShifts(
    column="hour",
    tau=0.5,
    statistic=3.0,
    p_value=0.04,
    num_rows={"7": 10, "null": 20},
    shift={"7": 0.25, "null": -1.0},
    standard_error={"7": 0.1, "null": 0.2},
)
EXAMPLES = [
    Calibrator("identity", {}, offset=-1.0),
    Calibrator("temperature", {"temperature": 2.0}, offset=-1.0),
    Calibrator("platt", {"a": 0.5, "b": 0.3}, offset=-1.0),
    Calibrator("beta", {"a": 0.5, "b": 2.0, "c": 0.3}, offset=-1.0),
    Calibrator("beta", {"a": 0.0, "b": 2.0, "c": 0.3}, offset=-1.0),
]


def by_hand(calibrator: Calibrator, z: float) -> float:
    """The module's equations in plain floats."""
    number, p = calibrator.parameters, 1.0 / (1.0 + math.exp(-z))
    match calibrator.method:
        case "identity":
            return z
        case "temperature":
            return z / number["temperature"]
        case "platt":
            return number["a"] * z + number["b"]
        case "beta":
            return number["a"] * math.log(p) - number["b"] * math.log(1.0 - p) + number["c"]


@pytest.mark.parametrize("calibrator", EXAMPLES)
def test_calibrator_follows_its_equation(calibrator: Calibrator) -> None:
    for logit in (-6.0, -0.5, 3.0):
        calibrated = calibrator.apply(np.array([logit], dtype=np.float32))
        assert calibrated.dtype == np.float64
        assert calibrated[0] == pytest.approx(by_hand(calibrator, logit - 1.0), rel=1e-12)


def test_beta_of_ones_is_the_identity_and_its_tails_are_straight() -> None:
    logit = np.array([-800.0, -30.0, 0.0, 5.0, 800.0])
    np.testing.assert_allclose(Calibrator("beta", {"a": 1.0, "b": 1.0, "c": 0.0}).apply(logit), logit, atol=1e-13)
    bent = Calibrator("beta", {"a": 0.5, "b": 2.0, "c": 0.0}).apply(logit)
    np.testing.assert_allclose(bent[[0, -1]], [-400.0, 1600.0], rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    calibrator=st.sampled_from(EXAMPLES),
    logit=st.lists(st.floats(-60.0, 60.0), min_size=2, max_size=20),
)
def test_calibrators_never_turn_the_order_round(calibrator: Calibrator, logit: list[float]) -> None:
    calibrated = calibrator.apply(np.sort(np.array(logit)))
    assert (np.diff(calibrated) >= 0.0).all()
    assert np.isfinite(calibrated).all()


@pytest.mark.parametrize("calibrator", EXAMPLES)
def test_division_into_calls_and_chunks_changes_no_bit(calibrator: Calibrator, monkeypatch: pytest.MonkeyPatch) -> None:
    logit = np.random.default_rng(0).normal(-3.0, 2.0, 1001)
    whole = calibrator.apply(logit)
    np.testing.assert_array_equal(np.concatenate([calibrator.apply(logit[:333]), calibrator.apply(logit[333:])]), whole)
    monkeypatch.setattr(logits, "_CHUNK_ROWS", 100)
    np.testing.assert_array_equal(calibrator.apply(logit), whole)


def test_segments_add_their_shift_and_unknown_ones_nothing() -> None:
    calibrator = Calibrator("platt", {"a": 2.0, "b": 0.5}, segments=SHIFTS)
    segments = Segments(("7", "8", "null"), np.array([0, 1, 2, 0], np.int32))
    np.testing.assert_array_equal(calibrator.apply(np.zeros(4), segments), [0.75, 0.5, -0.5, 0.75])
    for wrong in (None, Segments(("7",), np.zeros(3, np.int32))):
        with pytest.raises(ValueError, match="the calibrator needs the hour of each of 4 rows"):
            calibrator.apply(np.zeros(4), wrong)


def test_temperature_is_one_number_only_where_there_is_one() -> None:
    assert [calibrator.temperature for calibrator in EXAMPLES] == [1.0, 2.0, None, None, None]


def test_only_an_intercept_or_segments_fit_the_prior() -> None:
    assert [calibrator.fits_prior for calibrator in EXAMPLES] == [False, False, True, True, True]
    assert Calibrator("temperature", {"temperature": 2.0}, segments=SHIFTS).fits_prior


@pytest.mark.parametrize("segments", [None, SHIFTS])
@pytest.mark.parametrize("calibrator", EXAMPLES)
def test_calibrator_survives_json(calibrator: Calibrator, segments: SegmentShifts | None) -> None:
    original = Calibrator(calibrator.method, calibrator.parameters, calibrator.offset, segments)
    assert Calibrator.from_dict(json.loads(json.dumps(original.to_dict()))) == original


@pytest.mark.parametrize(
    ("method", "parameters", "offset", "message"),
    [
        ("isotonic", {}, 0.0, "method must be one of .*: method='isotonic'"),
        ("temperature", {}, 0.0, r"method temperature has the parameters \('temperature',\): {}"),
        ("identity", {"temperature": 1.0}, 0.0, "method identity has the parameters"),
        ("platt", {"a": 1.0, "c": 1.0}, 0.0, r"method platt has the parameters \('a', 'b'\)"),
        ("temperature", {"temperature": True}, 0.0, "temperature must be a finite number: temperature=True"),
        ("temperature", {"temperature": "1.0"}, 0.0, "temperature must be a finite number: temperature='1.0'"),
        ("temperature", {"temperature": math.nan}, 0.0, "temperature must be a finite number"),
        ("temperature", {"temperature": 0.0}, 0.0, "temperature must be positive: temperature=0.0"),
        ("temperature", {"temperature": -1.0}, 0.0, "temperature must be positive: temperature=-1.0"),
        ("identity", {}, math.inf, "offset must be a finite number: offset=inf"),
        ("identity", {}, None, "offset must be a finite number: offset=None"),
        ("platt", {"a": 0.0, "b": 1.0}, 0.0, "a must be positive for platt: a=0.0"),
        ("beta", {"a": -0.1, "b": 1.0, "c": 0.0}, 0.0, "a and b must not be negative for beta"),
        ("beta", {"a": 0.0, "b": 0.0, "c": 0.0}, 0.0, "nor both 0: a=0.0, b=0.0"),
    ],
)
def test_a_damaged_calibrator_is_refused(method: Method, parameters: dict[str, Any], offset: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calibrator(method, parameters, offset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift": {"7": math.nan}}, "a shift must be a finite number: 7=nan"),
        ({"shift": {"7": None}}, "a shift must be a finite number: 7=None"),
        ({"tau": "1"}, "a shift must be a finite number: tau='1'"),
        ({"extra": 1}, r"unknown=\['extra'\]"),
    ],
)
def test_damaged_shifts_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentShifts.from_dict({**Calibrator("identity", {}, 0.0, SHIFTS).to_dict()["segments"], **change})
