"""The quadratic network's training passes on the CPU: tiles of rows in parallel, each through all layers in turn.

What stands between the matrix products reads and writes a few numbers per operation, so on whole batches it is bound by
memory, while a tile's activations stay in a core's cache: with dropout on the rows these passes take three quarters of
the time. Without dropout they take the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from qin.network.dropout import Mask
from qin.network.kernels.bf16 import bits_of, round_rows
from qin.network.kernels.layer_kernels import add_rows, advance_rows, retreat_rows
from qin.network.threads import in_tiles


@dataclass(frozen=True)
class TiledLayer:
    """How a layer's product becomes its output; see `qin.network.kernels.layer_kernels`.

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

    Returns:
        `(batch, dim)`.
    """
    out: torch.Tensor = _Layers.apply(layers, dtype, x, *weights, *biases, *slopes)  # type: ignore[no-untyped-call]
    return out


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layers: Sequence[TiledLayer], dtype: torch.dtype, x: torch.Tensor, *parameters: torch.Tensor
    ) -> torch.Tensor:
        stack = _Stack(layers, dtype, parameters)
        inputs = [x.contiguous(), *(torch.empty_like(x, memory_format=torch.contiguous_format) for _ in layers)]
        rounded = [torch.empty(x.shape, dtype=dtype) for _ in inputs]
        products = [torch.empty(len(x), len(bias), dtype=dtype) for bias in stack.biases]
        in_tiles(len(x), lambda rows: stack.advance(rows, inputs, rounded, products))
        ctx.save_for_backward(*parameters, *inputs[:-1], *rounded[:-1], *products)
        ctx.layers, ctx.dtype, ctx.is_spent = layers, dtype, False
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
        stack = _Stack(ctx.layers, ctx.dtype, parameters)
        grad = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        tiles = in_tiles(len(grad), lambda rows: stack.retreat(rows, inputs, products, grad))
        biases = [torch.stack([tile[0][layer] for tile in tiles]).sum(dim=0) for layer in range(depth)]
        slopes = [torch.tensor([sum(tile[1][layer] for tile in tiles)]).float() for layer in range(depth)]
        weights = [(product.t() @ x).float() for product, x in zip(products, rounded, strict=True)]
        return None, None, grad, *weights, *biases, *slopes


class _Stack:
    """Layers with their parameters, and their passes over one tile."""

    def __init__(self, layers: Sequence[TiledLayer], dtype: torch.dtype, parameters: Sequence[torch.Tensor]) -> None:
        weights, self.biases, slopes = _thirds(parameters)
        self._layers = layers
        self._weights = [weight.detach().to(dtype) for weight in weights]
        self._options = [
            (layer.rectified, layer.activated, np.float32(slope.item() if layer.activated else 1.0))
            for layer, slope in zip(layers, slopes, strict=True)
        ]

    @torch.inference_mode()  # which each thread must say for itself
    def advance(
        self, rows: slice, inputs: list[torch.Tensor], rounded: list[torch.Tensor], products: list[torch.Tensor]
    ) -> None:
        """Fill a tile's rows of inputs, of what products read of them, and of products; the first input is there."""
        round_rows(bits_of(inputs[0][rows]), bits_of(rounded[0][rows]))
        for number, weight in enumerate(self._weights):
            x, product = inputs[number][rows], products[number][rows]
            torch.mm(rounded[number][rows], weight.t(), out=product)
            out = bits_of(inputs[number + 1][rows]), bits_of(rounded[number + 1][rows])
            advance_rows(bits_of(x), bits_of(product), *self._constants(number, rows), *out)

    @torch.no_grad()
    def retreat(
        self, rows: slice, inputs: Sequence[torch.Tensor], products: Sequence[torch.Tensor], grad: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[float]]:
        """Gradients of biases and slopes from the rows of a tile; products and `grad` are replaced by theirs."""
        biases, slopes, grad = [torch.zeros_like(bias) for bias in self.biases], [0.0] * len(inputs), grad[rows]
        through = torch.zeros(grad.shape, dtype=products[0].dtype)
        for number in reversed(range(len(inputs))):
            x, product, bias = inputs[number][rows], products[number][rows], biases[number]
            out = bits_of(through), bits_of(grad), bits_of(bias)
            slopes[number] = retreat_rows(bits_of(x), bits_of(product), *self._constants(number, rows), *out)
            torch.mm(product, self._weights[number], out=through)
        add_rows(bits_of(through), bits_of(grad))
        return biases, slopes

    def _constants(self, number: int, rows: slice) -> tuple[Any, Any, Any]:
        layer = self._layers[number]
        drops = (rows.start, *_arguments(layer.row_mask), *_arguments(layer.mask))
        return bits_of(self.biases[number]), self._options[number], drops


def _arguments(mask: Mask) -> tuple[Any, ...]:
    return np.uint64(mask.key), np.uint32(mask.threshold), np.float32(mask.scale)


def _thirds(tensors: Sequence[torch.Tensor]) -> tuple[Sequence[torch.Tensor], ...]:
    size = len(tensors) // 3
    return tensors[:size], tensors[size : 2 * size], tensors[2 * size :]
