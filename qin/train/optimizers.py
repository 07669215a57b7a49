"""Several optimizers driven as one, Adam for large embedding tables, and clipping that knows sparse gradients.

A step of `RowWiseAdam` moves the rows that were read, and costs nothing for the others. A table of `num_rows` rows
holds `dim + 1` floats of state per row: 680 MB for ten million rows of width 16.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from qin.distributed.ranks import ONE, Ranks
from qin.network.kernels.choice import has_kernels
from qin.network.kernels.row_gradient import merged
from qin.network.threads import even_cuts, in_parallel, in_tiles
from qin.runtime.jit import njit

_NORM_CHUNK = 1 << 18  # numbers of a gradient whose squares one thread adds up


class Optimizers:
    """Optimizers of different parameters, with the interface of a single one.

    Args:
        parts: The optimizers.

    Raises:
        ValueError: If there is none, or two hold the same parameter.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        parameters = [id(parameter) for part in parts for group in part.param_groups for parameter in group["params"]]
        if not parts:
            raise ValueError("there must be at least one optimizer, got none")
        if len(set(parameters)) != len(parameters):
            raise ValueError("a parameter must belong to one optimizer, got one in two")
        self._parts = parts

    @property
    def parts(self) -> tuple[torch.optim.Optimizer, ...]:
        """The optimizers."""
        return self._parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of all parts, in order; what is set in a group holds from the next step on."""
        return [group for part in self._parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """Move all parameters."""
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """State of all parts, for `load_state_dict`; tensors are not copied."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state; its tensors are taken over, not copied.

        Raises:
            ValueError: If the state is of another number of parts, or a part's is of other parameters.
        """
        states = state["parts"]
        if len(states) != len(self._parts):
            raise ValueError(f"the state must have {len(self._parts)} parts, got {len(states)}")
        for part, saved in zip(self._parts, states, strict=True):
            part.load_state_dict(saved)


@torch.no_grad()
def clip_grad_norm(
    parameters: Iterable[nn.Parameter], *, max_norm: float, divided: Sequence[nn.Parameter] = (), ranks: Ranks = ONE
) -> torch.Tensor:
    """Scale gradients down to a common norm, as `nn.utils.clip_grad_norm_`, sparse ones included.

    A sparse gradient counts with the norm of its sums per row, which is that of the dense gradient; the norm of the
    single reads would be another number. It is left with every row once.

    Args:
        parameters: Whose gradients to scale, in place.
        max_norm: Largest Euclidean norm of all gradients together.
        divided: Those of them of which each process has a part.
        ranks: The processes.

    Returns:
        The norm before, a scalar.
    """
    parts = {id(parameter) for parameter in divided}
    grads, of_parts = list[torch.Tensor](), list[torch.Tensor]()
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = merged(parameter.grad)
        grad = parameter.grad._values() if parameter.grad.is_sparse else parameter.grad
        (of_parts if id(parameter) in parts else grads).append(grad)
    norm = _total_norm(grads)
    # Parts of a divided table differ between processes, so their squares are added up; all else is everyone's alike.
    if divided:
        squares = _total_norm(of_parts).double().square()
        ranks.sum_(squares)
        norm = (norm.double().square() + squares).sqrt().to(norm.dtype)
        grads += of_parts
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # as PyTorch does: no division by zero
    if has_kernels(factor):
        if factor != 1.0:  # most steps are not clipped
            for grad in grads:
                grad.mul_(factor)
    else:
        torch._foreach_mul_(grads, factor)  # few launches
    return norm


def set_learning_rate(optimizer: torch.optim.Optimizer | Optimizers, lr: float) -> None:
    """Set the rate of the next step; in place where it is a tensor, which a recorded step reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def load_optimizer(optimizer: torch.optim.Optimizer | Optimizers, state: dict[str, Any]) -> None:
    """Continue from a state; rates that are tensors stay the tensors that they are, on their device."""
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, torch.Tensor):
            group["lr"] = rate.fill_(float(group["lr"]))


