"""From clicks and rows of a value to the two numbers that a model reads: its click rate and its share of the rows.

The rate is smoothed towards the base rate by `prior_weight` rows of it and given as the difference of log-odds, so a
value that was never seen has 0. The share is per 10,000 rows; 100 rows are added to the rows so far, or the first rows
of a log would each be a large share of it.

Source: Micci-Barreca (2001), A preprocessing scheme for high-cardinality categorical attributes in classification and
prediction problems, equation 3 with a constant weight; Prokhorenkova et al. (2018), CatBoost, section 3.2 (ordered).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.columns.counted import RATE
from qin.features.counting import Counts, KeyCounts, Keys
from qin.runtime.jit import njit

# Of so many rows, because plain shares are all near 0, where the signed log is a straight line and shortens no tail.
_SHARE_ROWS = 10_000.0
_ADDED_ROWS = 100.0

Values = npt.NDArray[np.float32]


@njit(nogil=True, inline="always")
def _rate(clicks: float, rows: float, base: float, weight: float) -> Any:
    smoothed = clicks + weight * base
    others = rows + weight - smoothed
    if others <= 0.0:  # every row was clicked, and a small weight is lost beside so many
        others = weight * (1.0 - base)
    return np.float32(math.log(smoothed / others) - math.log(base / (1.0 - base)))


@njit(nogil=True, inline="always")
def _share(rows: float, rows_so_far: float) -> Any:
    return np.float32(_SHARE_ROWS * rows / (rows_so_far + _ADDED_ROWS))


@njit(nogil=True)
def _fill_rates(clicks: Counts, rows: Counts, base: float, weight: float, out: Values) -> None:
    for i in range(out.size):
        # No row, no opinion: exactly 0, whatever the logarithms' last digits.
        out[i] = _rate(clicks[i], rows[i], base, weight) if rows[i] else np.float32(0.0)


@njit(nogil=True)
def _fill_shares(rows: Counts, rows_so_far: npt.NDArray[np.int64], out: Values) -> None:
    for i in range(out.size):
        out[i] = _share(rows[i], rows_so_far[i if rows_so_far.size > 1 else 0])


@njit(nogil=True, inline="always")
def position_of(keys: Keys, wanted: np.uint64) -> Any:
    """The position of a key among ascending ones, -1 if it is not there.

    A bisection without branches that depend on the keys, which the processor would guess wrong half the time.
    """
    start, length = 0, keys.size
    while length > 1:
        half = length // 2
        start += half if keys[start + half - 1] < wanted else 0
        length -= half
    return start if keys.size > 0 and keys[start] == wanted else -1


@njit(nogil=True)
def _find(keys: Keys, wanted: Keys, out: npt.NDArray[np.int64]) -> None:
    for i in range(wanted.size):
        out[i] = position_of(keys, wanted[i])


@dataclass(frozen=True)
class Prior:
    """What rates are smoothed towards.

    Attributes:
        base_rate: Click rate of the fitted rows, between 0 and 1.
        weight: In rows.
    """

    base_rate: float
    weight: float


def measure(name: str, counts: KeyCounts, rows_so_far: npt.NDArray[np.int64], prior: Prior) -> Values:
    """One of `MEASURES` of each row or key.

    Args:
        name: Which one.
        counts: Clicks and rows, `(n,)`.
        rows_so_far: Of all values together, `(n,)`, or `(1,)` where it is the same for all.
        prior: For the rate.
    """
    out = np.empty(counts.rows.size, np.float32)
    if name == RATE:
        _fill_rates(counts.clicks, counts.rows, prior.base_rate, prior.weight, out)
    else:
        _fill_shares(counts.rows, rows_so_far, out)
    return out


def find(keys: Keys, wanted: Keys) -> npt.NDArray[np.int64]:
    """The position of each wanted key, -1 for one that is not there.

    Args:
        keys: Ascending, `(m,)`.
        wanted: `(n,)`.
    """
    out = np.empty(wanted.size, np.int64)
    _find(keys, wanted, out)
    return out
