"""How many distinct hashes and buckets a stream holds: exact while hashes are few, within about 1% otherwise.

Memory is bounded. A few hundred recent hashes are remembered, because most columns repeat few values.

Source: Wegman's adaptive sampling (Flajolet, Computing 43, 1990). The answer does not depend on order or batches.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from qin.raw.hashing import FIRST_VALUE_BUCKET, bucket_of
from qin.runtime.jit import njit

_CAPACITY = 1 << 14
_SLOTS = 1 << 15
_RECENT_BITS = 8
_RECENT = 1 << _RECENT_BITS


@njit(nogil=True)
def _place(slots: Any, value: np.uint64) -> int:
    """Insert into an open-addressing table in which 0 means empty; returns 1 if the value is new."""
    position = value & np.uint64(_SLOTS - 1)
    while slots[position] != 0:
        if slots[position] == value:
            return 0
        position = (position + np.uint64(1)) & np.uint64(_SLOTS - 1)
    slots[position] = value
    return 1


@njit(nogil=True)
def _insert(slots: Any, used: Any, count: int, level: int, hashes: Any, is_null: Any) -> tuple[int, int]:
    """Mark each hash's bucket, insert the hashes whose top `level` bits are zero; raise the level when it is full."""
    recent = np.zeros(_RECENT, np.uint64)
    num_values = np.uint64(used.size - FIRST_VALUE_BUCKET)
    for i in range(hashes.size):
        if is_null[i]:
            continue
        value = hashes[i] | np.uint64(1)  # 0 marks an empty slot
        place = hashes[i] >> np.uint64(64 - _RECENT_BITS)
        if recent[place] == hashes[i] and value != 1:
            continue
        recent[place] = hashes[i]
        used[bucket_of(hashes[i], num_values)] = True
        if level and value >> np.uint64(64 - level):
            continue
        count += _place(slots, value)
        while count > _CAPACITY:
            level += 1
            kept = slots[(slots != 0) & (slots >> np.uint64(64 - level) == 0)]
            slots[:] = 0
            count = kept.size
            for k in range(kept.size):
                _place(slots, kept[k])
    return count, level


class VocabularyCounter:
    """Counts distinct 64-bit hashes, exactly up to 16,384 of them, and the buckets that they take.

    Args:
        num_buckets: Buckets of the vocabulary, padding and null included.
    """

    def __init__(self, num_buckets: int) -> None:
        self._slots = np.zeros(_SLOTS, np.uint64)
        self._used = np.zeros(num_buckets, np.bool_)
        self._count = 0
        self._level = 0

    def update(self, hashes: npt.NDArray[np.uint64], is_null: npt.NDArray[np.bool_]) -> None:
        """Add hashes `(num_rows,)`, leaving out the nulls."""
        self._count, self._level = _insert(self._slots, self._used, self._count, self._level, hashes, is_null)

    @property
    def estimate(self) -> int:
        """Number of distinct hashes seen."""
        return int(self._count) << int(self._level)

    @property
    def is_exact(self) -> bool:
        """Whether the estimate is the true number."""
        return self._level == 0

    @property
    def num_used(self) -> int:
        """Buckets that values have taken."""
        return int(self._used.sum())
