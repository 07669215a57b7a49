"""Distinct counts against Python sets."""

import numpy as np
import numpy.typing as npt
import pytest

from qin.prepare import statistics
from qin.prepare.statistics import VocabularyCounter
from qin.raw.hashing import bucket_of


def make_hashes(num_distinct: int, *, seed: int) -> npt.NDArray[np.uint64]:
    """Each of `num_distinct` random hashes one to three times, shuffled."""
    generator = np.random.default_rng(seed)
    hashes = generator.integers(0, 2**64, num_distinct, dtype=np.uint64)
    assert np.unique(hashes | np.uint64(1)).size == num_distinct
    return generator.permutation(np.repeat(hashes, generator.integers(1, 4, num_distinct)))


def count(*batches: npt.NDArray[np.uint64]) -> tuple[int, bool]:
    counter = VocabularyCounter(1000)
    for batch in batches:
        counter.update(batch, np.zeros(batch.size, np.bool_))
    return counter.estimate, counter.is_exact


@pytest.mark.parametrize("num_distinct", [0, 1, 1000, 16_383, 16_384])
def test_exact_up_to_its_capacity(num_distinct: int) -> None:
    assert count(make_hashes(num_distinct, seed=0)) == (num_distinct, True)


@pytest.mark.parametrize("num_distinct", [16_385, 100_000, 400_000])
def test_close_beyond_its_capacity(num_distinct: int) -> None:
    for seed in range(3):
        estimate, is_exact = count(make_hashes(num_distinct, seed=seed))
        assert not is_exact
        # At least 8,192 are kept: a standard deviation of at most 1.1%.
        assert abs(estimate / num_distinct - 1) < 0.044


@pytest.mark.parametrize("num_distinct", [5000, 50_000])
def test_order_and_batches_do_not_matter(num_distinct: int) -> None:
    hashes = make_hashes(num_distinct, seed=1)
    expected = count(hashes)
    assert count(*np.array_split(hashes, 7)) == expected
    assert count(np.sort(hashes)) == expected
    assert count(hashes[::-1], hashes) == expected


@pytest.mark.parametrize("num_distinct", [0, 3, 5000, 50_000])
@pytest.mark.parametrize("num_parts", [1, 2, 7])
def test_counts_of_parts_add_up(num_distinct: int, num_parts: int) -> None:
    hashes = make_hashes(num_distinct, seed=4)
    whole, added = VocabularyCounter(1000), VocabularyCounter(1000)
    whole.update(hashes, np.zeros(hashes.size, np.bool_))
    for part in np.array_split(hashes, num_parts):
        counter = VocabularyCounter(1000)
        counter.update(part, np.zeros(part.size, np.bool_))
        added.add(counter.values, level=counter.level, used=counter.used)
    assert (added.estimate, added.is_exact, added.num_used) == (whole.estimate, whole.is_exact, whole.num_used)
    assert added.values.tolist() == whole.values.tolist()
    added.update(hashes, np.zeros(hashes.size, np.bool_))  # and it goes on
    assert added.values.tolist() == whole.values.tolist()


def test_nulls_are_left_out() -> None:
    hashes = make_hashes(300, seed=2)
    is_null = np.random.default_rng(0).random(hashes.size) < 0.5
    counter = VocabularyCounter(1000)
    counter.update(hashes, is_null)
    assert counter.estimate == len(set(hashes[~is_null].tolist())) < 300


def test_used_buckets_equal_brute_force() -> None:
    hashes = make_hashes(900, seed=3)
    is_null = np.random.default_rng(0).random(hashes.size) < 0.2
    counter = VocabularyCounter(1000)
    for part, part_null in zip(np.array_split(hashes, 5), np.array_split(is_null, 5), strict=True):
        counter.update(part, part_null)
    assert counter.num_used == len({int(bucket_of(value, np.uint64(998))) for value in hashes[~is_null]}) < 900


def test_hash_zero_is_a_value() -> None:
    assert count(np.array([0, 0, 2**63], np.uint64)) == (2, True)


@pytest.mark.parametrize("num_distinct", [1, 31, 33, 129, 5_000, 16_384, 16_385, 40_000])
def test_a_table_that_grows_counts_as_a_full_one(num_distinct: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(num_distinct)
    hashes = np.repeat(rng.integers(0, 2**64, num_distinct, dtype=np.uint64), 3)
    rng.shuffle(hashes)
    is_null = rng.random(hashes.size) < 0.01
    grown = statistics.VocabularyCounter(1 << 12)
    for start in range(0, hashes.size, 1_000):
        grown.update(hashes[start : start + 1_000], is_null[start : start + 1_000])
    monkeypatch.setattr(statistics, "_FIRST_SLOTS", statistics._SLOTS)
    full = statistics.VocabularyCounter(1 << 12)
    full.update(hashes, is_null)
    assert (grown.estimate, grown.is_exact, grown.num_used) == (full.estimate, full.is_exact, full.num_used)
    assert grown._slots.size <= max(64, 16 * num_distinct)


def test_memory_of_a_column_of_few_values_is_small() -> None:
    """20,000 columns of 30 values took 5 GB of empty tables."""
    counter = statistics.VocabularyCounter(512)
    hashes = np.random.default_rng(0).integers(0, 2**64, 30, dtype=np.uint64)
    counter.update(np.tile(hashes, 200), np.zeros(6_000, np.bool_))
    assert counter.estimate == 30
    assert counter._slots.nbytes <= 1024
