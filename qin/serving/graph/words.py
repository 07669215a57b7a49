"""`qin.raw.hashing` on int64 tensors."""

import torch

from qin.columns.buckets import FIRST_VALUE_BUCKET
from qin.network.words import SIGNED_GOLDEN, mix, shifted_right

_LOW = (1 << 32) - 1


def hash_of_integers(values: torch.Tensor) -> torch.Tensor:
    """The hash of an integer's text before it is mixed with a seed."""
    return mix(values + SIGNED_GOLDEN)


def buckets_of(unseeded: torch.Tensor, seed: torch.Tensor, num_values: torch.Tensor) -> torch.Tensor:
    """Buckets of values that are there.

    Args:
        unseeded: Hashes before the seed, any shape.
        seed: Of each vocabulary, of a shape that broadcasts.
        num_values: Buckets of each vocabulary without padding and null.
    """
    high = shifted_right(mix(unseeded ^ seed), 32) & _LOW
    return FIRST_VALUE_BUCKET + shifted_right(high * num_values, 32)
