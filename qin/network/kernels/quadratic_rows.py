"""One residual quadratic layer around its matrix product, row by row, forward and backward.

    total = sum_r row_mask_r * (product_r + bias_r)       relu(total) where rectified
    out   = x + mask * prelu(x * total)

The kernels compute in float32 and read every number once. What a matrix product reads or writes is of its type,
bfloat16 by its bits (`qin.network.kernels.bf16`) or float32, and may have more rows and columns than said here (see
`qin.network.kernels.products`), which are zero before they are read. Arrays are C-contiguous, `(n, dim)` or
`(n, num_linear * dim)`; masks are made again in the backward pass instead of kept.

The loops over a row's numbers are functions of their own with one array index, `d`, because the compiler then uses
vector registers. `fastmath` is `contract` alone where a result is kept: a product and a sum may become one rounding,
while no sum changes its order, so that a row's bytes depend on nothing beside it. Only the slope's gradient, one number
of thousands of terms, may be added up in any order (`reassoc`), which the compiler fixes once for all rows.
"""

from typing import NamedTuple

import numpy as np

from qin.network.dropout import keep_row
from qin.network.kernels.arrays import Float32Array, ProductArray
from qin.network.kernels.bf16 import round_row, widen_row
from qin.runtime.jit import njit


class LayerOptions(NamedTuple):
    """What a layer does with its product.

    Attributes:
        rectified: Whether the sum of rows passes a relu.
        activated: Whether the product passes a prelu.
        slope: Of the prelu below zero, 1 without one.
    """

    rectified: bool
    activated: bool
    slope: np.float32


class Drop(NamedTuple):
    """A `Mask` as kernels draw it.

    Attributes:
        key: Of its random words.
        threshold: Words below it drop an element; 0 drops none.
        scale: What an element that is kept is multiplied by.
    """

    key: np.uint64
    threshold: np.uint32
    scale: np.float32


class LayerDrops(NamedTuple):
    """Dropout of a layer over the rows of a tile.

    Attributes:
        first_row: Number of the tile's first row in the batch of all processes, on which the words depend.
        of_rows: Of the linear functions' outputs.
        of_output: Of the layer's output.
    """

    first_row: int
    of_rows: Drop
    of_output: Drop


@njit(nogil=True)
def forward_rows(
    x: Float32Array,
    product: ProductArray,
    bias: Float32Array,
    options: LayerOptions,
    drops: LayerDrops,
    out: Float32Array,
    rounded: ProductArray,
) -> None:
    """The forward pass.

    Args:
        x: `(n, dim)`.
        product: `W x`, `(n, num_linear * dim)`.
        bias: `(num_linear * dim,)`.
        options: What becomes of the product.
        drops: Dropout of these rows.
        out: `(n, dim)`.
        rounded: `out` as the next layer's product reads it, `(n, dim)`.
    """
    wide, total, kept_rows, kept = _scratch(bias, x.shape[1])
    for i in range(x.shape[0]):
        _draw_row(i, drops, kept_rows, kept)
        widen_row(product[i, : bias.size], wide)
        _sum_rows(wide, bias, kept_rows, total)
        _forward_row(x[i], total, kept, options, out[i])
        round_row(out[i], rounded[i])


@njit(nogil=True)
def backward_rows(
    x: Float32Array,
    product: ProductArray,
    bias: Float32Array,
    options: LayerOptions,
    drops: LayerDrops,
    via_product: ProductArray,
    grad: Float32Array,
    grad_bias: Float32Array,
) -> float:
    """The backward pass: the gradient of `out` becomes that of `x`, but for the part through the product.

    Args:
        x: The layer's input, `(n, dim)`.
        product: `W x`, `(n, num_linear * dim)`; replaced by its gradient.
        bias: `(num_linear * dim,)`.
        options: What becomes of the product.
        drops: Dropout of these rows, the one of the forward pass.
        via_product: What the gradient of `out` still lacks: the part through the next layer's product, `(n, dim)`.
        grad: The rest of it, replaced, `(n, dim)`.
        grad_bias: Added to, `(num_linear * dim,)`.

    Returns:
        The gradient of the slope, 0 without one.
    """
    wide, total, kept_rows, kept = _scratch(bias, x.shape[1])
    grad_slope = 0.0
    for i in range(x.shape[0]):
        # The layer's sum is made again, not kept: it is as large as the batch, and its product is at hand.
        _draw_row(i, drops, kept_rows, kept)
        widen_row(product[i, : bias.size], wide)
        _sum_rows(wide, bias, kept_rows, total)
        add_row(via_product[i, : total.size], wide[: total.size], grad[i])
        if options.activated:  # before `_backward_row`, which overwrites the sum and the gradient that it reads
            grad_slope += _grad_of_slope(x[i], total, kept, options, grad[i])
        _backward_row(x[i], total, kept, options, grad[i])  # leaves the gradient of the sum in `total`
        _spread_rows(total, kept_rows, wide, grad_bias)
        round_row(wide, product[i])
        product[i, bias.size :] = 0  # where a row that holds infinity left a NaN
    product[x.shape[0] :] = 0  # the last tile's product of weights reads whole tiles
    return grad_slope


