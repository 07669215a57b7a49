"""Dropout whose masks are a hash of a key and the element's place, so that any part of one can be made again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qin.network import words
from qin.network.kernels.choice import has_kernels
from qin.runtime.jit import njit
from qin.runtime.seeds import GOLDEN, mix

_LEVELS = 1 << 32
# The golden ratio's upper bits, which set neighbouring columns far apart, and the factors of lowbias32.
_COLUMN_FACTOR, _FACTORS = 0x9E3779B1, (0x7FEB352D, 0x846CA68B)

_given: list[Iterator[torch.Tensor]] = []  # keys that masks take instead of drawing them


@dataclass(frozen=True)
class Mask:
    """Which elements one call of dropout keeps.

    Attributes:
        key: What the mask is a hash of; a scalar tensor where it is not known yet, as in a recorded step of a GPU.
        threshold: An element is dropped where its hash, uniform below 2**32, is below; 0 drops nothing.
    """

    key: int | torch.Tensor
    threshold: int

    @classmethod
    def draw(cls, probability: float) -> "Mask":
        """A new mask from PyTorch's global CPU generator, which is left alone where nothing is dropped."""
        # A threshold of 2**32 would not fit into 32 bits, and would keep nothing to divide by.
        threshold = min(round(probability * _LEVELS), _LEVELS - 1)
        if threshold and _given:
            return cls(next(_given[-1]), threshold)
        return cls(draw_key() if threshold else 0, threshold)

    @property
    def scale(self) -> float:
        """What kept elements are multiplied by: one over the share that is kept."""
        return _LEVELS / (_LEVELS - self.threshold)


NOTHING_DROPPED = Mask(0, 0)


def draw_key() -> int:
    """The next key, from PyTorch's global CPU generator."""
    return int(torch.empty((), dtype=torch.int64).random_())


@contextmanager
def keys_given(keys: Iterator[torch.Tensor]) -> Iterator[None]:
    """Let the masks that are drawn meanwhile, in this thread alone, take these keys, scalars of int64, in order."""
    _given.append(keys)
    try:
        yield
    finally:
        _given.pop()


def dropout(x: torch.Tensor, probability: float, training: bool, *, first_row: int = 0) -> torch.Tensor:
    """Zero each element with a probability and divide the others by the share that stays, as `F.dropout` does.

    PyTorch draws on a CPU one Bernoulli number after the other on one thread, which with dropout on the rows took more
    than half of a training step. The probability is rounded to a multiple of 2**-32, and the key of the mask comes from
    torch's global generator. Every device keeps the same elements.

    Args:
        x: Any shape and floating type, with at least one dimension.
        probability: In [0, 1).
        training: Whether anything is dropped.
        first_row: Number of the first row in the batch that several processes share, on which masks depend.
    """
    return x if not training or probability == 0.0 else masked(x, Mask.draw(probability), first_row=first_row)


def masked(x: torch.Tensor, mask: Mask, *, first_row: int = 0) -> torch.Tensor:
    """What a mask leaves of `x`; see `dropout`."""
    if not mask.threshold:
        return x
    columns = max(x.shape[-1], 1)
    if has_kernels(x) and not isinstance(mask.key, torch.Tensor):
        is_kept = torch.empty(x.shape, dtype=torch.bool)
        _write_kept(np.uint64(mask.key), np.uint32(mask.threshold), first_row, is_kept.view(-1, columns).numpy())
    else:
        is_kept = kept_by(mask, x.numel() // columns, columns, device=x.device, first_row=first_row).view(x.shape)
    return x * is_kept.to(x.dtype).mul_(mask.scale)


def kept_by(mask: Mask, num_rows: int, columns: int, *, device: torch.device, first_row: int = 0) -> torch.Tensor:
    """Which elements a mask keeps, bool, `(num_rows, columns)`: what `keep_row` says, in operations of any device."""
    number = torch.arange(first_row + 1, first_row + num_rows + 1, device=device)
    seed = words.mix(mask.key + number * words.SIGNED_GOLDEN)[:, None]
    first, second = seed.to(torch.int32), words.shifted_right(seed, 32).to(torch.int32)  # their lower halves
    word = (torch.arange(columns, device=device) * _COLUMN_FACTOR).to(torch.int32) + first
    by_first, by_second = (words.signed(factor, bits=32) for factor in _FACTORS)
    word = (word ^ words.shifted_right(word, 16, width=32)) * by_first ^ second
    word = (word ^ words.shifted_right(word, 15, width=32)) * by_second
    word = word ^ words.shifted_right(word, 16, width=32)
    # Unsigned words compare as signed ones do when the highest bit of both is turned.
    lowest = words.signed(1 << 31, bits=32)
    return (word ^ lowest) >= words.signed(mask.threshold ^ (1 << 31), bits=32)


@njit(nogil=True)
def _write_kept(key: np.uint64, threshold: np.uint32, first_row: int, out: npt.NDArray[np.bool_]) -> None:
    kept = np.empty(out.shape[1], np.float32)
    for row in range(out.shape[0]):
        keep_row(key, threshold, first_row + row, np.float32(1.0), kept)
        for column in range(kept.size):
            out[row, column] = kept[column] != 0.0


@njit(nogil=True)
def keep_row(key: np.uint64, threshold: np.uint32, row: int, scale: np.float32, out: npt.NDArray[np.float32]) -> None:
    """Write what the elements of one row are multiplied by.

    SplitMix64 makes two words of key and row; the mixing of each column is that of Wellons' lowbias32, the second word
    let in half-way, so that no row's mask is another's, shifted.

    Args:
        key: Key of the `Mask`, uint64.
        threshold: Its threshold, uint32: words below it drop an element.
        row: Number of the row.
        scale: For elements that are kept, float32.
        out: `(columns,)`, float32: 0 where dropped, otherwise `scale`.
    """
    seed = mix(np.uint64(key) + np.uint64(row + 1) * GOLDEN)
    first, second = np.uint32(seed), np.uint32(seed >> np.uint64(32))
    for column in range(out.size):
        word = np.uint32(np.uint32(column) * np.uint32(_COLUMN_FACTOR) + first)
        word = np.uint32(np.uint32(word ^ (word >> np.uint32(16))) * np.uint32(_FACTORS[0])) ^ second
        word = np.uint32(np.uint32(word ^ (word >> np.uint32(15))) * np.uint32(_FACTORS[1]))
        word ^= word >> np.uint32(16)
        out[column] = np.float32(0.0) if np.uint32(word) < threshold else scale
