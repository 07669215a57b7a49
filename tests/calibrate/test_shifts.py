"""Shifts by segment: exact posterior modes and marginal likelihood, and what shrinkage promises."""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad

from qin.calibrate.shifts import SegmentShifts, _Rows, fit_shifts
from qin.metrics import logits
from qin.raw.segments import Segments

Array = NDArray[Any]


def drawn(
    num_rows: list[int] | Array, *, shift: list[float] | Array, seed: int = 0, mean: float = -3.0
) -> tuple[Array, Array, Segments]:
    """Logits, clicks, and segments `0`, `1`, ... of given sizes and true shifts, in shuffled row order."""
    rng = np.random.default_rng(seed)
    code = rng.permutation(np.repeat(np.arange(len(num_rows)), num_rows)).astype(np.int32)
    logit = rng.normal(mean, 1.0, code.size)
    is_positive = rng.random(code.size) < 1.0 / (1.0 + np.exp(-logit - np.asarray(shift)[code]))
    return logit, is_positive, Segments(tuple(str(number) for number in range(len(num_rows))), code)


def fitted(logit: Array, is_positive: Array, segments: Segments) -> SegmentShifts:
    return fit_shifts(logit, is_positive, segments, column="hour")


def own_shift(logit: Array, is_positive: Array) -> float:
    """The shift that alone makes expected clicks meet clicks, by bisection."""
    low, high = -10.0, 10.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        if (1.0 / (1.0 + np.exp(-logit - middle))).sum() < is_positive.sum():
            low = middle
        else:
            high = middle
    return low


def log_posterior(shift: float, logit: Array, is_positive: Array, tau: float) -> float:
    """Of one segment, up to the normal density's constant."""
    eta = logit + shift
    return -float(np.logaddexp(0.0, np.where(is_positive, -eta, eta)).sum()) - 0.5 * (shift / tau) ** 2


@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0])
def test_marginal_likelihood_equals_numeric_integration(tau: float) -> None:
    """Over segments from one row to many, with no click, some, and clicks alone."""
    logit, is_positive, segments = drawn([1, 1, 5, 40, 400, 3], shift=[0.0, 8.0, 0.0, 0.5, -0.5, 9.0])
    rows = _Rows(logit, is_positive, segments.code.astype(np.int64), num_segments=6)
    mode = rows.modes(tau, np.zeros(6))
    plain, exact = 0.0, 0.0
    for code in range(6):
        own = logit[segments.code == code], is_positive[segments.code == code]
        at_mode = log_posterior(mode[code], *own, tau)

        def density(x: float, own: tuple[Array, Array] = own, top: float = at_mode) -> float:
            return math.exp(log_posterior(x, *own, tau) - top)

        integral = quad(density, -12.0, 12.0, points=[mode[code]], epsabs=1e-12, limit=200)[0]
        exact += at_mode + math.log(integral / (tau * math.sqrt(2.0 * math.pi)))
        probability = 1.0 / (1.0 + np.exp(-own[0] - mode[code]))
        plain += at_mode - 0.5 * math.log1p(tau**2 * float((probability * (1.0 - probability)).sum()))
    found = rows.likelihood(tau, mode)
    assert found == pytest.approx(exact, abs=0.02)
    assert abs(found - exact) <= 0.3 * abs(plain - exact)  # the correction earns its place


def test_modes_are_where_the_posterior_is_flat() -> None:
    logit, is_positive, segments = drawn([1, 3, 50, 2000], shift=[0.0, 9.0, -1.0, 1.0])
    rows = _Rows(logit, is_positive, segments.code.astype(np.int64), num_segments=4)
    for tau in (0.1, 1.0, 4.0):
        mode = rows.modes(tau, np.zeros(4))
        np.testing.assert_allclose(rows.slopes(mode)[0], mode / tau**2, atol=1e-8)
        np.testing.assert_allclose(rows.modes(tau, np.full(4, 30.0)), mode, atol=1e-9)  # from a bad start too


def test_true_spread_is_recovered_and_shifts_beat_both_extremes() -> None:
    """Small and large segments of known spread: closer to the truth than none and than each segment's own rate."""
    rng = np.random.default_rng(1)
    num_rows = rng.integers(5, 400, 150)
    shift = rng.normal(0.0, 0.5, 150)
    logit, is_positive, segments = drawn(num_rows, shift=shift, seed=2)
    fit = fitted(logit, is_positive, segments)
    assert fit.tau == pytest.approx(0.5, rel=0.2)
    assert fit.p_value < 1e-6
    found = np.array([fit.shift[str(code)] for code in range(150)])
    own = np.array([own_shift(logit[segments.code == code], is_positive[segments.code == code]) for code in range(150)])
    error, own_error = np.mean((found - shift) ** 2), np.mean((own - shift) ** 2)
    assert error < 0.7 * np.mean(shift**2)
    assert error < 0.5 * own_error
    deviations = (found - shift) / np.array([fit.standard_error[str(code)] for code in range(150)])
    assert np.mean(deviations**2) == pytest.approx(1.0, abs=0.3)