@njit(nogil=True)
def add_rows(via_product: ProductArray, grad: Float32Array) -> None:
    """Add what a matrix product gave, `(n, dim)`, to a gradient of the same shape."""
    wide = np.empty(grad.shape[1], np.float32)
    for i in range(grad.shape[0]):
        add_row(via_product[i, : wide.size], wide, grad[i])


@njit(nogil=True)
def add_row(via_product: ProductArray, wide: Float32Array, grad: Float32Array) -> None:
    """One row of `add_rows`; `wide` is scratch of the row's size."""
    widen_row(via_product, wide)
    for d in range(grad.size):
        grad[d] += wide[d]


@njit(nogil=True)
def _scratch(bias: Float32Array, dim: int) -> tuple[Float32Array, Float32Array, Float32Array, Float32Array]:
    """Once per tile, not per row: the product and the sum of rows, then masks, ones where nothing is dropped."""
    wide, total = np.empty(bias.size, np.float32), np.empty(dim, np.float32)
    return wide, total, np.ones(bias.size, np.float32), np.ones(dim, np.float32)


@njit(nogil=True)
def _draw_row(i: int, drops: LayerDrops, kept_rows: Float32Array, kept: Float32Array) -> None:
    """Draw the masks again instead of reading them: a few operations per number, where memory is what is short."""
    row, of_rows, of_output = drops.first_row + i, drops.of_rows, drops.of_output
    if of_rows.threshold:
        keep_row(of_rows.key, of_rows.threshold, row, of_rows.scale, kept_rows)
    if of_output.threshold:
        keep_row(of_output.key, of_output.threshold, row, of_output.scale, kept)


@njit(nogil=True, fastmath={"contract"})
def _forward_row(
    x: Float32Array, total: Float32Array, kept: Float32Array, options: LayerOptions, out: Float32Array
) -> None:
    zero, below = np.float32(0.0), options.slope
    for d in range(x.size):  # no `max`: a NaN fails every comparison, and stays one
        term = x[d] * (zero if options.rectified and total[d] <= zero else total[d])
        out[d] = x[d] + kept[d] * (term if term > zero else below * term)


@njit(nogil=True, fastmath={"contract"})
def _backward_row(
    x: Float32Array, total: Float32Array, kept: Float32Array, options: LayerOptions, grad: Float32Array
) -> None:
    zero, one, below = np.float32(0.0), np.float32(1.0), options.slope
    for d in range(x.size):
        is_cut = options.rectified and total[d] <= zero
        factor = zero if is_cut else total[d]
        # out = x + kept * prelu(x * factor): `passed` is the gradient of x * factor, whose two sides follow
        passed = grad[d] * kept[d] * (one if x[d] * factor > zero else below)
        grad[d] += passed * factor  # beside the residual's own, which is there
        total[d] = zero if is_cut else passed * x[d]


@njit(nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _grad_of_slope(
    x: Float32Array, total: Float32Array, kept: Float32Array, options: LayerOptions, grad: Float32Array
) -> float:
    zero, sum_of_row = np.float32(0.0), np.float32(0.0)
    for d in range(x.size):
        term = x[d] * (zero if options.rectified and total[d] <= zero else total[d])
        sum_of_row += zero if term > zero else grad[d] * kept[d] * term
    return float(sum_of_row)


# Parts of a row are taken as views: indices with an offset keep the compiler from vector registers, four times as slow.
@njit(nogil=True)
def _sum_rows(wide: Float32Array, bias: Float32Array, kept: Float32Array, total: Float32Array) -> None:
    total[:] = np.float32(0.0)
    for start in range(0, kept.size, total.size):
        part = slice(start, start + total.size)
        _sum_row(wide[part], bias[part], kept[part], total)


@njit(nogil=True, fastmath={"contract"})
def _sum_row(wide: Float32Array, bias: Float32Array, kept: Float32Array, total: Float32Array) -> None:
    for d in range(total.size):
        total[d] += (wide[d] + bias[d]) * kept[d]


@njit(nogil=True)
def _spread_rows(grad_total: Float32Array, kept: Float32Array, wide: Float32Array, grad_bias: Float32Array) -> None:
    for start in range(0, kept.size, grad_total.size):
        part = slice(start, start + grad_total.size)
        _spread_row(grad_total, kept[part], wide[part], grad_bias[part])


@njit(nogil=True, fastmath={"contract"})
def _spread_row(grad_total: Float32Array, kept: Float32Array, wide: Float32Array, grad_bias: Float32Array) -> None:
    for d in range(grad_total.size):
        wide[d] = grad_total[d] * kept[d]
        grad_bias[d] += wide[d]
