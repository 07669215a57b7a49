"""`qin.raw.hashing` on int64 tensors, whose bits are those of the unsigned words; exported graphs have no others."""

import torch

from qin.columns.buckets import FIRST_VALUE_BUCKET
from qin.runtime.seeds import GOLDEN, MIX_FACTORS

_LOW = (1 << 32) - 1


def signed(word: int) -> int:
    """The int64 of an unsigned word's bits."""
    return word - (1 << 64) if word >= 1 << 63 else word


def shifted_right(words: torch.Tensor, bits: int) -> torch.Tensor:
    """A logical shift."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def mix(words: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finalizer; see `qin.runtime.seeds.mix_words`."""
    first, second = (signed(int(factor)) for factor in MIX_FACTORS)
    words = (words ^ shifted_right(words, 30)) * first
    words = (words ^ shifted_right(words, 27)) * second
    return words ^ shifted_right(words, 31)


def hash_of_integers(values: torch.Tensor) -> torch.Tensor:
    """The hash of an integer's text before it is mixed with a seed."""
    return mix(values + signed(int(GOLDEN)))


def buckets_of(unseeded: torch.Tensor, seed: torch.Tensor, num_values: torch.Tensor) -> torch.Tensor:
    """Buckets of values that are there.

    Args:
        unseeded: Hashes before the seed, any shape.
        seed: Of each vocabulary, of a shape that broadcasts.
        num_values: Buckets of each vocabulary without padding and null.
    """
    high = shifted_right(mix(unseeded ^ seed), 32) & _LOW
    return FIRST_VALUE_BUCKET + shifted_right(high * num_values, 32)
