"""How many values a column has, and how many of them another has too, in bounded memory."""

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_SIZE = 1 << 15
_WORDS = 2.0**64


class ValueSketch:
    """The smallest hashes of a set of values: exact up to 32,768 values, then within about 1%.

    All sketches take hashes of one seed, so that equal values of two columns are kept or left out together.

    Source: Bar-Yossef et al. (2002), Counting distinct elements in a data stream; k minimum values.
    """

    def __init__(self) -> None:
        self._smallest: Hashes = np.empty(0, np.uint64)

    @property
    def is_exact(self) -> bool:
        """Whether every value is kept."""
        return self._smallest.size < _SIZE

    def add(self, hashes: Hashes) -> None:
        """Add values by their hashes `(n,)`."""
        if not self.is_exact:
            hashes = hashes[hashes < self._smallest[-1]]
        if hashes.size:
            self._smallest = np.union1d(self._smallest, hashes)[:_SIZE]

    def count(self) -> int:
        """Distinct values, estimated by how dense the smallest hashes lie."""
        if self.is_exact:
            return int(self._smallest.size)
        # The k-th smallest of n even draws lies at k / n on average; k - 1 makes the estimate of n unbiased.
        return round((_SIZE - 1) * (_WORDS / float(self._smallest[-1])))

    def share_within(self, other: "ValueSketch") -> float:
        """Share of these values that the other set has too; 0 of none."""
        ours, theirs = self._below(other), other._below(self)
        return float(np.isin(ours, theirs, assume_unique=True).mean()) if ours.size else 0.0

    def _below(self, other: "ValueSketch") -> Hashes:
        """The hashes in the range of which both sketches know every one."""
        limits = [sketch._smallest[-1] for sketch in (self, other) if not sketch.is_exact]
        return self._smallest[self._smallest <= min(limits)] if limits else self._smallest
