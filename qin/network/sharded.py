"""An embedding table that no process holds whole: row `r` lives in process `r % W`, where it is also updated.

Buckets are hashes, so every process has as much to hold and to do as the others.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from qin.columns.buckets import PADDING_BUCKET
from qin.distributed.ranks import Ranks
from qin.network.embedding import FusedEmbedding
from qin.network.kernels.row_gradient import NO_PADDING, from_rows, sum_by_row

_CHUNK_ROWS = 65536
# Numbers that `normal_` makes at a time, of pairs of uniform ones; the last of a tensor are made with those before
# them.
_DRAWN_TOGETHER = 16


class ShardedEmbedding(FusedEmbedding):
    """A `FusedEmbedding` of which each process holds every `W`-th row; all of them read and update it together.

    1. A process asks the owners for the distinct rows that its part of the batch reads, by two exchanges.
    2. Backward, it sends them the sums of its gradients. An owner adds them up by row, in the processes' order, and has
       a sparse gradient of its own rows: that of the whole batch. An optimizer of its part alone, such as
       `qin.train.optimizers.RowWiseAdam`, then makes the step that one process makes of a whole table.

    For a fixed number of processes equal inputs give equal bytes. Memory and updates of a process are a `W`-th of the
    table's. What is exchanged does not depend on the table's size: for each distinct row that a process reads in a
    step, its number and its vector, and the vector's gradient back.

    Args:
        num_buckets: As of `FusedEmbedding`.
        dim: Width of an embedding.
        ranks: The processes.
        sparse: Must be true.
        is_rare: As of `FusedEmbedding`; every process has all of it.

    Raises:
        ValueError: As for `FusedEmbedding`, or `sparse` is false.
    """

    def __init__(
        self,
        num_buckets: Sequence[int],
        *,
        dim: int,
        ranks: Ranks,
        sparse: bool = True,
        is_rare: torch.Tensor | None = None,
    ) -> None:
        if not sparse:
            raise ValueError("a divided table has a sparse gradient")
        table_rows = own_rows(sum(num_buckets), ranks)
        super().__init__(num_buckets, dim=dim, sparse=True, is_rare=is_rare, table_rows=table_rows)
        self._ranks = ranks
        self.num_rows = sum(num_buckets)

    @torch.no_grad()
    def draw(self, generator: torch.Generator, *, std: float) -> None:
        """Draw the numbers that a whole table gets of the same generator, a part of it at a time."""
        padding = self.offsets + PADDING_BUCKET
        for start, stop in chunks(self.num_rows, self.dim):
            rows = torch.empty(stop - start, self.dim).normal_(std=std, generator=generator)
            rows[padding[(padding >= start) & (padding < stop)] - start] = 0.0
            keep_own(self.embedding_table, start, rows, self._ranks)

    def _gather(self, rows: list[torch.Tensor]) -> list[torch.Tensor]:
        return list(_ExchangeRows.apply(self.embedding_table, self._ranks, *rows))  # type: ignore[no-untyped-call]


def own_rows(num_rows: int, ranks: Ranks) -> int:
    """How many of a table's rows this process holds."""
    return len(range(ranks.rank, num_rows, ranks.world))


def chunks(num_rows: int, dim: int) -> Iterator[tuple[int, int]]:
    """Consecutive parts of a table, first row and last (exclusive), each in bounded memory.

    None is smaller than a vector of numbers, unless it is the only one: PyTorch draws the last numbers of a tensor with
    those before them, so parts that are drawn one by one are then the whole.
    """
    start = 0
    while start < num_rows:
        is_last = (num_rows - start - _CHUNK_ROWS) * dim < _DRAWN_TOGETHER
        stop = num_rows if is_last else start + _CHUNK_ROWS
        yield start, stop
        start = stop


