"""One residual quadratic layer around its matrix product, forward and backward, over the rows of a tile.

    total = sum_r row_mask_r * (product_r + bias_r)       relu(total) where rectified
    out   = x + mask * prelu(x * total)

They compute in float32 and read every number once. What a matrix product reads or writes is of its type, bfloat16 by
its bits (`qin.network.kernels.bf16`) or float32. Arrays are C-contiguous, `(n, dim)` or `(n, num_rows * dim)`; masks
are made again in the backward pass instead of kept.
"""

from typing import Any

import numpy as np

from qin.network.dropout import keep_row
from qin.network.kernels.bf16 import round_row, widen_row
from qin.runtime.jit import njit


@njit(nogil=True)
def advance_rows(x: Any, product: Any, bias: Any, options: Any, drops: Any, out: Any, rounded: Any) -> None:
    """The forward pass.

    Args:
        x: `(n, dim)`.
        product: `W x`, `(n, num_rows * dim)`.
        bias: `(num_rows * dim,)`.
        options: Whether the sum of rows passes a relu, whether the product passes a prelu, and its slope below zero, 1
            without one.
        drops: Number of the first row, then key, threshold and scale of the rows' mask and of the layer's.
        out: `(n, dim)`.
        rounded: `out` as the next layer's product reads it, `(n, dim)`.
    """
    wide, total, kept_rows, kept = _scratch(bias, x.shape[1])
    for i in range(x.shape[0]):
        _draw_row(i, drops, kept_rows, kept)
        widen_row(product[i], wide)
        _sum_rows(wide, bias, kept_rows, total)
        _advance_row(x[i], total, kept, options, out[i])
        round_row(out[i], rounded[i])


@njit(nogil=True)
def retreat_rows(
    x: Any, product: Any, bias: Any, options: Any, drops: Any, through: Any, grad: Any, grad_bias: Any
) -> float:
    """The backward pass: the gradient of `out` becomes that of `x`, but for the part through the product.

    Args:
        x: As in `advance_rows`, as for the next four.
        product: Replaced by its gradient.
        bias: See there.
        options: See there.
        drops: See there.
        through: What the gradient of `out` still lacks: the part through the next layer's product, `(n, dim)`.
        grad: The rest of it, replaced, `(n, dim)`.
        grad_bias: Added to, `(num_rows * dim,)`.

    Returns:
        The gradient of the slope, 0 without one.
    """
    wide, total, kept_rows, kept = _scratch(bias, x.shape[1])
    grad_slope = 0.0
    for i in range(x.shape[0]):
        _draw_row(i, drops, kept_rows, kept)
        widen_row(product[i], wide)
        _sum_rows(wide, bias, kept_rows, total)
        add_row(through[i], wide[: total.size], grad[i])
        if options[1]:
            grad_slope += _grad_of_slope(x[i], total, kept, options, grad[i])
        _retreat_row(x[i], total, kept, options, grad[i])  # leaves the gradient of the sum in `total`
        _spread_rows(total, kept_rows, wide, grad_bias)
        round_row(wide, product[i])
    return grad_slope


@njit(nogil=True)
def add_rows(through: Any, grad: Any) -> None:
    """Add what a matrix product gave, `(n, dim)`, to a gradient of the same shape."""
    wide = np.empty(grad.shape[1], np.float32)
    for i in range(grad.shape[0]):
        add_row(through[i], wide, grad[i])


@njit(nogil=True)
def add_row(through: Any, wide: Any, grad: Any) -> None:
    """One row of `add_rows`; `wide` is scratch of the row's size."""
    widen_row(through, wide)
    for d in range(grad.size):
        grad[d] += wide[d]


@njit(nogil=True)
def _scratch(bias: Any, dim: int) -> Any:
    wide, total = np.empty(bias.size, np.float32), np.empty(dim, np.float32)
    return wide, total, np.ones(bias.size, np.float32), np.ones(dim, np.float32)


@njit(nogil=True)
def _draw_row(i: int, drops: Any, kept_rows: Any, kept: Any) -> None:
    first_row, row_key, row_threshold, row_scale, key, threshold, scale = drops
    if row_threshold:
        keep_row(row_key, row_threshold, first_row + i, row_scale, kept_rows)
    if threshold:
        keep_row(key, threshold, first_row + i, scale, kept)


@njit(nogil=True, fastmath={"contract"})
def _advance_row(x: Any, total: Any, kept: Any, options: Any, out: Any) -> None:
    rectified, _, slope = options
    zero, below = np.float32(0.0), np.float32(slope)
    for d in range(x.size):
        term = x[d] * (zero if rectified and total[d] <= zero else total[d])
        out[d] = x[d] + kept[d] * (term if term > zero else below * term)


@njit(nogil=True, fastmath={"contract"})
def _retreat_row(x: Any, total: Any, kept: Any, options: Any, grad: Any) -> None:
    rectified, _, slope = options
    zero, one, below = np.float32(0.0), np.float32(1.0), np.float32(slope)
    for d in range(x.size):
        is_cut = rectified and total[d] <= zero
        factor = zero if is_cut else total[d]
        passed = grad[d] * kept[d] * (one if x[d] * factor > zero else below)
        grad[d] += passed * factor
        total[d] = zero if is_cut else passed * x[d]


@njit(nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _grad_of_slope(x: Any, total: Any, kept: Any, options: Any, grad: Any) -> float:
    zero, sum_of_row = np.float32(0.0), np.float32(0.0)
    for d in range(x.size):
        term = x[d] * (zero if options[0] and total[d] <= zero else total[d])
        sum_of_row += zero if term > zero else grad[d] * kept[d] * term
    return float(sum_of_row)


# Parts of a row are taken as views: indices with an offset keep the compiler from vector registers, four times as slow.
@njit(nogil=True)
def _sum_rows(wide: Any, bias: Any, kept: Any, total: Any) -> None:
    total[:] = np.float32(0.0)
    for start in range(0, kept.size, total.size):
        part = slice(start, start + total.size)
        _sum_row(wide[part], bias[part], kept[part], total)


@njit(nogil=True, fastmath={"contract"})
def _sum_row(wide: Any, bias: Any, kept: Any, total: Any) -> None:
    for d in range(total.size):
        total[d] += (wide[d] + bias[d]) * kept[d]


@njit(nogil=True)
def _spread_rows(grad_total: Any, kept: Any, wide: Any, grad_bias: Any) -> None:
    for start in range(0, kept.size, grad_total.size):
        part = slice(start, start + grad_total.size)
        _spread_row(grad_total, kept[part], wide[part], grad_bias[part])


@njit(nogil=True, fastmath={"contract"})
def _spread_row(grad_total: Any, kept: Any, wide: Any, grad_bias: Any) -> None:
    for d in range(grad_total.size):
        wide[d] = grad_total[d] * kept[d]
        grad_bias[d] += wide[d]
