"""The two halves of the validation fold."""

import math

import numpy as np
import pytest

from qin.calibrate.halves import judge_half


def test_halves_are_balanced_reproducible_and_independent_of_order() -> None:
    rows = np.arange(100_000)
    half = judge_half(rows, seed=7)
    # four standard deviations of a fair coin, for the share, for agreement of neighbours and of two seeds
    for share in (half.mean(), (half[1:] == half[:-1]).mean(), (half == judge_half(rows, seed=8)).mean()):
        assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(rows.size)
    order = np.random.default_rng(0).permutation(rows.size)
    np.testing.assert_array_equal(judge_half(rows[order], seed=7), half[order])
    np.testing.assert_array_equal(judge_half(rows.astype(np.uint32), seed=7), half)
    np.testing.assert_array_equal(judge_half(rows[:10], seed=7), half[:10])


def splitmix64(value: int) -> int:
    """The published generator's output for one state, in Python integers."""
    mask = (1 << 64) - 1
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


def test_halves_follow_the_published_hash() -> None:
    assert splitmix64(1234567) == 6457827717110365317  # first output of the reference code for this seed
    key = splitmix64(7 ^ int.from_bytes(b"CALIBRAT", "big"))
    expected = [splitmix64(row ^ key) >> 63 == 1 for row in range(200)]
    assert judge_half(np.arange(200), seed=7).tolist() == expected


def test_bad_rows_and_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="row_number must hold integers"):
        judge_half(np.arange(3.0), seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"seed must lie in \[0, 2\*\*64\)"):
        judge_half(np.arange(3), seed=-1)
