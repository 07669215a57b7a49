"""Counts per key against loops over rows: of all rows, of what was known before, of the other parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.features import counting
from qin.features.counting import count_keys, ordered_counts, out_of_part_counts
from qin.features.past import Earlier, OtherParts

# Keys that share slots of a small table, the largest key, and 0, which an unused slot holds too.
KEYS = st.integers(0, 6) | st.sampled_from([2**64 - 1, 2**62, 1 << 40])
ROW = st.tuples(KEYS, st.integers(0, 1), st.booleans(), st.integers(0, 4), st.integers(0, 2))
LOGS = st.lists(ROW, min_size=1, max_size=40)

Log = list[tuple[int, int, bool, int, int]]


def arrays(log: Log) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.array([row[0] for row in log], np.uint64),
        np.array([row[1] for row in log], np.uint8),
        np.flatnonzero([row[2] for row in log]),
    )


@settings(deadline=None)  # the first call compiles
@given(LOGS)
def test_totals_are_those_of_a_loop(log: Log) -> None:
    keys, label, fitted = arrays(log)
    distinct, counts = count_keys(keys, label, fitted)
    expected = sorted({int(keys[row]) for row in fitted})
    assert distinct.tolist() == expected
    assert counts.rows.tolist() == [sum(keys[row] == key for row in fitted) for key in distinct]
    assert counts.clicks.tolist() == [sum(label[row] for row in fitted if keys[row] == key) for key in distinct]


@settings(deadline=None)  # the first call compiles
@given(LOGS, st.integers(2, 50))
def test_a_row_counts_what_was_known_when_its_block_began(log: Log, num_blocks: int) -> None:
    keys, label, fitted = arrays(log)
    time = np.array([row[3] for row in log])
    shown = time - np.array([row[4] for row in log])
    past = Earlier.of(time, shown, fitted, num_blocks=num_blocks)
    counts = past.counts(keys, label)
    moments = sorted(int(shown[row]) for row in fitted)
    starts = {moments[block * len(moments) // num_blocks] for block in range(num_blocks)} if moments else set()
    for row in fitted:
        start = max(moment for moment in starts if moment <= shown[row])
        before = [other for other in fitted if time[other] < start]
        assert past.rows_so_far[row] == len(before)
        assert counts.rows[row] == sum(keys[other] == keys[row] for other in before)
        assert counts.clicks[row] == sum(label[other] for other in before if keys[other] == keys[row])
    assert not counts.rows[np.setdiff1d(np.arange(len(log)), fitted)].any()


@settings(deadline=None)  # the first call compiles
@given(LOGS)
def test_with_a_block_for_every_time_a_row_counts_all_earlier_ones(log: Log) -> None:
    keys, label, fitted = arrays(log)
    time = np.array([row[3] for row in log], np.float64)
    counts = Earlier.of(time, None, fitted, num_blocks=1000).counts(keys, label)
    for row in fitted:
        before = [other for other in fitted if time[other] < time[row]]
        assert counts.rows[row] == sum(keys[other] == keys[row] for other in before)


@settings(deadline=None)  # the first call compiles
@given(LOGS)
def test_without_impressions_a_row_is_shown_when_its_click_is_known(log: Log) -> None:
    keys, label, fitted = arrays(log)
    time = np.array([row[3] for row in log], np.float64)
    alone, same = (Earlier.of(time, shown, fitted, num_blocks=3) for shown in (None, time))
    assert np.array_equal(alone.counts(keys, label), same.counts(keys, label))
    assert np.array_equal(alone.rows_so_far, same.rows_so_far)


def test_blocks_have_equal_shares_of_the_rows_and_divide_no_time() -> None:
    time = np.repeat(np.arange(100), 10)
    past = Earlier.of(time, None, np.arange(1000), num_blocks=10)
    assert np.unique(past.rows_so_far).tolist() == list(range(0, 1000, 100))
    same = Earlier.of(np.repeat([3, 5], [900, 100]), None, np.arange(1000), num_blocks=10)
    assert same.rows_so_far.tolist() == [0] * 900 + [900] * 100


@settings(deadline=None)  # the first call compiles
@given(LOGS)
def test_a_row_counts_the_other_parts(log: Log) -> None:
    keys, label, fitted = arrays(log)
    past = OtherParts.of(np.array([row[3] * 3 + row[4] for row in log], np.uint64), fitted)
    counts = past.counts(keys, label)
    for row in fitted:
        others = [other for other in fitted if past.part[other] != past.part[row]]
        assert past.rows_so_far[row] == len(others)
        assert counts.rows[row] == sum(keys[other] == keys[row] for other in others)
        assert counts.clicks[row] == sum(label[other] for other in others if keys[other] == keys[row])


def test_tables_that_grow_count_as_those_that_need_not() -> None:
    generator = np.random.default_rng(0)
    keys = generator.integers(0, 40_000, 100_000).astype(np.uint64) * np.uint64(1 << 32)  # grows six times
    label = generator.integers(0, 2, keys.size).astype(np.uint8)
    rows = np.arange(keys.size)
    distinct, counts = count_keys(keys, label, rows)
    expected, inverse, of_rows = np.unique(keys, return_inverse=True, return_counts=True)
    assert np.array_equal(distinct, expected)
    assert np.array_equal(counts.rows, of_rows)
    assert np.array_equal(counts.clicks, np.bincount(inverse, label))
    earlier = ordered_counts(keys, label, learn=rows, read=rows, known=rows)
    assert np.array_equal(earlier.rows, _occurrences_before(inverse))
    assert distinct.size > counting._FIRST_SLOTS


def test_small_keys_are_counted_as_large_ones_are() -> None:
    """Their table has no slots to search, and is of another size."""
    generator = np.random.default_rng(1)
    small = generator.integers(0, 3_000, 20_000).astype(np.uint64)
    large = small << np.uint64(40)
    label = generator.integers(0, 2, small.size).astype(np.uint8)
    fitted = np.flatnonzero(generator.random(small.size) < 0.8)
    assert counting._num_small(small) == 3_000
    assert counting._num_small(large) == 0

    distinct, counts = count_keys(small, label, fitted)
    of_large = count_keys(large, label, fitted)
    assert np.array_equal(distinct << np.uint64(40), of_large[0])
    assert np.array_equal(counts, of_large[1])
    for past in (
        Earlier.of(generator.permutation(small.size), None, fitted, num_blocks=7),
        OtherParts.of(generator.integers(0, 2**63, small.size).astype(np.uint64), fitted),
    ):
        assert np.array_equal(past.counts(small, label), past.counts(large, label))
        assert past.counts(small, label).rows.any()


def _occurrences_before(codes: np.ndarray) -> np.ndarray:
    seen, out = np.zeros(codes.max() + 1, np.int64), np.empty(codes.size, np.int64)
    for row, code in enumerate(codes):
        out[row] = seen[code]
        seen[code] += 1
    return out


@pytest.mark.parametrize("num_parts", [1, 3])
def test_parts_are_as_many_as_they_are_said_to_be(num_parts: int) -> None:
    keys, label, fitted = np.zeros(6, np.uint64), np.ones(6, np.uint8), np.arange(6)
    part = (fitted % num_parts).astype(np.uint8)
    counts = out_of_part_counts(keys, label, fitted, part=part, num_parts=num_parts)
    assert counts.rows.tolist() == [6 - 6 // num_parts] * 6
