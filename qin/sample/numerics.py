"""Numeric columns: skewed counts, rounded normals and flags that share a user's activity."""

from enum import Enum
from itertools import cycle
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qin.sample.columns import (
    A_FEATURES,
    B_FEATURES,
    C_FEATURES,
    D_FEATURES,
    E_FEATURES,
    HISTORY_A,
    HISTORY_B,
)
from qin.sample.streams import Streams


class Kind(Enum):
    """Shape of a numeric column's distribution."""

    COUNT = "count"  # step * floor(exp(location + spread * z) / step)
    NORMAL = "normal"  # location + spread * z, four decimals
    FLAG = "flag"  # 1 where z > location


class Numeric(NamedTuple):
    """One numeric column, a function of a standard score `z`.

    Attributes:
        kind: Shape of the distribution.
        location, spread: parameters of that shape.
        step: Smallest difference between two counts.
        load: Correlation of `z` with the user's activity.
    """

    kind: Kind
    location: float
    spread: float = 1.0
    step: float = 1.0
    load: float = 0.0


_ORDINARY = (
    Numeric(Kind.COUNT, 0.2, 1.2, load=0.5),
    Numeric(Kind.NORMAL, 0.0, 1.0),
    Numeric(Kind.COUNT, -0.9, 1.4, load=0.3),
    Numeric(Kind.FLAG, 0.8),
    Numeric(Kind.COUNT, 1.6, 1.0, step=0.1, load=0.2),
    Numeric(Kind.NORMAL, 0.5, 0.15, load=0.3),
    Numeric(Kind.COUNT, -1.8, 1.6, load=0.6),
)
# Steps and spreads were chosen so that the distinct values at the reference size come out as published:
# 4.8M, 484k, 81k and 80k.
_HEAVY_TAILED = {
    "feat_c_2": Numeric(Kind.COUNT, 9.08, 2.0, step=0.01),
    "feat_e_2": Numeric(Kind.COUNT, 7.0, 2.2, step=0.29),
    "feat_b_6": Numeric(Kind.COUNT, 5.5, 2.0),
    "feat_d_4": Numeric(Kind.COUNT, 5.48, 2.0),
}

_UNIT = Numeric(Kind.COUNT, 1.0, 1.2, step=0.01, load=0.4)
_MULTIPLES = np.array([1, 2, 3, 4, 5, 6, 7, 8, 10, 12] * 3, dtype=np.float32)[: len(HISTORY_B) - 2]
_MULTIPLE_NOISE_RATE = 1 / 64
_SMALLEST_NOISY_MULTIPLE = 4  # one more or less of a smaller multiple would break the 0.995 correlation


def _specifications() -> dict[str, Numeric]:
    ordinary = cycle(_ORDINARY)
    names = (*E_FEATURES, *D_FEATURES, *C_FEATURES, *B_FEATURES, *A_FEATURES, *HISTORY_A, *HISTORY_B[:2])
    return {name: _HEAVY_TAILED.get(name) or next(ordinary) for name in names}


NUMERICS = _specifications()


def draw_numerics(num_rows: int, *, streams: Streams, activity: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Draw `feat_*` and `history_*`, before nulls.

    Args:
        num_rows: Rows to draw.
        streams: The block's random streams.
        activity: The users' activity, of shape (rows,), mean 0 and variance 1.

    Returns:
        One float32 array of shape (rows,) per column.
    """
    values = {
        name: _shape(spec, _score(name, num_rows, streams=streams, activity=activity, load=spec.load))
        for name, spec in NUMERICS.items()
    }
    unit = _shape(_UNIT, _score("unit", num_rows, streams=streams, activity=activity, load=_UNIT.load))
    return values | _multiples_of(unit, streams=streams)


def _score(
    name: str, num_rows: int, *, streams: Streams, activity: NDArray[np.float32], load: float
) -> NDArray[np.float32]:
    noise = streams.generator(name).standard_normal(num_rows, dtype=np.float32)
    # Of variance 1, whatever the load.
    score: NDArray[np.float32] = np.float32(load) * activity + np.float32(np.sqrt(1 - load**2)) * noise
    return score


def _shape(spec: Numeric, score: NDArray[np.float32]) -> NDArray[np.float32]:
    if spec.kind is Kind.FLAG:
        return np.where(score > spec.location, np.float32(1), np.float32(0))
    level = spec.location + spec.spread * score.astype(np.float64)
    if spec.kind is Kind.NORMAL:
        return np.round(level, 4).astype(np.float32)
    return (np.floor(np.exp(level) / spec.step) * spec.step).astype(np.float32)


def _multiples_of(unit: NDArray[np.float32], *, streams: Streams) -> dict[str, NDArray[np.float32]]:
    """`history_b_3..30`: a small multiple of the row's unit each, now and then one more or less."""
    names = HISTORY_B[2:]
    draw = streams.generator("multiples").random((len(unit), len(names)), dtype=np.float32)
    noise = (draw < _MULTIPLE_NOISE_RATE).astype(np.float32) - (draw >= 1 - _MULTIPLE_NOISE_RATE)
    noise[:, _MULTIPLES < _SMALLEST_NOISY_MULTIPLE] = 0.0
    values = unit[:, None] * (_MULTIPLES + noise)
    return dict(zip(names, values.T, strict=True))
