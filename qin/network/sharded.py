"""An embedding table that no process holds whole: row `r` lives in process `r % W`, where it is also updated.

Buckets are hashes, so every process has as much to hold and to do as the others.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from qin.distributed.ranks import Ranks
from qin.network.embedding import FusedEmbedding
from qin.network.kernels.row_gradient import NO_PADDING, from_rows, sum_by_row

_CHUNK_ROWS = 65536


class ShardedEmbedding(FusedEmbedding):
    """A ``FusedEmbedding`` of which each process holds every ``W``-th row; all of them read and update it together.

    1. A process asks the owners for the distinct rows that its part of the batch reads, by two exchanges.
    2. Backward, it sends them the sums of its gradients. An owner adds them up by row, in the processes' order, and has
       a sparse gradient of its own rows: that of the whole batch. An optimizer of its part alone, such as
       ``qin.train.optimizers.RowWiseAdam``, then makes the step that one process makes of a whole table.

    For a fixed number of processes equal inputs give equal bytes. Memory and updates of a process are a ``W``-th of the
    table's. What is exchanged does not depend on the table's size: for each distinct row that a process reads in a
    step, its number and its vector, and the vector's gradient back.

    Args:
        num_buckets: as of ``FusedEmbedding``.
        dim: width of an embedding.
        ranks: the processes.
    """

    def __init__(self, num_buckets: list[int] | tuple[int, ...], *, dim: int, ranks: Ranks) -> None:
        super().__init__(num_buckets, dim=dim, sparse=True, table_rows=own_rows(sum(num_buckets), ranks))
        self._ranks = ranks
        self.num_rows = sum(num_buckets)

    @torch.no_grad()
    def draw(self, generator: torch.Generator, *, std: float) -> None:
        """Draw the normal numbers that a whole table gets of the same generator, a part of it at a time."""
        for start in range(0, self.num_rows, _CHUNK_ROWS):
            chunk = torch.empty(min(_CHUNK_ROWS, self.num_rows - start), self.dim).normal_(std=std, generator=generator)
            self._keep(start, chunk)

    @torch.no_grad()
    def load(self, start: int, rows: torch.Tensor) -> None:
        """Take over this process's among consecutive rows ``(n, dim)`` of the whole table, from row ``start`` on."""
        self._keep(start, rows)

    @torch.no_grad()
    def gathered(self, start: int, stop: int) -> torch.Tensor:
        """Rows of the whole table, ``(stop - start, dim)``, in every process.

        In their order, whatever the number of processes: a table that is saved so may be cut for another number.
        """
        ranks = self._ranks
        own = torch.arange(self._first(start), stop, ranks.world)
        parts = ranks.gather(self.embedding_table[own // ranks.world])
        numbers = ranks.gather(own)
        out = torch.empty_like(parts)
        out[numbers - start] = parts
        return out

    def _first(self, start: int) -> int:
        """The first of this process's rows from ``start`` on."""
        return start + (self._ranks.rank - start) % self._ranks.world

    def _keep(self, start: int, rows: torch.Tensor) -> None:
        own = torch.arange(self._first(start), start + len(rows), self._ranks.world)
        self.embedding_table[own // self._ranks.world] = rows[own - start]

    def _gather(self, rows: list[torch.Tensor]) -> list[torch.Tensor]:
        return list(_ExchangeRows.apply(self.embedding_table, self._ranks, *rows))  # type: ignore[no-untyped-call]


def own_rows(num_rows: int, ranks: Ranks) -> int:
    """How many of a table's rows this process holds."""
    return len(range(ranks.rank, num_rows, ranks.world))


class _ExchangeRows(torch.autograd.Function):
    """Vectors of the rows that this process reads, wherever they live."""

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, ranks: Ranks, *rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = torch.cat([row.reshape(-1) for row in rows])
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
        return tuple(part.view(*row.shape, -1) for part, row in zip(parts, rows, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        place, order, wanted = ctx.saved_tensors
        grad = torch.cat([grad.reshape(-1, grad.shape[-1]) for grad in grad_outputs])
        _, sums = sum_by_row(place, grad, table_rows=max(len(order), 1))
        sums = ctx.ranks.exchange(sums[order], ctx.counts, ctx.received)
        padding = 0 if ctx.ranks.rank == 0 else NO_PADDING  # row 0 of the whole table is the first process's
        own, sums = sum_by_row(wanted, sums, table_rows=max(ctx.table_rows, 1), padding_row=padding)
        return from_rows(own, sums, table_rows=ctx.table_rows), None, *(None for _ in grad_outputs)
