"""What the processes that train together add up in every step: gradients, and the figures of the step."""

import torch
from torch import nn

from qin.distributed.ranks import Ranks
from qin.network.embedding import sparse_tables
from qin.network.kernels.row_gradient import from_rows, merged, sum_by_row
from qin.network.sharded import divided_parameters


class GradientSum:
    """Gives every process the sum of all gradients, the same bytes in each.

    1. Dense gradients, one after the other as the parameters are, and the step's figures go through one buffer and one
       collective. Buckets that follow the order in which gradients come, as in PyTorch's DistributedDataParallel, add
       up in another order after a restart, from three processes on.
    2. Of a table with sparse gradients all processes exchange the rows that were read; each adds them up by row, in
       the processes' order. A divided table has the sums of its own rows from the backward pass.

    A parameter that has no gradient in any process has none afterwards.

    Args:
        model: Whose gradients.
        ranks: The processes.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._ranks = ranks
        tables, self._dense = sparse_tables(model)
        divided = divided_parameters(model)
        self._tables = [table for table in tables if not any(table is other for other in divided)]

    def __call__(self, figures: torch.Tensor) -> torch.Tensor:
        """Replace all gradients by their sums; returns the sums of the figures, `(n,)`.

        Several processes wait here for the device: whether a gradient is there decides what the optimizer moves.
        """
        figures = figures.detach()
        if self._ranks.world == 1:
            return figures
        parameters = [*self._dense, *self._tables]
        device = parameters[0].device
        # Which gradients there are goes along: an optimizer moves what has one, and all processes must move the same.
        is_there = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
        parts = [_flat_gradient(p) for p in self._dense]
        flat = torch.cat([*parts, is_there, figures.to(device, torch.float32)])
        self._ranks.sum_(flat)
        sizes = [part.numel() for part in parts]
        *sums, present, found = torch.split(flat, [*sizes, len(parameters), len(figures)])
        numbers = present.tolist()
        # The numbers go on with the tables, hence no strict zip.
        for parameter, total, processes in zip(self._dense, sums, numbers, strict=False):
            parameter.grad = total.view_as(parameter) if processes else None
        for table, processes in zip(self._tables, numbers[len(self._dense) :], strict=False):
            if processes:
                self._sum_rows(table)
        return found

    def _sum_rows(self, table: nn.Parameter) -> None:
        rows, values = table.new_empty(0, dtype=torch.int64), table.new_empty(0, table.shape[1])
        if table.grad is not None:
            grad = merged(table.grad)
            rows, values = grad._indices()[0], grad._values()
        rows, values = self._ranks.gather(rows), self._ranks.gather(values)
        table.grad = from_rows(*sum_by_row(rows, values, table_rows=len(table)), table_rows=len(table))


def _flat_gradient(parameter: nn.Parameter) -> torch.Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter).reshape(-1)
    return parameter.grad.reshape(-1)