@torch.no_grad()
def keep_own(part: torch.Tensor, start: int, rows: torch.Tensor, ranks: Ranks) -> None:
    """Put this process's among consecutive rows `(n, ...)` of a whole, from row `start` on, into its part of it."""
    own = torch.arange(_first(start, ranks), start + len(rows), ranks.world)
    part[own // ranks.world] = rows[own - start].to(part.device)


@torch.no_grad()
def gathered(part: torch.Tensor, start: int, stop: int, ranks: Ranks) -> torch.Tensor:
    """Rows `(stop - start, ...)` of a whole from each process's part of it, in every process.

    In their order, whatever the number of processes: what is saved so may be cut for another number.
    """
    own = torch.arange(_first(start, ranks), stop, ranks.world)
    rows, numbers = ranks.gather(part[own // ranks.world]), ranks.gather(own)
    out = torch.empty_like(rows)
    out[numbers - start] = rows
    return out


def divided_tables(model: nn.Module) -> dict[str, ShardedEmbedding]:
    """The divided tables of a network, by the name of their module, in the network's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ShardedEmbedding)}


def divided_parameters(model: nn.Module) -> list[nn.Parameter]:
    """This process's parts of the divided tables, in the same order."""
    return [table.embedding_table for table in divided_tables(model).values()]


def without_rows(model: nn.Module) -> torch.Tensor | None:
    """What a process without a row of the batch does while the others read: it hands out its own rows.

    Returns:
        An empty vector, from which a backward pass adds up what the others send; None where no table is divided.
    """
    tables = divided_tables(model).values()
    if not tables:
        return None
    # Each table once, in the order in which a forward pass reads them: an exchange takes all processes at once.
    nothing = torch.zeros(0, 1, dtype=torch.int64)
    read = [table.read(nothing.to(table.offsets.device), (), vocabularies=())[0] for table in tables]
    return torch.cat([rows.flatten() for rows in read])


def _first(start: int, ranks: Ranks) -> int:
    """The first of this process's rows from `start` on."""
    return start + (ranks.rank - start) % ranks.world


class _ExchangeRows(torch.autograd.Function):
    """Vectors of the rows that this process reads, wherever they live."""

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, ranks: Ranks, *rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = torch.cat([row.reshape(-1) for row in rows])
        # 1. How many rows each process wants of each, 2. which, 3. their vectors, back in the order in which they were
        # asked for. Each row once, however often the batch reads it.
        distinct, place = torch.unique(flat, return_inverse=True)
        owner = distinct % ranks.world
        order = owner.argsort(stable=True)
        counts = torch.bincount(owner, minlength=ranks.world)
        received = ranks.exchange(counts, [1] * ranks.world, [1] * ranks.world)
        ctx.counts, ctx.received = counts.tolist(), received.tolist()
        wanted = ranks.exchange(distinct[order], ctx.counts, ctx.received) // ranks.world
        vectors = table.new_empty(len(distinct), table.shape[1])
        vectors[order] = ranks.exchange(table[wanted], ctx.received, ctx.counts)
        ctx.ranks, ctx.table_rows = ranks, len(table)
        ctx.save_for_backward(place, order, wanted)
        parts = torch.split(vectors[place], [row.numel() for row in rows])
        return tuple(part.view(*row.shape, table.shape[1]) for part, row in zip(parts, rows, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        place, order, wanted = ctx.saved_tensors
        grad = torch.cat([grad.reshape(-1, grad.shape[-1]) for grad in grad_outputs])
        # The same way back: sums of this process's reads go to the owners, who add up what all have sent.
        _, sums = sum_by_row(place, grad, table_rows=max(len(order), 1))
        sums = ctx.ranks.exchange(sums[order], ctx.counts, ctx.received)
        padding = 0 if ctx.ranks.rank == 0 else NO_PADDING  # row 0 of the whole table is the first process's
        own, sums = sum_by_row(wanted, sums, table_rows=max(ctx.table_rows, 1), padding_row=padding)
        return from_rows(own, sums, table_rows=ctx.table_rows), None, *(None for _ in grad_outputs)
