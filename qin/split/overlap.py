"""Which values two sets of rows share."""

from typing import Any

import numpy as np
import numpy.typing as npt

_CHUNK_VALUES = 1 << 20  # bounds the positions, which are eight bytes each


def is_in(values: npt.NDArray[Any], reference: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether each value occurs in `reference`; `np.isin` would need several times the memory of both.

    Args:
        values: `(n,)`; sorted values are found several times faster.
        reference: `(m,)`, of the same type; it is sorted in place, so give a copy.

    Returns:
        `(n,)`.
    """
    if not reference.size:
        return np.zeros(values.shape, np.bool_)
    reference.sort()
    found = np.empty(values.shape, np.bool_)
    for start in range(0, values.size, _CHUNK_VALUES):
        part = values[start : start + _CHUNK_VALUES]
        position = np.minimum(np.searchsorted(reference, part), reference.size - 1)
        found[start : start + part.size] = reference[position] == part
    return found
