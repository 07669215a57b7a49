"""One fused embedding table for all vocabularies, and what its gradient costs."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from qin.columns.buckets import FIRST_VALUE_BUCKET, NULL_BUCKET, PADDING_BUCKET
from qin.network.kernels.choice import has_kernels
from qin.network.kernels.row_gradient import dense_gradient, from_rows, sum_by_row


class FusedEmbedding(nn.Module):
    """One table for all vocabularies, with an offset for each.

    Buckets count from zero within their vocabulary: 0 is padding, 1 is null, 2 and above are values. Padding of
    every vocabulary reads row 0 of the table, which is zero and never receives a gradient; an update that
    is zero for a zero gradient and a zero weight (SGD, Adam, AdamW, with or without weight decay) leaves it so.

    The table starts at zero; `QIN.init_parameters` draws it.

    Args:
        num_buckets: Buckets of each vocabulary, padding and null included.
        dim: Width of an embedding.
        sparse: Whether the table's gradient is a sparse tensor of the rows that were read, without a buffer of the
            table's size; for `qin.train.optimizers.RowWiseAdam`. On a CPU each row is in it once, in ascending order.
        is_rare: Rows of the table that are never read, `(table_rows,)`, bool: null is read in place of them.
        table_rows: Rows that this process holds; None: all.

    Raises:
        ValueError: There is no vocabulary, one has fewer than 2 buckets, `dim` is below 1, or the shape of
            `is_rare` is not the table's.
    """

    offsets: torch.Tensor
    num_buckets: torch.Tensor
    is_rare: torch.Tensor | None

    def __init__(
        self,
        num_buckets: Sequence[int],
        *,
        dim: int,
        sparse: bool = False,
        is_rare: torch.Tensor | None = None,
        table_rows: int | None = None,
    ) -> None:
        if not num_buckets or min(num_buckets) < FIRST_VALUE_BUCKET:
            raise ValueError(f"every vocabulary needs at least {FIRST_VALUE_BUCKET} buckets, got {list(num_buckets)}")
        if dim < 1:
            raise ValueError(f"the embedding width must be at least 1, got {dim=}")
        if is_rare is not None and (is_rare.shape != (sum(num_buckets),) or is_rare.dtype != torch.bool):
            raise ValueError(f"is_rare must be bool, ({sum(num_buckets)},), got {is_rare.dtype} {tuple(is_rare.shape)}")
        super().__init__()
        self.dim = dim
        self.sparse = sparse
        sizes = torch.tensor(num_buckets, dtype=torch.int64)
        # Not persistent: they follow from the schema, and a file of weights holds nothing twice.
        self.register_buffer("num_buckets", sizes, persistent=False)
        self.register_buffer("offsets", sizes.cumsum(0) - sizes, persistent=False)
        self.register_buffer("is_rare", None if is_rare is None else is_rare.clone())
        held_rows = sum(num_buckets) if table_rows is None else table_rows
        self.embedding_table = nn.Parameter(torch.zeros(held_rows, dim))

    @torch.no_grad()
    def draw(self, generator: torch.Generator, *, std: float) -> None:
        """Draw the table: normal, padding rows zero."""
        self.embedding_table.normal_(std=std, generator=generator)
        self.embedding_table[self.offsets + PADDING_BUCKET] = 0.0

    def forward(self, buckets: torch.Tensor) -> torch.Tensor:
        """Read one embedding for each of the first `fields` vocabularies.

        Args:
            buckets: `(batch, fields)`, any integer type; column `f` counts in vocabulary `f`.

        Returns:
            Embeddings, `(batch, fields, dim)`.

        Raises:
            ValueError: The shape or type is wrong, or a bucket lies outside its vocabulary (checked on the CPU
                only: elsewhere the check would stall the device).
        """
        return self.read(buckets, (), vocabularies=())[0]

    def read(
        self, buckets: torch.Tensor, sequences: Sequence[torch.Tensor], *, vocabularies: Sequence[int]
    ) -> list[torch.Tensor]:
        """Read the fields as `forward` does and behaviour sequences, whose gradients then come as one.

        A dense gradient has the table's size, so one for each of three reads took half of a step on a log with 400,000
        rows in its table.

        Args:
            buckets: As of `forward`.
            sequences: `(batch, seq)` each, any integer type; 0 is padding and gives a zero vector.
            vocabularies: The index of each sequence's vocabulary.

        Returns:
            Embeddings of the fields, `(batch, fields, dim)`, then of each sequence, `(batch, seq, dim)`.

        Raises:
            ValueError: As for `forward`, or a vocabulary does not exist.
        """
        rows = [self._rows(self.field_index(buckets), self.offsets[: buckets.shape[1]])]
        for sequence, vocabulary in zip(sequences, vocabularies, strict=True):
            rows.append(self._rows(self.sequence_index(sequence, field=vocabulary), self.offsets[vocabulary]))
        return self._gather(rows)

    def field_index(self, buckets: torch.Tensor) -> torch.Tensor:
        """The buckets `(batch, fields)` of the first `fields` vocabularies as int64, checked as in `forward`.

        A rare value is null here already, so that every reader of the table sees it so.
        """
        if buckets.dim() != 2 or buckets.shape[1] > len(self.offsets):
            raise ValueError(
                f"buckets must be (batch, fields) with at most {len(self.offsets)} fields, got {tuple(buckets.shape)}"
            )
        index = _checked(buckets, limit=self.num_buckets[: buckets.shape[1]])
        return self._known(index, self.offsets[: buckets.shape[1]])

    def sequence_index(self, buckets: torch.Tensor, *, field: int) -> torch.Tensor:
        """The buckets `(batch, seq)` of one vocabulary as int64, checked as in `read`; see `field_index`."""
        if buckets.dim() != 2:
            raise ValueError(f"buckets must be (batch, seq), got {tuple(buckets.shape)}")
        if not 0 <= field < len(self.offsets):
            raise ValueError(f"field must be in [0, {len(self.offsets)}), got {field=}")
        return self._known(_checked(buckets, limit=self.num_buckets[field]), self.offsets[field])

    def _known(self, index: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """The buckets with null in place of rare ones."""
        return index if self.is_rare is None else index.masked_fill(self.is_rare[index + offset], NULL_BUCKET)

    def _gather(self, rows: list[torch.Tensor]) -> list[torch.Tensor]:
        if not has_kernels(rows[0]):
            return gather_at_once(self.embedding_table, rows, sparse=self.sparse)
        gather = _GatherRowsSparsely if self.sparse else _GatherRows
        return list(gather.apply(self.embedding_table, *rows))  # type: ignore[no-untyped-call]

    def _rows(self, index: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        return (index + offset).masked_fill_(index == PADDING_BUCKET, 0)


def sparse_tables(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The tables whose gradients are sparse, and all other parameters, each in the model's order."""
    tables = [m.embedding_table for m in model.modules() if isinstance(m, FusedEmbedding) and m.sparse]
    return tables, [p for p in model.parameters() if not any(p is table for table in tables)]


