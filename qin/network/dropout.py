"""Dropout whose masks are a hash of a key and the element's place, so that any part of one can be made again."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from qin.runtime.jit import njit
from qin.runtime.seeds import GOLDEN, mix

_LEVELS = 1 << 32


@dataclass(frozen=True)
class Mask:
    """Which elements one call of dropout keeps.

    Attributes:
        key: What the mask is a hash of.
        threshold: An element is dropped where its hash, uniform below 2**32, is below; 0 drops nothing.
    """

    key: int
    threshold: int

    @classmethod
    def draw(cls, probability: float) -> "Mask":
        """A new mask from PyTorch's global CPU generator, which is left alone where nothing is dropped."""
        threshold = min(round(probability * _LEVELS), _LEVELS - 1)
        return cls(int(torch.empty((), dtype=torch.int64).random_()) if threshold else 0, threshold)

    @property
    def scale(self) -> float:
        """What kept elements are multiplied by: one over the share that is kept."""
        return _LEVELS / (_LEVELS - self.threshold)


NOTHING_DROPPED = Mask(0, 0)


def dropout(x: torch.Tensor, probability: float, training: bool, *, first_row: int = 0) -> torch.Tensor:
    """Zero each element with a probability and divide the others by the share that stays, as `F.dropout` does.

    PyTorch draws on a CPU one Bernoulli number after the other on one thread, which with dropout on the rows took more
    than half of a training step. The probability is rounded to a multiple of 2**-32, and the key of the mask comes from
    torch's global generator.

    Args:
        x: Any shape and floating type; on a CPU with at least one dimension.
        probability: In [0, 1).
        training: Whether anything is dropped.
        first_row: Number of the first row in the batch that several processes share; on a CPU masks depend on it.
    """
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    mask = Mask.draw(probability)
    is_kept = torch.empty(x.shape, dtype=torch.bool)
    columns = max(x.shape[-1], 1)
    _write_kept(np.uint64(mask.key), np.uint32(mask.threshold), first_row, is_kept.view(-1, columns).numpy())
    return x * is_kept.to(x.dtype).mul_(mask.scale)


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
        word = np.uint32(np.uint32(column) * np.uint32(0x9E3779B1) + first)
        word = np.uint32(np.uint32(word ^ (word >> np.uint32(16))) * np.uint32(0x7FEB352D)) ^ second
        word = np.uint32(np.uint32(word ^ (word >> np.uint32(15))) * np.uint32(0x846CA68B))
        word ^= word >> np.uint32(16)
        out[column] = np.float32(0.0) if np.uint32(word) < threshold else scale
