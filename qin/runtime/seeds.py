"""Every random choice in one table: which stream of which seed it draws from, and how 64-bit words are mixed.

Two users of one seed must not draw the same numbers. Generators of `train.seed` start from the seed, a step or epoch,
and a number of `Stream`; a hash that divides rows starts from its seed and a salt.
"""

from enum import IntEnum
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from qin.runtime.jit import njit

Words = TypeVar("Words", np.uint64, npt.NDArray[np.uint64])


class Stream(IntEnum):
    """Streams of `train.seed`; a number that a run has used never changes its meaning."""

    CHUNK_ORDER = 0  # of an epoch
    ROW_ORDER = 1  # within a buffer of an epoch
    DOWNSAMPLING = 2  # negatives kept in an epoch
    STEP = 3  # dropout of a step
    SELECTION = 4  # hard negatives of a step
    QUANTILES = 5  # rows whose numbers give the ends of bins


HOLDOUT_SALT = 0x43414C4942524154  # "CALIBRAT": the half of the validation fold that no calibrator is fitted on
BLEND_SALT = 0x424C454E44  # "BLEND": the parts of the blend's cross-fitting
IMPORTANCE_SALT = 0x494D504F  # "IMPO": the rows and donors of the importance of fields

# SplitMix64 adds it between two draws: the golden ratio's bits, so that states spread evenly over all words.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # of its finalizer, in order


def mix_words(value: Words) -> Words:
    """SplitMix64's finalizer, a bijection of 64-bit words that scatters them; of a word, or of each in an array.

    Source: Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators.
    """
    value = (value ^ (value >> np.uint64(30))) * MIX_FACTORS[0]
    value = (value ^ (value >> np.uint64(27))) * MIX_FACTORS[1]
    return value ^ (value >> np.uint64(31))


def unmix_words(value: Words) -> Words:
    """Inverse of `mix_words`: shifts undone step by step, products by the inverse factors modulo 2^64."""
    value = value ^ (value >> np.uint64(31)) ^ (value >> np.uint64(62))
    value = value * np.uint64(0x319642B2D24D8EC3)
    value = (value ^ (value >> np.uint64(27)) ^ (value >> np.uint64(54))) * np.uint64(0x96DE1B173F119089)
    out: Words = value ^ (value >> np.uint64(30)) ^ (value >> np.uint64(60))
    return out


mix = njit(nogil=True, inline="always")(mix_words)  # for kernels
unmix = njit(nogil=True)(unmix_words)
