"""Matrix products on the CPU whose sums run in an order of ours, and in which no row reads another's numbers.

How a library adds up a product's terms depends on the processor and on the number of threads that it may use: it may
give each thread a part of the terms. So every product here is made by one thread, on a tile of fixed height, and sums
over rows are those of each tile, added up in the tiles' order.

In bfloat16 a library may read past the end of a row whose width is no multiple of what the processor multiplies at
once (32 numbers with AMX), and multiply what it finds in the next row by zero; times infinity, that is not a number.
So the copies that are multiplied are as wide as the next multiple of 64, with zeros at the end.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from qin.network.kernels.choice import has_kernels
from qin.network.threads import in_tiles, one_thread

WIDTH_MULTIPLE = 64
_TILE_ROWS = 512


def padded_width(width: int) -> int:
    """The width of a copy that is multiplied."""
    return -(-width // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


def padded(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A copy of `(n, k)` with zeros up to the next multiple of 64 in both directions, contiguous."""
    num_rows, width = matrix.shape
    out = torch.zeros(padded_width(num_rows), padded_width(width), dtype=dtype)
    out[:num_rows, :width] = matrix.detach()
    return out


def product(x: torch.Tensor, weight: torch.Tensor, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """`x @ weight.T` with gradients; on other devices than the CPU PyTorch's own.

    Args:
        x: `(n, k)`.
        weight: `(m, k)`, of the same type.
        dtype: Bfloat16: what is multiplied and what comes out of it is rounded to it. None: the type of `x`.

    Returns:
        `(n, m)`, of the type of `x`.
    """
    if not has_kernels(x):
        return x @ weight.t()
    out: torch.Tensor = _Product.apply(x, weight, dtype or x.dtype)  # type: ignore[no-untyped-call]
    return out


def stacked_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`a @ b` of each matrix of a stack, `(s, n, k)` and `(s, k, m)`, with gradients; one thread makes all of them."""
    if not has_kernels(a):
        return a @ b
    out: torch.Tensor = _StackedProduct.apply(a, b)  # type: ignore[no-untyped-call]
    return out


def spread(vector: torch.Tensor, num_rows: int) -> torch.Tensor:
    """A parameter `(d,)` as `num_rows` equal rows, whose gradients are added up in one order; elsewhere PyTorch's."""
    if not has_kernels(vector):
        return vector.expand(num_rows, -1)
    out: torch.Tensor = _Spread.apply(vector, num_rows)  # type: ignore[no-untyped-call]
    return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dtype = dtype
        matrix = _operand(weight, dtype).t()
        with torch.inference_mode(mode=False):  # or no other thread could write into it
            out = x.new_empty(len(x), len(weight))

        @torch.no_grad()  # which each thread must say for itself
        def work(rows: slice) -> None:
            _multiply(_operand(x[rows], dtype), matrix, out[rows])

        in_tiles(len(x), work, tile_rows=_TILE_ROWS)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, matrix = grad_outputs[0], _operand(weight, ctx.dtype)
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        (num_outputs, width), needs_weight = weight.shape, ctx.needs_input_grad[1]

        @torch.no_grad()
        def work(rows: slice) -> torch.Tensor | None:
            above = _operand(grad[rows], ctx.dtype)
            _multiply(above, matrix, grad_x[rows])
            if not needs_weight:
                return None
            return (above.t() @ _operand(x[rows], ctx.dtype))[:num_outputs, :width].to(weight.dtype)

        # A weight's gradient is a sum over rows: of each tile, then of the tiles in order, on any number of threads.
        tiles = in_tiles(len(x), work, tile_rows=_TILE_ROWS)
        return grad_x, _added_up(tiles, like=weight) if needs_weight else None, None


class _StackedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        with one_thread():
            return a @ b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a, b = ctx.saved_tensors
        with one_thread():
            return grad_outputs[0] @ b.mT, a.mT @ grad_outputs[0]


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, vector: torch.Tensor, num_rows: int) -> torch.Tensor:
        return vector.expand(num_rows, -1)

    @staticmethod
    @once_differentiable
    def backward(_: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        with one_thread():
            return grad_outputs[0].sum(dim=0), None


def _multiply(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    """Write `a @ b`, without the padding that it may have, into `out`."""
    if a.dtype == out.dtype and (len(a), b.shape[1]) == out.shape:
        torch.mm(a, b, out=out)
    else:
        out.copy_((a @ b)[: out.shape[0], : out.shape[1]])


def _operand(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is multiplied: bfloat16 is padded, wider types are read by the row's own width everywhere."""
    return padded(matrix, dtype) if dtype == torch.bfloat16 else matrix.detach()


def _added_up(parts: list[Any], *, like: torch.Tensor) -> torch.Tensor:
    if not parts:
        return torch.zeros_like(like)
    total: torch.Tensor = parts[0]
    for part in parts[1:]:
        total += part
    return total
