"""The numbers a model reads: against their formulas, exactly 0 where nothing is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.columns.counted import RATE, SHARE
from qin.features.counting import KeyCounts
from qin.features.rates import Prior, find, measure


def counts_of(clicks: list[int], rows: list[int]) -> KeyCounts:
    return KeyCounts(np.array(clicks, np.uint32), np.array(rows, np.uint32))


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(1e-6, 1 - 1e-6), st.floats(0.1, 1e3))
def test_a_rate_is_a_difference_of_smoothed_log_odds(clicks: int, others: int, base: float, weight: float) -> None:
    value = measure(RATE, counts_of([clicks], [clicks + others]), np.zeros(1, np.int64), Prior(base, weight))
    smoothed = (clicks + weight * base) / (clicks + others + weight)
    expected = math.log(smoothed / (1 - smoothed)) - math.log(base / (1 - base))
    assert value[0] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_what_was_never_seen_has_the_base_rate_and_no_share() -> None:
    nothing, prior = counts_of([0], [0]), Prior(0.019, 20.0)
    assert measure(RATE, nothing, np.zeros(1, np.int64), prior).tolist() == [0.0]
    assert measure(SHARE, nothing, np.zeros(1, np.int64), prior).tolist() == [0.0]


def test_a_share_is_of_ten_thousand_rows_so_far() -> None:
    rows_so_far = np.array([0, 900, 99_900])
    shares = measure(SHARE, counts_of([0, 0, 0], [0, 1, 50]), rows_so_far, Prior(0.5, 1.0))
    assert shares.tolist() == [0.0, 10.0, 5.0]
    assert measure(SHARE, counts_of([0, 0], [1, 2]), rows_so_far[1:2], Prior(0.5, 1.0)).tolist() == [10.0, 20.0]


@settings(deadline=None)  # the first call compiles
@given(st.sets(st.integers(0, 2**64 - 1)), st.lists(st.integers(0, 2**64 - 1)))
def test_keys_are_found_where_they_are(keys: set[int], others: list[int]) -> None:
    ordered = sorted(keys)
    wanted = [*others, *ordered]
    found = find(np.array(ordered, np.uint64), np.array(wanted, np.uint64))
    assert found.tolist() == [ordered.index(key) if key in keys else -1 for key in wanted]
