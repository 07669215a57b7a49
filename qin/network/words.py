"""64-bit words in int64 tensors, whose bits are those of the unsigned ones, which neither GPUs nor graphs have."""

import torch

from qin.runtime.seeds import GOLDEN, MIX_FACTORS


def signed(word: int, *, bits: int = 64) -> int:
    """The signed number of an unsigned word's bits."""
    return word - (1 << bits) if word >= 1 << (bits - 1) else word


def shifted_right(words: torch.Tensor, bits: int, *, width: int = 64) -> torch.Tensor:
    """A logical shift of words of a width."""
    return (words >> bits) & ((1 << (width - bits)) - 1)


# Numbers of Python: a compiler would take NumPy's for what is in a tensor.
SIGNED_GOLDEN = signed(int(GOLDEN))
_FACTORS = tuple(signed(int(factor)) for factor in MIX_FACTORS)


def mix(words: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finalizer; see `qin.runtime.seeds.mix_words`."""
    first, second = _FACTORS
    words = (words ^ shifted_right(words, 30)) * first
    words = (words ^ shifted_right(words, 27)) * second
    return words ^ shifted_right(words, 31)