class _GatherRows(torch.autograd.Function):
    """`F.embedding(row, table, padding_idx=0)` of several `row`, whose backward pass takes a third of the time.

    On a CPU `index_add_` sums each row's gradients in order, whatever the number of threads. On a GPU it uses
    atomics, which is why `gather_at_once` is used there.
    """

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, *rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(*rows)
        ctx.table_rows = table.shape[0]
        return tuple(F.embedding(row, table) for row in rows)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        table_grad = grad_outputs[0].new_zeros(ctx.table_rows, grad_outputs[0].shape[-1])
        for row, grad in zip(ctx.saved_tensors, grad_outputs, strict=True):
            table_grad.index_add_(0, row.reshape(-1), grad.reshape(-1, grad.shape[-1]))
        table_grad[0] = 0.0
        return table_grad, *(None for _ in grad_outputs)


class _GatherRowsSparsely(_GatherRows):
    """`F.embedding(row, table, padding_idx=0, sparse=True)` of several `row`, whose gradient holds each row once.

    The sums are those of `_GatherRows`, bit for bit. Popular rows are read many times, so summing here leaves PyTorch
    less to add up over the lookups of a batch; coalesced gradients add up to a coalesced one.
    """

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        row = torch.cat([row.reshape(-1) for row in ctx.saved_tensors])
        grad = torch.cat([grad.reshape(-1, grad.shape[-1]) for grad in grad_outputs])
        rows, sums = sum_by_row(row, grad, table_rows=ctx.table_rows, padding_row=0)
        return from_rows(rows, sums, table_rows=ctx.table_rows), *(None for _ in grad_outputs)


def gather_at_once(table: torch.Tensor, rows: Sequence[torch.Tensor], *, sparse: bool) -> list[torch.Tensor]:
    """`F.embedding(row, table, padding_idx=0, sparse=sparse)` of several `row` by one read, for devices.

    All gradients come from one sort then. A sparse gradient is that of the single reads: `merged` adds them up.
    """
    # Narrow where they fit, as the gradient sorts them.
    keys = torch.cat([row.reshape(-1) for row in rows])
    if len(table) <= 1 << 31:
        keys = keys.to(torch.int32)
    vectors: torch.Tensor = _GatherAtOnce.apply(table, keys, sparse)  # type: ignore[no-untyped-call]
    parts = torch.split(vectors, [row.numel() for row in rows])
    return [part.view(*row.shape, -1) for part, row in zip(parts, rows, strict=True)]


class _GatherAtOnce(torch.autograd.Function):
    """`F.embedding(row, table, padding_idx=0, sparse=sparse)` of a vector of rows, without a stall."""

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, row: torch.Tensor, sparse: bool) -> torch.Tensor:
        ctx.save_for_backward(row)
        ctx.table_rows, ctx.sparse = table.shape[0], sparse
        return F.embedding(row, table)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (row,), grad = ctx.saved_tensors, grad_outputs[0]
        if not ctx.sparse:
            return dense_gradient(row, grad, table_rows=ctx.table_rows, padding_row=0), None, None
        grad = grad.masked_fill((row == 0)[:, None], 0.0)
        size = (ctx.table_rows, grad.shape[1])
        # Unchecked: a check would ask the device for the largest row, and wait.
        of_reads = torch.sparse_coo_tensor(row.long()[None], grad, size, check_invariants=False)
        return of_reads, None, None


def _checked(buckets: torch.Tensor, *, limit: torch.Tensor) -> torch.Tensor:
    if buckets.is_floating_point() or buckets.is_complex() or buckets.dtype == torch.bool:
        raise ValueError(f"buckets must be integers, got {buckets.dtype}")
    index = buckets.to(torch.int64)  # torch has no arithmetic for the uint16 that blocks are stored in
    if index.device.type == "cpu":
        _check_range(index, limit=limit)
    return index


def _check_range(index: torch.Tensor, *, limit: torch.Tensor) -> None:
    if not index.numel():
        return
    lowest, highest = torch.aminmax(index, dim=0)  # per column; one pass, where comparing every element takes four
    if (lowest >= 0).all() and (highest < limit).all():
        return
    row, column = ((index < 0) | (index >= limit)).nonzero()[0].tolist()
    allowed = limit.expand_as(index)[row, column].item()
    raise ValueError(
        f"a bucket must be in [0, {allowed}) here, got {index[row, column].item()} at row {row}, column {column}"
    )
