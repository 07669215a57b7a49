"""The quadratic network's training passes on the CPU: tiles of rows in parallel, each through all layers in turn.

What stands between the matrix products reads and writes a few numbers per operation, so on whole batches it is bound by
memory, while a tile's activations stay in a core's cache: with dropout on the rows these passes take three quarters of
the time. Without dropout they take the same.

One residual layer around its matrix product, forward and backward, over the rows of a tile:

    total = sum_r row_mask_r * (product_r + bias_r)       relu(total) where rectified
    out   = x + mask * prelu(x * total)

The kernels compute in float32 and read every number once. What a matrix product reads or writes is of its type,
bfloat16 by its bits (`qin.network.kernels.bf16`) or float32, and may have more rows and columns than said here (see
`qin.network.kernels.products`), which are zero before they are read. Arrays are C-contiguous, `(n, dim)` or
`(n, num_rows * dim)`; masks are made again in the backward pass instead of kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from qin.network.dropout import Mask, keep_row
from qin.network.kernels.arrays import Float32Array, ProductArray
from qin.network.kernels.bf16 import bits_of, round_row, round_rows, widen_row
from qin.network.kernels.products import padded, padded_width
from qin.network.threads import TILE_ROWS, in_tiles
from qin.runtime.jit import njit

_BLOCK_COLUMNS = 256  # outputs of a layer whose gradients one product makes


@dataclass(frozen=True)
class TiledLayer:
    """How a layer's product becomes its output; see `qin.network.kernels.quadratic`.

    Attributes:
        rectified: Whether the sum of rows passes a relu.
        activated: Whether the product passes a prelu.
        row_mask: Dropout of the rows.
        mask: Dropout of the layer's output.
    """

    rectified: bool
    activated: bool
    row_mask: Mask
    mask: Mask


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


def run_layers(
    x: torch.Tensor,
    layers: Sequence[TiledLayer],
    *,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    slopes: Sequence[torch.Tensor],
    dtype: torch.dtype,
    first_row: int = 0,
) -> torch.Tensor:
    """Residual quadratic layers one after the other, with gradients of everything.

    The result depends neither on the number of threads nor, up to which tile they are in, on other rows.

    Args:
        x: `(batch, dim)`, float32, on the CPU.
        layers: At least one.
        weights: Of each layer, `(num_rows * dim, dim)`, float32; one row where the rows are folded.
        biases: `(num_rows * dim,)` each.
        slopes: Of each layer's activation below zero, `(1,)` each, read where there is an activation.
        dtype: What matrix products read and give: float32 or bfloat16. All else is float32.
        first_row: Number of the first row in the batch that several processes share; masks depend on it.

    Returns:
        `(batch, dim)`.
    """
    out: torch.Tensor = _Layers.apply(layers, dtype, first_row, x, *weights, *biases, *slopes)  # type: ignore[no-untyped-call]
    return out


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layers: Sequence[TiledLayer],
        dtype: torch.dtype,
        first_row: int,
        x: torch.Tensor,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        stack = _Stack(layers, dtype, first_row, parameters)
        inputs = [x.contiguous(), *(torch.empty_like(x, memory_format=torch.contiguous_format) for _ in layers)]
        height = -(-len(x) // TILE_ROWS) * TILE_ROWS  # of whole tiles: a library may round by the height
        rounded = [_with_zeros(height, x.shape, dtype) for _ in inputs]
        products = [torch.empty(height, padded_width(len(bias)), dtype=dtype) for bias in stack.biases]
        in_tiles(len(x), lambda rows: stack.forward(rows, inputs, rounded, products))
        ctx.save_for_backward(*parameters, *inputs[:-1], *rounded[:-1], *products)
        ctx.layers, ctx.dtype, ctx.first_row, ctx.is_spent = layers, dtype, first_row, False
        return inputs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.is_spent:  # its products are their gradients now
            raise RuntimeError("the quadratic network's layers can run backward once, not twice")
        ctx.is_spent = True
        depth = len(ctx.layers)
        saved = ctx.saved_tensors
        parameters, (inputs, rounded, products) = saved[: 3 * depth], _thirds(saved[3 * depth :])
        stack = _Stack(ctx.layers, ctx.dtype, ctx.first_row, parameters)
        grad = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        tiles = in_tiles(len(grad), lambda rows: stack.backward(rows, inputs, products, grad))
        biases = [torch.stack([tile[0][layer] for tile in tiles]).sum(dim=0) for layer in range(depth)]
        slopes = [torch.tensor([sum(tile[1][layer] for tile in tiles)]).float() for layer in range(depth)]
        weights = _grads_of_weights(products, rounded)
        sizes = [(len(bias), grad.shape[1]) for bias in stack.biases]
        weights = [weight[:rows, :columns] for weight, (rows, columns) in zip(weights, sizes, strict=True)]
        return None, None, None, grad, *weights, *biases, *slopes


def _with_zeros(height: int, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """An array for rows of a shape, with more rows and columns, zeros, than they fill."""
    out = torch.empty(height, padded_width(shape[1]), dtype=dtype)
    out[shape[0] :] = 0.0
    out[:, shape[1] :] = 0.0
    return out


def _grads_of_weights(products: Sequence[torch.Tensor], rounded: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """`product.T @ x` of each layer, float32.

    Each block of outputs is one product over all rows, made by one thread: no sum over rows is divided among threads.
    """
    grads = [torch.empty(product.shape[1], x.shape[1]) for product, x in zip(products, rounded, strict=True)]
    blocks = [
        (layer, slice(start, start + _BLOCK_COLUMNS))
        for layer, product in enumerate(products)
        for start in range(0, product.shape[1], _BLOCK_COLUMNS)
    ]

    @torch.no_grad()
    def work(part: slice) -> None:
        for layer, columns in blocks[part]:
            grads[layer][columns] = products[layer][:, columns].t() @ rounded[layer]

    in_tiles(len(blocks), work, tile_rows=1)
    return grads


class _Stack:
    """Layers with their parameters, and their passes over one tile."""

    def __init__(
        self, layers: Sequence[TiledLayer], dtype: torch.dtype, first_row: int, parameters: Sequence[torch.Tensor]
    ) -> None:
        weights, self.biases, slopes = _thirds(parameters)
        self._layers, self._first_row = layers, first_row
        self._weights = [padded(weight, dtype) for weight in weights]
        self._options = [
            LayerOptions(layer.rectified, layer.activated, np.float32(slope.item() if layer.activated else 1.0))
            for layer, slope in zip(layers, slopes, strict=True)
        ]

    @torch.inference_mode()  # which each thread must say for itself
    def forward(
        self, rows: slice, inputs: list[torch.Tensor], rounded: list[torch.Tensor], products: list[torch.Tensor]
    ) -> None:
        """Fill a tile's rows of inputs, of what products read of them, and of products; the first input is there."""
        round_rows(bits_of(inputs[0][rows]), bits_of(rounded[0][rows]))
        for number, weight in enumerate(self._weights):
            x, product = inputs[number][rows], products[number][_whole(rows)]
            torch.mm(rounded[number][_whole(rows)], weight.t(), out=product)
            out = bits_of(inputs[number + 1][rows]), bits_of(rounded[number + 1][rows])
            forward_rows(bits_of(x), bits_of(product), *self._constants(number, rows), *out)

    @torch.no_grad()
    def backward(
        self, rows: slice, inputs: Sequence[torch.Tensor], products: Sequence[torch.Tensor], grad: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[float]]:
        """Gradients of biases and slopes from the rows of a tile; products and `grad` are replaced by theirs."""
        biases, slopes, grad = [torch.zeros_like(bias) for bias in self.biases], [0.0] * len(inputs), grad[rows]
        via_product = torch.zeros(TILE_ROWS, padded_width(grad.shape[1]), dtype=products[0].dtype)
        for number in reversed(range(len(inputs))):
            x, product, bias = inputs[number][rows], products[number][_whole(rows)], biases[number]
            out = bits_of(via_product), bits_of(grad), bits_of(bias)
            slopes[number] = backward_rows(bits_of(x), bits_of(product), *self._constants(number, rows), *out)
            torch.mm(product, self._weights[number], out=via_product)
        add_rows(bits_of(via_product), bits_of(grad))
        return biases, slopes

    def _constants(self, number: int, rows: slice) -> tuple[Float32Array, LayerOptions, LayerDrops]:
        layer = self._layers[number]
        drops = LayerDrops(self._first_row + rows.start, _drop_of(layer.row_mask), _drop_of(layer.mask))
        return bits_of(self.biases[number]), self._options[number], drops


