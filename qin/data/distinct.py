"""How many distinct hashes a stream holds: exact while they are few, within about 1% otherwise, in bounded memory.

Source: Wegman's adaptive sampling (Flajolet, Computing 43, 1990). The answer does not depend on order or batches.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

_CAPACITY = 1 << 14
_SLOTS = 1 << 15


@njit(cache=True, nogil=True)
def _place(slots: Any, value: np.uint64) -> int:
    """Insert into an open-addressing table in which 0 means empty; returns 1 if the value is new."""
    position = value & np.uint64(_SLOTS - 1)
    while slots[position] != 0:
        if slots[position] == value:
            return 0
        position = (position + np.uint64(1)) & np.uint64(_SLOTS - 1)
    slots[position] = value
    return 1


@njit(cache=True, nogil=True)
def _insert(slots: Any, count: int, level: int, hashes: Any, is_null: Any) -> tuple[int, int]:
    """Insert the hashes whose top `level` bits are zero; raise the level whenever the table is full."""
    previous = np.uint64(0)
    for i in range(hashes.size):
        value = hashes[i] | np.uint64(1)  # 0 marks an empty slot
        if is_null[i] or value == previous or (level and value >> np.uint64(64 - level)):
            continue
        previous = value
        count += _place(slots, value)
        while count > _CAPACITY:
            level += 1
            kept = slots[(slots != 0) & (slots >> np.uint64(64 - level) == 0)]
            slots[:] = 0
            count = kept.size
            for k in range(kept.size):
                _place(slots, kept[k])
    return count, level


class DistinctCounter:
    """Counts distinct 64-bit hashes; exact up to 16,384 of them."""

    def __init__(self) -> None:
        self._slots = np.zeros(_SLOTS, np.uint64)
        self._count = 0
        self._level = 0

    def update(self, hashes: npt.NDArray[np.uint64], is_null: npt.NDArray[np.bool_]) -> None:
        """Add hashes `(num_rows,)`, leaving out the nulls."""
        self._count, self._level = _insert(self._slots, self._count, self._level, hashes, is_null)

    @property
    def estimate(self) -> int:
        """Number of distinct hashes seen."""
        return int(self._count) << int(self._level)

    @property
    def is_exact(self) -> bool:
        """Whether the estimate is the true number."""
        return self._level == 0
