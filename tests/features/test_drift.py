"""The drift guard: silent on what stays, loud on what moves, and exact where its figures have a formula."""

import numpy as np
import pytest

from qin.features.drift import Drift, measure_drift, stability_index

NUM_ROWS = 20_000


def draw(seed: int, *, shift: float = 0.0, slope: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    values = (generator.normal(size=NUM_ROWS) + shift).astype(np.float32)
    label = generator.random(NUM_ROWS) < 1 / (1 + np.exp(3 - slope * values))
    return values, label.astype(np.uint8)


def reason_of(shift: float, slope: float) -> str | None:
    return measure_drift(*draw(0), *draw(1, shift=shift, slope=slope)).reason(max_psi=0.25)


def test_the_stability_index_is_its_formula() -> None:
    early, late = np.repeat([0.0, 1.0], [60, 40]), np.repeat([0.0, 1.0], [20, 80])
    # The third bin is for values beyond all of the earlier ones.
    p, q = np.array([60.5, 40.5, 0.5]) / 101.5, np.array([20.5, 80.5, 0.5]) / 101.5
    assert stability_index(early, late) == pytest.approx(float(((q - p) * np.log(q / p)).sum()))
    assert stability_index(early, early) == 0.0
    assert stability_index(early, np.full(10, 7.0)) < 20  # beyond every cut, and no infinity


def test_the_same_distribution_has_an_index_near_zero() -> None:
    assert measure_drift(*draw(0), *draw(1)).psi < 0.005


def test_spikes_that_tremble_are_kept_and_spikes_that_leave_are_not() -> None:
    """The rate of a field with four values, which settle while rows come in."""
    spikes = np.array([-1.0, -0.2, 0.1, 1.2])[np.arange(NUM_ROWS) % 4].astype(np.float32)
    label = (np.arange(NUM_ROWS) % 7 == 0).astype(np.uint8)
    assert stability_index(spikes.astype(np.float64), spikes + np.float64(0.03)) > 1  # bins alone see another world
    assert measure_drift(spikes, label, (spikes + 0.03).astype(np.float32), label).reason(max_psi=0.25) is None
    assert measure_drift(spikes, label, (spikes + 1).astype(np.float32), label).reason(max_psi=0.25) is not None


def test_a_movement_too_small_to_matter_is_no_drift() -> None:
    """Rates of a field that says nothing: all within hundredths of the base rate."""
    values = (draw(0)[0] * 0.01).astype(np.float32)
    assert measure_drift(values, draw(0)[1], values + np.float32(0.02), draw(0)[1]).reason(max_psi=0.25) is None


def test_what_stays_is_kept() -> None:
    assert all(measure_drift(*draw(2 * i), *draw(2 * i + 1)).reason(max_psi=0.25) is None for i in range(20))


def test_noise_is_kept_though_its_slope_changes_sign() -> None:
    drifts = [measure_drift(*draw(2 * i, slope=0.0), *draw(2 * i + 1, slope=0.0)) for i in range(20)]
    assert any(drift.slope is not None and drift.slope[0] * drift.slope[1] < 0 for drift in drifts)
    assert all(drift.reason(max_psi=0.25) is None for drift in drifts)


def test_a_distribution_that_moves_is_named() -> None:
    assert "distribution moved" in str(reason_of(shift=1.0, slope=0.5))


@pytest.mark.parametrize("slope", [-0.5, 0.0])
def test_an_effect_that_is_lost_or_turns_is_named(slope: float) -> None:
    assert "effect moved" in str(reason_of(shift=0.0, slope=slope))


@pytest.mark.parametrize("slope", [0.4, 0.9])
def test_an_effect_that_weakens_a_little_or_grows_is_kept(slope: float) -> None:
    assert reason_of(shift=0.0, slope=slope) is None


def test_an_effect_that_no_regression_can_tell_is_left_to_the_distribution() -> None:
    values, label = np.arange(10, dtype=np.float32), (np.arange(10) >= 5).astype(np.uint8)
    assert measure_drift(values, label, values, label) == Drift(0.0, None, None)
    assert measure_drift(values, np.zeros(10, np.uint8), values, label).reason(max_psi=0.25) is None
