"""The two halves of the validation fold: one fits the calibrator, the other judges it."""

import numpy as np
from numpy.typing import NDArray

from qin.metrics.logits import BoolArray, IntArray

_JUDGE_SALT = 0x43414C4942524154  # "CALIBRAT": other users of the same seed draw other halves


def judge_half(row_number: IntArray, *, seed: int) -> BoolArray:
    """Draw about half of the rows by a seeded hash of their number, whatever their order.

    Args:
        row_number: int64 ndarray of shape (n,), the rows' numbers in the raw file.
        seed: the run's seed, in [0, 2**64).

    Returns:
        bool ndarray of shape (n,), true for the rows that judge and false for those that fit.

    Raises:
        ValueError: `row_number` does not hold integers, or `seed` is out of range.
    """
    if not np.issubdtype(row_number.dtype, np.integer):
        raise ValueError(f"row_number must hold integers: {row_number.dtype=}")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must lie in [0, 2**64): {seed=}")
    key = _splitmix64(np.array([seed], dtype=np.uint64) ^ np.uint64(_JUDGE_SALT))
    in_half: BoolArray = _splitmix64(row_number.astype(np.uint64) ^ key) >> np.uint64(63) == 1
    return in_half


def _splitmix64(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64-bit words. Source: Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
