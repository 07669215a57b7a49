"""A matrix in the order in which the library multiplies it, made once; only where it gives a plain product's bytes.

For a product in bfloat16, oneDNN brings a plain matrix into its own order each time, which for a few rows takes as long
as the product itself. Whether a matrix in that order gives the same bytes is tried once per process, as for `heights`.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from qin.network.heights import HEIGHTS, TILE_ROWS, trial
from qin.network.threads import one_thread

Multiply = Callable[[torch.Tensor], torch.Tensor]


def multiplier(weight: torch.Tensor) -> Multiply:
    """A function that gives `x @ weight` of `x (n, width)`.

    Args:
        weight: `(width, width)`, which is kept in the library's order alone where there is one.
    """
    if packs_alike(weight.shape[0], weight.dtype):
        return partial(_multiply_packed, packed=_pack(weight))
    return partial(_multiply, weight=weight)


@cache
def packs_alike(width: int, dtype: torch.dtype) -> bool:
    """Whether there is an order of the library's own, and products in it have the bytes of plain ones at all heights.

    Args:
        width: Of a square matrix, with padding.
        dtype: What is multiplied.
    """
    if dtype != torch.bfloat16:
        return False
    x, weight = trial(width, dtype)
    with torch.inference_mode(), one_thread():
        try:
            packed = _pack(weight)
            parts = [x[:height].clone() for height in (*HEIGHTS, TILE_ROWS)]
            return all(torch.equal(_multiply_packed(part, packed=packed), part @ weight) for part in parts)
        except (AttributeError, RuntimeError):
            return False  # a PyTorch without oneDNN, or a processor for which that has no bfloat16


def _pack(weight: torch.Tensor) -> Any:
    # The height is a hint, by which the library chooses its order.
    return torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous(), TILE_ROWS)


def _multiply_packed(x: torch.Tensor, *, packed: Any) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return out


def _multiply(x: torch.Tensor, *, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight
