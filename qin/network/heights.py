"""Tiles of few rows for small batches, only where they give a row the bytes that a whole tile gives it.

A library adds up a matrix product's terms in an order that may depend on how many rows there are: on the CPU that this
was written on, products of one row in float32 are made by another routine than those of eight. So the heights are tried
once per process: with rows whose products are exactly zero, what comes out is the rounding of the sums alone, and equal
bytes mean the same order. A height that fails is not used, and its rows take the next larger one.
"""

from collections.abc import Iterator
from functools import cache

import torch

from qin.network.kernels.products import padded_width
from qin.network.threads import one_thread

TILE_ROWS = 512
# Few, because each is one more to try at the start; what they leave empty is bounded below.
HEIGHTS = (1, 8, 32, 128)
# In tiles of each height: a sample, because a library chooses its routine by the height, not by what is multiplied.
_TRIED_ROWS = 64
# Of the rows of a tile, how many may stay empty: a tile of 32 rows takes less than three of 8 rows and one of 1.
_MOST_EMPTY = 2


def cuts(num_rows: int, heights: tuple[int, ...]) -> Iterator[tuple[slice, int]]:
    """Consecutive slices of rows, each with the height of the tile that they fit into.

    Args:
        num_rows: Rows of the batch.
        heights: From `usable_heights`.
    """
    start = 0
    while start < num_rows:
        left = num_rows - start
        height = min((h for h in heights if h >= left), default=heights[-1])
        if height > _MOST_EMPTY * left:
            height = max((h for h in heights if h <= left), default=height)
        yield slice(start, min(start + height, num_rows)), height
        start += height


@cache
def usable_heights(width: int, dtype: torch.dtype) -> tuple[int, ...]:
    """Heights of tiles, ascending, at which a product with a square matrix has the bytes of a tile of 512 rows.

    Args:
        width: Of the matrix, without padding.
        dtype: What is multiplied.
    """
    x, weight = trial(padded_width(width), dtype)
    with torch.inference_mode(), one_thread():
        whole = x @ weight
        return (*(h for h in HEIGHTS if _has_same_bytes(x, weight, whole, height=h)), TILE_ROWS)


def trial(width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows `(TILE_ROWS, width)` and a square matrix whose products are exactly zero but for the rounding of the sums.

    Args:
        width: An even number.
        dtype: Of both.
    """
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(width // 2, width, generator=generator)
    part = torch.randn(TILE_ROWS, width // 2, generator=generator)
    weight = torch.cat((half, half)).to(dtype)  # with rows (a, -a): exactly 0 but for the order of rounding
    return torch.cat((part, -part), dim=1).to(dtype), weight


def _has_same_bytes(x: torch.Tensor, weight: torch.Tensor, whole: torch.Tensor, *, height: int) -> bool:
    step = max(TILE_ROWS * height // _TRIED_ROWS, height)  # some tiles from anywhere in the whole one
    starts = range(0, TILE_ROWS, step)
    tiles = [slice(start, start + height) for start in starts]
    # Copied, so that it stands in memory of its own, as a tile that is scored does.
    return all(torch.equal(x[tile].clone() @ weight, whole[tile]) for tile in tiles)
