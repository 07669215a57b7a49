"""What the quadratic network's products pass, with sums over a batch in an order of ours on the CPU."""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from qin.network.kernels.choice import has_kernels
from qin.network.kernels.products import spread
from qin.network.threads import one_thread


def normalise(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a norm makes of `(batch, dim)`.

    On the CPU, PyTorch's gradients of batch norm and of an RMS norm's weight depend on the number of threads.
    """
    if has_kernels(x) and isinstance(norm, nn.BatchNorm1d) and norm.training:
        return _batch_norm(norm, x)
    if has_kernels(x) and isinstance(norm, nn.RMSNorm):
        eps = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
        return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt() * spread(norm.weight, len(x))
    normalised: torch.Tensor = norm(x)
    return normalised


def _batch_norm(norm: nn.BatchNorm1d, x: torch.Tensor) -> torch.Tensor:
    """Batch norm in training, with its running averages.

    Source: Ioffe and Szegedy (2015), algorithm 1.

    Raises:
        ValueError: The batch has one row, which has no variance.
    """
    num_rows = len(x)
    if num_rows < 2:
        raise ValueError(f"batch norm in training needs at least 2 rows, got {num_rows}")
    mean = _column_sums(x) / num_rows
    centred = x - spread(mean, num_rows)
    variance = _column_sums(centred.square()) / num_rows
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        # Unbiased, though the batch is divided by its own variance: as PyTorch has it.
        norm.running_var.lerp_(variance * (num_rows / (num_rows - 1)), norm.momentum)
    scale = (variance + norm.eps).rsqrt() * norm.weight
    return centred * spread(scale, num_rows) + spread(norm.bias, num_rows)


def _column_sums(x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = _ColumnSums.apply(x)  # type: ignore[no-untyped-call]
    return out


class _ColumnSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.num_rows = len(x)
        with one_thread():
            return x.sum(dim=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        return grad_outputs[0].expand(ctx.num_rows, -1)