def _total_norm(grads: list[torch.Tensor]) -> torch.Tensor:
    """The Euclidean norm of all gradients together; on the CPU a sum of chunks, in an order of ours."""
    if not all(has_kernels(grad) for grad in grads):
        return nn.utils.get_total_norm(grads)
    squares = 0.0  # Python's float64, chunk after chunk: the same sum on any number of threads
    for grad in grads:
        norms = in_tiles(grad.numel(), partial(_norm_of, grad.reshape(-1)), tile_rows=_NORM_CHUNK)
        squares += sum(norm * norm for norm in norms)
    return torch.tensor(math.sqrt(squares))


def _norm_of(flat: torch.Tensor, part: slice) -> float:
    return float(flat[part].norm())


class _Coefficients(NamedTuple):
    """Factors of one step, the same for all rows; float32 for the kernel."""

    decay: Any
    step_size: Any
    keep_first: Any
    add_first: Any
    keep_second: Any
    add_second: Any
    second_correction: Any
    eps: Any


class RowWiseAdam(torch.optim.Optimizer):
    r"""Partial row-wise Adam with decoupled weight decay on sparse gradients.

    For each row `r` with a gradient `g` in this step, which is the sum over all reads of the row, and
    at the table's `t`-th step:

        m_r <- beta1 m_r + (1 - beta1) g
        v_r <- beta2 v_r + (1 - beta2) mean(g^2)
        w_r <- (1 - lr weight_decay) w_r - lr (m_r / (1 - beta1^t)) / (sqrt(v_r / (1 - beta2^t)) + eps)

    Source: Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1), decoupled decay (Loshchilov and Hutter,
    arXiv 1711.05101, algorithm 2); the row's one second moment is `partial_rowwise_adam` of FBGEMM and TorchRec.
    NOTE[DIFF]: Adam and AdamW move every weight at every step. Here a row without a gradient keeps its weights and
    its moments as they are ("lazy", as in `torch.optim.SparseAdam`), so decay, too, acts on a row only in
    the steps that read it: a rare row is decayed less than by AdamW. The bias correction counts the steps of the whole
    table, not of the row, as in FBGEMM and in SparseAdam: the first step of a row that appears late
    has a length of `(1 - beta1) / sqrt(1 - beta2)`, 3.2 by default, times `lr`.

    The result depends neither on the number of threads nor on other rows. On a CPU a fused kernel does all of it; on
    other devices torch's operations do.

    Args:
        tables: Parameters with sparse gradients, `(num_rows, dim)` each, float32, contiguous.
        lr: Step size.
        betas: Decay of the first and second moment.
        eps: Added to the root of the second moment.
        weight_decay: Decay of a row in each step that reads it, times `lr`.

    Raises:
        ValueError: If a table has another shape or type, or a setting is out of its range.
    """

    def __init__(
        self,
        tables: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not (lr >= 0.0 and eps >= 0.0 and weight_decay >= 0.0):
            raise ValueError(f"lr, eps and weight_decay must not be negative, got {lr=}, {eps=}, {weight_decay=}")
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), got {betas=}")
        tables = list(tables)
        for table in tables:
            if table.dim() != 2 or table.dtype != torch.float32 or not table.is_contiguous():
                raise ValueError(
                    f"a table must be (num_rows, dim), float32 and contiguous, got {tuple(table.shape)}, {table.dtype}"
                )
        super().__init__(tables, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the rows that have a gradient; a table without one keeps its step count.

        Raises:
            ValueError: If a closure is given, a gradient is dense, or a row lies outside its table.
        """
        if closure is not None:
            raise ValueError("RowWiseAdam takes no closure")
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, group)

    def _update(self, table: nn.Parameter, group: dict[str, Any]) -> None:
        assert table.grad is not None
        if not table.grad.is_sparse:
            raise ValueError(f"RowWiseAdam needs a sparse gradient, got a dense one of shape {tuple(table.shape)}")
        grad = merged(table.grad)
        rows, values = grad._indices()[0], grad._values()
        state = self.state[table]
        if not state:
            state["step"] = 0
            state["first_moment"] = torch.zeros_like(table)
            state["second_moment"] = table.new_zeros(len(table))
        state["step"] += 1
        update = _update_with_kernel if has_kernels(table) else _update_with_torch
        update(table, state, rows, values, _coefficients(group, state["step"]))


def _coefficients(group: dict[str, Any], step: int) -> _Coefficients:
    beta1, beta2 = group["betas"]
    # The bias corrections are the same for all rows, so they are folded into factors here, once per step.
    return _Coefficients(
        decay=1.0 - group["lr"] * group["weight_decay"],
        step_size=group["lr"] / (1.0 - beta1**step),
        keep_first=beta1,
        add_first=1.0 - beta1,
        keep_second=beta2,
        add_second=1.0 - beta2,
        second_correction=1.0 / (1.0 - beta2**step),
        eps=group["eps"],
    )


def _update_with_kernel(
    table: torch.Tensor, state: dict[str, Any], rows: torch.Tensor, grad: torch.Tensor, coefficients: _Coefficients
) -> None:
    # Rows ascend, so the first and the last tell of all.
    if len(rows) and (int(rows[0]) < 0 or int(rows[-1]) >= len(table)):
        raise ValueError(f"a row must be in [0, {len(table)}), got {int(rows[0])} to {int(rows[-1])}")
    arrays = (
        table.detach().numpy(),
        state["first_moment"].numpy(),
        state["second_moment"].numpy(),
        rows.contiguous().numpy(),
        grad.contiguous().numpy(),
    )
    # Or the kernel would compute every row in float64.
    factors = _Coefficients(*map(np.float32, coefficients))

    def move(first: int, last: int) -> None:
        _move_rows(*arrays, factors, first, last)

    in_parallel(move, even_cuts(len(rows)))


@njit(nogil=True)
def _move_rows(
    table: Any, first_moment: Any, second_moment: Any, rows: Any, grad: Any, factors: Any, first: int, last: int
) -> None:
    dim = grad.shape[1]
    for i in range(first, last):  # plain indices: a view of each row would make this much slower
        row = rows[i]
        square = np.float32(0.0)
        for d in range(dim):
            square += grad[i, d] * grad[i, d]
        second = factors.keep_second * second_moment[row] + factors.add_second * (square / np.float32(dim))
        second_moment[row] = second
        # One factor for the whole row: a root and a division per row, not per number; the moment's direction stays.
        scale = factors.step_size / (np.sqrt(second * factors.second_correction) + factors.eps)
        for d in range(dim):
            moment = factors.keep_first * first_moment[row, d] + factors.add_first * grad[i, d]
            first_moment[row, d] = moment
            table[row, d] = factors.decay * table[row, d] - scale * moment


def _update_with_torch(
    table: torch.Tensor, state: dict[str, Any], rows: torch.Tensor, grad: torch.Tensor, coefficients: _Coefficients
) -> None:
    c = coefficients
    # A row that stands here again, as `sum_by_row` gives it on a device, is written again as it was the first time.
    first_place = torch.arange(len(rows), device=rows.device).masked_fill(rows == rows[:1], 0)
    grad = grad.index_select(0, first_place)
    first = state["first_moment"].index_select(0, rows).mul_(c.keep_first).add_(grad, alpha=c.add_first)
    second = state["second_moment"].index_select(0, rows).mul_(c.keep_second)
    second.add_(grad.square().mean(dim=1), alpha=c.add_second)
    scale = c.step_size / (second.mul(c.second_correction).sqrt_() + c.eps)  # (rows,)
    moved = table.index_select(0, rows).mul_(c.decay).sub_(first * scale[:, None])
    state["first_moment"].index_copy_(0, rows, first)
    state["second_moment"].index_copy_(0, rows, second)
    table.index_copy_(0, rows, moved)
