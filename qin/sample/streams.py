"""Random streams of one block of rows."""

from enum import IntEnum
from typing import NamedTuple
from zlib import crc32

import numpy as np


class Split(IntEnum):
    """Which file a row belongs to; part of the seed, so train and test share no draw."""

    TRAIN = 0
    TEST = 1


class Streams(NamedTuple):
    """One independent generator per block and quantity, so that a new column leaves the others as they are.

    Attributes:
        seed: The sample's seed.
        split: The file the rows belong to.
        block: Number of the block in that file.
    """

    seed: int
    split: Split
    block: int

    def generator(self, quantity: str) -> np.random.Generator:
        """The generator of `quantity`; the same name always starts the same stream."""
        return np.random.default_rng([self.seed, self.split, self.block, crc32(quantity.encode())])
