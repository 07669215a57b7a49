"""The tables that no process holds whole, as files hold them: whole, row after row, whatever the number of processes.

What is whole is made part by part: on disk when it is written, from disk when it is read. So a checkpoint can be cut
again for another number of processes, and what comes after training finds the network that one process writes.
"""

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from qin.distributed.ranks import Ranks
from qin.network.embedding import FusedEmbedding
from qin.network.sharded import ShardedEmbedding, chunks, divided_tables, gathered, keep_own, own_rows, without_rows
from qin.shards.device import prefetched
from qin.shards.loader import Batch
from qin.train.checkpoint import CheckpointStore

_TABLE = "embedding_table"
_SCRATCH = ".table-"

_Change = Callable[[torch.Tensor, int], torch.Tensor]  # of a divided tensor, whose whole has so many rows


class DividedTables:
    """The divided tables of a network and their optimizer's moments; all methods are called by all processes at once.

    Args:
        network: None of its tables may be divided, and then a state is what it is.
        ranks: The processes.
        checkpoints: Of the run; its folder has room for whole tables.
    """

    def __init__(self, network: nn.Module, ranks: Ranks, checkpoints: CheckpointStore) -> None:
        self._tables, self._ranks, self._checkpoints = divided_tables(network), ranks, checkpoints

    @property
    def parameters(self) -> list[nn.Parameter]:
        """This process's parts of them."""
        return [table.embedding_table for table in self._tables.values()]

    def agreed(self, is_due: bool) -> bool:
        """Whether the first process finds a checkpoint due: one that all make together is made by its clock."""
        return self._ranks.from_first(lambda: is_due) if self._tables else is_due

    def whole(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state of training with whole tables, in the first process; their content is on disk."""
        if not self._tables:
            return state
        self._remove_scratch()
        return _changed(state, self._rows_of, self._to_file)

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint with this process's parts of the tables, or None if there is none.

        Raises:
            ArtifactError: If the file is damaged.
        """
        if not self._tables:
            return self._ranks.from_first(self._checkpoints.load)
        wholes = list[torch.Tensor]()

        def without_tables() -> dict[str, Any] | None:
            state = self._checkpoints.load(maps=True)
            return state and _changed(state, self._rows_of, lambda whole, _: _put_aside(whole, wholes))

        state = self._ranks.from_first(without_tables)
        return state and _changed(state, self._rows_of, partial(self._from_first, iter(wholes)))

    def replace_in(self, network: nn.Module) -> None:
        """Put whole tables, their content on disk, into the first process's network, which is ready to be written."""
        self._remove_scratch()
        for name, table in self._tables.items():
            whole = self._to_file(table.embedding_table.detach(), table.num_rows)
            if self._ranks.rank == 0:
                parent, _, own = name.rpartition(".")
                setattr(network.get_submodule(parent), own, _as_whole(table, whole))

    @property
    def _rows_of(self) -> dict[str, int]:
        return {f"{name}.{_TABLE}": table.num_rows for name, table in self._tables.items()}

    def _remove_scratch(self) -> None:
        """Remove what a killed process has left."""
        for file in self._checkpoints.folder.glob(f"{_SCRATCH}*") if self._ranks.rank == 0 else ():
            file.unlink(missing_ok=True)

    def _to_file(self, part: torch.Tensor, num_rows: int) -> torch.Tensor:
        """The whole of which each process has a part, in a file that lasts as long as the tensor."""
        folder, is_first = self._checkpoints.folder, self._ranks.rank == 0
        if is_first:
            folder.mkdir(parents=True, exist_ok=True)
        # Beside the checkpoints, where there is room: a machine's folder for such files may be memory.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=_SCRATCH) if is_first else nullcontext() as file:
            for start, stop in chunks(num_rows, math.prod(part.shape[1:])):
                rows = gathered(part, start, stop, self._ranks)
                if file is not None:
                    file.write(rows.cpu().numpy().tobytes())
            if file is None:
                return part
            file.flush()
            shape = (num_rows, *part.shape[1:])
            # The name is gone when the block ends; the tensor is a map of the file, which keeps the content until it is
            # gone too.
            return torch.from_file(file.name, shared=False, size=math.prod(shape), dtype=part.dtype).view(shape)

    def _from_first(self, wholes: Iterator[torch.Tensor], empty: torch.Tensor, num_rows: int) -> torch.Tensor:
        """This process's part of the next whole that the first process has."""
        whole = next(wholes) if self._ranks.rank == 0 else empty
        part = empty.new_empty(own_rows(num_rows, self._ranks), *empty.shape[1:])
        for start, stop in chunks(num_rows, math.prod(empty.shape[1:])):
            keep_own(part, start, self._ranks.from_first(partial(_rows, whole, start, stop)), self._ranks)
        return part


def take_over(network: nn.Module, ranks: Ranks) -> None:
    """Give all processes the first one's network; of divided tables each has drawn its own part."""
    parts = {f"{name}.{_TABLE}" for name in divided_tables(network)}
    state = ranks.from_first(lambda: {n: value for n, value in network.state_dict().items() if n not in parts})
    network.load_state_dict({**network.state_dict(), **state})


def count_parameters(network: nn.Module) -> int:
    """Numbers that are trained, in all processes together."""
    elsewhere = sum((t.num_rows - len(t.embedding_table)) * t.dim for t in divided_tables(network).values())
    return elsewhere + sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def score_together(network: nn.Module, batches: Iterator[Batch], *, ranks: Ranks) -> npt.NDArray[np.float32]:
    """Logits of this process's rows, `(n,)`, from a network with divided tables.

    A process that has scored its rows hands out those of the tables until all have.
    """
    network.eval()
    device, logits = next(network.parameters()).device, [np.empty(0, np.float32)]
    batches = prefetched(batches, device) if device.type != "cpu" else batches
    while any(ranks.all_of((batch := next(batches, None)) is not None)):
        if batch is None:
            without_rows(network)
        else:
            logit = network(batch.categorical, batch.numeric, batch.sequences)
            logits.append(logit.float().cpu().numpy())
    return np.concatenate(logits)


def _rows(whole: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    return whole[start:stop]


def _changed(state: dict[str, Any], rows_of: dict[str, int], change: _Change) -> dict[str, Any]:
    """A state of training with its divided tensors changed: weights, best weights, moments."""

    def weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: change(value, rows_of[name]) if name in rows_of else value for name, value in tensors.items()}

    # The row-wise optimizer is the last part; see `build_optimizer`. Its tensors come before the weights here and in
    # every process: each change is one that all make together, and what was put aside is taken in the same order.
    *others, tables = state["optimizer"]["parts"]
    moments = {
        number: {
            name: change(value, num_rows) if isinstance(value, torch.Tensor) else value
            for name, value in tables["state"][number].items()
        }
        for number, num_rows in enumerate(rows_of.values())
        if number in tables["state"]
    }
    optimizer = {**state["optimizer"], "parts": [*others, {**tables, "state": moments}]}
    return {**state, "model": weights(state["model"]), "best": weights(state["best"]), "optimizer": optimizer}


def _put_aside(whole: torch.Tensor, wholes: list[torch.Tensor]) -> torch.Tensor:
    wholes.append(whole)
    return whole.new_empty(0, *whole.shape[1:])


def _as_whole(table: ShardedEmbedding, rows: torch.Tensor) -> FusedEmbedding:
    # No row is allocated, because its table is taken over.
    whole = FusedEmbedding(table.num_buckets.tolist(), dim=table.dim, sparse=True, is_rare=table.is_rare, table_rows=0)
    whole.embedding_table = nn.Parameter(rows)
    return whole