def test_a_large_segment_keeps_its_own_rate_a_small_one_the_global_one() -> None:
    num_rows = [30_000, 2, *[500] * 20]
    logit, is_positive, segments = drawn(num_rows, shift=[0.8, 0.8, *np.linspace(-0.6, 0.6, 20)])
    is_positive[segments.code == 1] = [False, False]
    fit = fitted(logit, is_positive, segments)
    of_large = segments.code == 0
    assert fit.shift["0"] == pytest.approx(own_shift(logit[of_large], is_positive[of_large]), abs=0.005)
    assert abs(fit.shift["1"]) < 0.1 * fit.tau
    assert fit.num_rows["0"] == 30_000
    is_positive[segments.code == 1] = [True, False]  # one click in two rows is worth at most tau^2, not their rate
    with_click = fitted(logit, is_positive, segments)
    assert 0.0 < with_click.shift["1"] < with_click.tau**2
    expected = (1.0 / (1.0 + np.exp(-logit[of_large] - fit.shift["0"]))).sum()
    assert expected == pytest.approx(is_positive[of_large].sum(), rel=0.005)


def test_equal_segments_are_not_shifted() -> None:
    """Clicks that meet every segment's expectation better than chance allow no spread at all."""
    logit = np.tile([-1.0, -2.0, 0.5, 1.0], 500)
    expected = 1.0 / (1.0 + np.exp(-logit))
    is_positive = np.arange(2000) // 4 % 100 < 100.0 * expected
    code = np.repeat(np.arange(5), 400).astype(np.int32)
    fit = fitted(logit, is_positive, Segments(tuple("abcde"), code))
    assert (fit.tau, fit.statistic, fit.p_value) == (0.0, 0.0, 1.0)
    assert set(fit.shift.values()) == set(fit.standard_error.values()) == {0.0}


def test_chance_alone_gives_shifts_within_their_error() -> None:
    """Without heterogeneity half of the samples give tau = 0, and the others next to nothing."""
    fits = [fitted(*drawn([100] * 50, shift=np.zeros(50), seed=seed)) for seed in range(8)]
    assert 1 <= sum(fit.tau == 0.0 for fit in fits) <= 7
    largest = [max(abs(value) for value in fit.shift.values()) for fit in fits]
    assert np.median(largest) < 0.1
    assert sum(fit.p_value < 0.05 for fit in fits) <= 2


def test_names_without_rows_and_unseen_names_get_no_shift() -> None:
    logit, is_positive, segments = drawn([500, 500, 500], shift=[0.5, -0.5, 0.0])
    spaced = Segments(("a", "b", "c", "d", "e"), segments.code * 2)
    fit = fitted(logit, is_positive, spaced)
    assert list(fit.shift) == list(fit.num_rows) == ["a", "c", "e"]
    unseen = Segments(("b", "c", "zz"), np.array([2, 1, 0], np.int32))
    np.testing.assert_array_equal(fit.of_rows(unseen), [0.0, fit.shift["c"], 0.0])


def test_row_order_and_chunks_have_no_influence(monkeypatch: pytest.MonkeyPatch) -> None:
    logit, is_positive, segments = drawn([300, 50, 400], shift=[0.5, -1.0, 0.0])
    fit = fitted(logit, is_positive, segments)
    monkeypatch.setattr(logits, "_CHUNK_ROWS", 64)
    order = np.random.default_rng(0).permutation(logit.size)
    other = fitted(logit[order], is_positive[order], Segments(segments.names, segments.code[order]))
    assert other.tau == pytest.approx(fit.tau, rel=1e-6)
    assert dict(other.shift) == pytest.approx(dict(fit.shift), rel=1e-6)


def test_shifts_survive_json() -> None:
    fit = fitted(*drawn([300, 50, 400], shift=[0.5, -1.0, 0.0]))
    assert SegmentShifts.from_dict(json.loads(json.dumps(asdict(fit)))) == fit


@pytest.mark.slow
@pytest.mark.parametrize(("num_segments", "num_rows", "tau"), [(500, 40, 0.5), (2000, 10, 1.0), (50, 2000, 0.2)])
def test_spread_is_unbiased_over_samples(num_segments: int, num_rows: int, tau: float) -> None:
    """Also with less than one click per segment, where the plain approximation is low."""
    rng = np.random.default_rng(0)
    taus = [
        fitted(*drawn([num_rows] * num_segments, shift=rng.normal(0.0, tau, num_segments), seed=seed, mean=-3.5)).tau
        for seed in range(12)
    ]
    error = float(np.std(taus, ddof=1)) / math.sqrt(12)
    assert abs(float(np.mean(taus)) - tau) < max(3.0 * error, 0.03 * tau)
