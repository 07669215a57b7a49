"""Ranks within groups against loops; nothing depends on where the rows of a group stand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.features import ranks
from qin.features.ranks import difference_from_first, first_times, group_rows, rank_within, sizes

VALUES = st.sampled_from([0.0, -0.0, 1.0, 2.5, -3.0, 1e30, float("nan")]) | st.floats(-9, 9, width=32)
LOGS = st.lists(st.tuples(st.sampled_from([0, 1, 2**64 - 1, 7]), VALUES), min_size=1, max_size=60)


@settings(deadline=None)  # the first call compiles
@given(LOGS)
def test_ranks_are_those_of_a_loop(log: list[tuple[int, float]]) -> None:
    keys, values = np.array([row[0] for row in log], np.uint64), np.array([row[1] for row in log], np.float32)
    groups = group_rows(keys)
    ranked = rank_within(groups, values)
    for row, value in enumerate(values):
        shown = values[keys == keys[row]].astype(np.float64)
        assert sizes(groups)[row] == shown.size
        shown = shown[~np.isnan(shown)]
        if np.isnan(value):
            assert np.isnan(ranked.rank[row])
            assert np.isnan(ranked.relative[row])
            continue
        smaller, ties = int((shown < value).sum()), int((shown == value).sum()) - 1
        place = (smaller + ties / 2) / (shown.size - 1) if shown.size > 1 else 0.5
        assert ranked.rank[row] == pytest.approx(place, rel=1e-6)
        distance = 0.0 if shown.min() == shown.max() else (value - shown.mean()) / shown.std()
        assert ranked.relative[row] == pytest.approx(distance, rel=1e-4, abs=1e-5)


@settings(deadline=None)
@given(LOGS, st.randoms())
def test_the_order_of_rows_changes_nothing(log: list[tuple[int, float]], random: "np.random.Generator") -> None:
    keys, values = np.array([row[0] for row in log], np.uint64), np.array([row[1] for row in log], np.float32)
    order = list(range(len(log)))
    random.shuffle(order)
    plain, moved = rank_within(group_rows(keys), values), rank_within(group_rows(keys[order]), values[order])
    for column, other in zip(plain, moved, strict=True):
        assert np.array_equal(column[order], other, equal_nan=True)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 7]), VALUES, VALUES), min_size=1, max_size=60), st.randoms())
def test_differences_are_from_the_first_row_of_the_group(
    log: list[tuple[int, float, float]], random: "np.random.Generator"
) -> None:
    keys = np.array([row[0] for row in log], np.uint64)
    by, values = (np.array([row[at] for row in log], np.float32) for at in (1, 2))
    found = difference_from_first(group_rows(keys), by, values)
    for row, key in enumerate(keys):
        both = [(by[i], values[i]) for i in np.flatnonzero(keys == key) if not np.isnan(by[i] + values[i])]
        expected = values[row] - min(both)[1] if both else np.float32(np.nan)
        assert found[row] == expected or (np.isnan(found[row]) and np.isnan(expected))
    order = list(range(len(log)))
    random.shuffle(order)
    moved = difference_from_first(group_rows(keys[order]), by[order], values[order])
    assert np.array_equal(moved, found[order], equal_nan=True)


def test_large_groups_are_ranked_as_small_ones() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 500, 3000).astype(np.float32)
    assert values.size > ranks._FEW
    ranked = rank_within(group_rows(np.zeros(3000, np.uint64)), values)
    smaller = np.searchsorted(np.sort(values), values, side="left")
    ties = np.bincount(values.astype(int))[values.astype(int)] - 1
    assert ranked.rank == pytest.approx((smaller + ties / 2) / 2999, rel=1e-6)


@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_a_group_begins_at_its_first_time(kind: type) -> None:
    keys = np.array([5, 3, 5, 3, 9], np.uint64)
    time: np.ndarray = np.array([2**53 + 1, 4, 2**53, 8, -1]).astype(kind)
    first = first_times(group_rows(keys), time)
    assert first.tolist() == [2**53, 4, 2**53, 4, -1]
    assert first.dtype == kind
