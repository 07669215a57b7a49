"""The mean of each history's items on the CPU, forward and backward, in one pass each."""

from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from qin.network.kernels.arrays import BoolArray, Float32Array
from qin.network.threads import in_tiles
from qin.runtime.jit import njit


def tiled_means(values: torch.Tensor, is_valid: torch.Tensor) -> torch.Tensor:
    """The mean over the valid items of each row, 0 where there are none, with gradients.

    The result does not depend on the number of threads.

    Args:
        values: `(batch, seq, dim)`, float32, on the CPU.
        is_valid: `(batch, seq)`, bool.

    Returns:
        `(batch, dim)`.
    """
    out: torch.Tensor = _Means.apply(values, is_valid)  # type: ignore[no-untyped-call]
    return out


class _Means(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, is_valid: torch.Tensor) -> torch.Tensor:
        valid, array = is_valid.contiguous().numpy(), values.detach().contiguous().numpy()
        out = values.new_empty(len(values), values.shape[2])
        means = out.numpy()
        in_tiles(len(values), lambda rows: _average(array[rows], valid[rows], means[rows]))
        ctx.valid, ctx.shape = valid, values.shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        above, grad = grad_outputs[0].contiguous().numpy(), grad_outputs[0].new_empty(ctx.shape)
        below = grad.numpy()
        in_tiles(len(grad), lambda rows: _average_back(above[rows], ctx.valid[rows], below[rows]))
        return grad, None


@njit(nogil=True)
def _average(values: Float32Array, is_valid: BoolArray, out: Float32Array) -> None:
    """Write the means of `(n, seq, dim)` into `(n, dim)`; see `tiled_means`."""
    for i in range(values.shape[0]):
        total, length = out[i], max(np.sum(is_valid[i]), 1)  # an empty history's mean is 0, not 0 / 0
        total[:] = 0.0
        for position in range(values.shape[1]):
            if is_valid[i, position]:
                for d in range(total.size):
                    total[d] += values[i, position, d]
        for d in range(total.size):
            total[d] /= length


@njit(nogil=True)
def _average_back(above: Float32Array, is_valid: BoolArray, below: Float32Array) -> None:
    """Write the gradient of the values, `(n, seq, dim)`, of that of the means, `(n, dim)`."""
    for i in range(below.shape[0]):
        length = max(np.sum(is_valid[i]), 1)
        for position in range(below.shape[1]):
            share = below[i, position]
            for d in range(share.size):
                share[d] = above[i, d] / length if is_valid[i, position] else 0.0