def _whole(rows: slice) -> slice:
    """A tile's rows, to the height that all tiles have in arrays that are multiplied."""
    return slice(rows.start, rows.start + TILE_ROWS)


def _drop_of(mask: Mask) -> Drop:
    return Drop(np.uint64(mask.key), np.uint32(mask.threshold), np.float32(mask.scale))


def _thirds(tensors: Sequence[torch.Tensor]) -> tuple[Sequence[torch.Tensor], ...]:
    size = len(tensors) // 3
    return tensors[:size], tensors[size : 2 * size], tensors[2 * size :]


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
        product: `W x`, `(n, num_rows * dim)`.
        bias: `(num_rows * dim,)`.
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
        product: `W x`, `(n, num_rows * dim)`; replaced by its gradient.
        bias: `(num_rows * dim,)`.
        options: What becomes of the product.
        drops: Dropout of these rows, the one of the forward pass.
        via_product: What the gradient of `out` still lacks: the part through the next layer's product, `(n, dim)`.
        grad: The rest of it, replaced, `(n, dim)`.
        grad_bias: Added to, `(num_rows * dim,)`.

    Returns:
        The gradient of the slope, 0 without one.
    """
    wide, total, kept_rows, kept = _scratch(bias, x.shape[1])
    grad_slope = 0.0
    for i in range(x.shape[0]):
        _draw_row(i, drops, kept_rows, kept)
        widen_row(product[i, : bias.size], wide)
        _sum_rows(wide, bias, kept_rows, total)
        add_row(via_product[i, : total.size], wide[: total.size], grad[i])
        if options.activated:
            grad_slope += _grad_of_slope(x[i], total, kept, options, grad[i])
        _backward_row(x[i], total, kept, options, grad[i])  # leaves the gradient of the sum in `total`
        _spread_rows(total, kept_rows, wide, grad_bias)
        round_row(wide, product[i])
        product[i, bias.size :] = 0  # where a row that holds infinity left a NaN
    product[x.shape[0] :] = 0
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
    for d in range(x.size):
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
        passed = grad[d] * kept[d] * (one if x[d] * factor > zero else below)
        grad[d] += passed * factor
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
