"""The quadratic network's training passes on the CPU: tiles of rows in parallel, each through all layers in turn.

What stands between the matrix products reads and writes a few numbers per operation, so on whole batches it is bound by
memory, while a tile's activations stay in a core's cache: with dropout on the rows these passes take three quarters of
the time. Without dropout they take the same.

A layer's arithmetic is in `qin.network.kernels.quadratic_rows`. What a matrix product reads or writes has whole tiles
of rows and a padded width, with zeros where the batch has nothing: a library may round by the height of a product and
read past a row's end (see `qin.network.kernels.products`). So a row has the same bytes in every tile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from qin.network.dropout import Mask
from qin.network.kernels.arrays import Float32Array
from qin.network.kernels.bf16 import bits_of, round_rows
from qin.network.kernels.products import padded, padded_width
from qin.network.kernels.quadratic_rows import Drop, LayerDrops, LayerOptions, add_rows, backward_rows, forward_rows
from qin.network.threads import TILE_ROWS, in_tiles

_BLOCK_COLUMNS = 256  # outputs of a layer whose gradients one product makes
_LARGE_BATCH = 4 * TILE_ROWS


def tile_rows(num_rows: int) -> int:
    """Rows of a tile: in a large batch twice as many, so that a weight is read half as often.

    At batch 1,024 that saves 7% of a step's CPU time, at 4,096 from 4 to 12%. A small batch has too few rows for two
    threads then. It must not depend on the number of threads, or the bytes would.

    Args:
        num_rows: Of the batch.
    """
    return 2 * TILE_ROWS if num_rows >= _LARGE_BATCH else TILE_ROWS


@dataclass(frozen=True)
class TiledLayer:
    """How a layer's product becomes its output; see `qin.network.kernels.quadratic_rows`.

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

    The result depends neither on the number of threads nor, up to how high a tile is and where in it they are, on other
    rows.

    Args:
        x: `(batch, dim)`, float32, on the CPU.
        layers: At least one.
        weights: Of each layer, `(num_linear * dim, dim)`, float32; one function where they are folded.
        biases: `(num_linear * dim,)` each.
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
        stack = _Stack(layers, dtype, first_row, parameters, tile_rows=tile_rows(len(x)))
        inputs = [x.contiguous(), *(torch.empty_like(x, memory_format=torch.contiguous_format) for _ in layers)]
        height = -(-len(x) // stack.tile_rows) * stack.tile_rows  # of whole tiles: a library may round by the height
        rounded = [_with_zeros(height, x.shape, dtype) for _ in inputs]
        products = [torch.empty(height, padded_width(len(bias)), dtype=dtype) for bias in stack.biases]
        in_tiles(len(x), lambda rows: stack.forward(rows, inputs, rounded, products), tile_rows=stack.tile_rows)
        # No mask is kept, and no sum of rows: the backward pass makes both again, in less time than reading them takes.
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
        grad = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        height = tile_rows(len(grad))
        stack = _Stack(ctx.layers, ctx.dtype, ctx.first_row, parameters, tile_rows=height)
        tiles = in_tiles(len(grad), lambda rows: stack.backward(rows, inputs, products, grad), tile_rows=height)
        # Added up in the tiles' order, whichever thread was first; slopes, one number each, in Python's float64.
        biases = [torch.stack([tile[0][layer] for tile in tiles]).sum(dim=0) for layer in range(depth)]
        slopes = [torch.tensor([sum(tile[1][layer] for tile in tiles)]).float() for layer in range(depth)]
        weights = _grads_of_weights(products, rounded)
        sizes = [(len(bias), grad.shape[1]) for bias in stack.biases]
        weights = [weight[:rows, :columns] for weight, (rows, columns) in zip(weights, sizes, strict=True)]
        return None, None, None, grad, *weights, *biases, *slopes


def _with_zeros(height: int, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """An array for rows of a shape, with more rows and columns, zeros, than they fill."""
    out = torch.empty(height, padded_width(shape[1]), dtype=dtype)
    # Only what the batch does not fill is cleared: all else is written before it is read.
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
        self,
        layers: Sequence[TiledLayer],
        dtype: torch.dtype,
        first_row: int,
        parameters: Sequence[torch.Tensor],
        *,
        tile_rows: int,
    ) -> None:
        self.tile_rows = tile_rows
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
            x, product = inputs[number][rows], products[number][self._whole(rows)]
            torch.mm(rounded[number][self._whole(rows)], weight.t(), out=product)
            out = bits_of(inputs[number + 1][rows]), bits_of(rounded[number + 1][rows])
            forward_rows(bits_of(x), bits_of(product), *self._constants(number, rows), *out)

    @torch.no_grad()
    def backward(
        self, rows: slice, inputs: Sequence[torch.Tensor], products: Sequence[torch.Tensor], grad: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[float]]:
        """Gradients of biases and slopes from the rows of a tile; products and `grad` are replaced by theirs."""
        biases, slopes, grad = [torch.zeros_like(bias) for bias in self.biases], [0.0] * len(inputs), grad[rows]
        # Zeros for the last layer, whose gradient is whole: nothing above it reads its output through a product.
        via_product = torch.zeros(self.tile_rows, padded_width(grad.shape[1]), dtype=products[0].dtype)
        # A layer's own part of the gradient is added by the kernel; its part through the product is made by the library
        # afterwards, and added by the kernel of the layer below, which reads the gradient anyway.
        for number in reversed(range(len(inputs))):
            x, product, bias = inputs[number][rows], products[number][self._whole(rows)], biases[number]
            out = bits_of(via_product), bits_of(grad), bits_of(bias)
            slopes[number] = backward_rows(bits_of(x), bits_of(product), *self._constants(number, rows), *out)
            torch.mm(product, self._weights[number], out=via_product)
        add_rows(bits_of(via_product), bits_of(grad))
        return biases, slopes

    def _whole(self, rows: slice) -> slice:
        """A tile's rows, to the height that all tiles have in arrays that are multiplied."""
        return slice(rows.start, rows.start + self.tile_rows)

    def _constants(self, number: int, rows: slice) -> tuple[Float32Array, LayerOptions, LayerDrops]:
        layer = self._layers[number]
        drops = LayerDrops(self._first_row + rows.start, _drop_of(layer.row_mask), _drop_of(layer.mask))
        return bits_of(self.biases[number]), self._options[number], drops


def _drop_of(mask: Mask) -> Drop:
    return Drop(np.uint64(mask.key), np.uint32(mask.threshold), np.float32(mask.scale))


def _thirds(tensors: Sequence[torch.Tensor]) -> tuple[Sequence[torch.Tensor], ...]:
    size = len(tensors) // 3
    return tensors[:size], tensors[size : 2 * size], tensors[2 * size :]
