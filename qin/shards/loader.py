"""Batches of tensors from shards: in row order for scoring, shuffled for training; memory is bounded by the buffer.

Training order: the log is cut into chunks of consecutive rows, the chunks are permuted, a buffer takes chunks until
it holds `buffer_rows` selected rows, and the rows of a buffer are permuted. The order depends on the seed, the epoch
and the selection, never on shard sizes, and any step of an epoch can be reached without reading what lies before it.

Several processes take a part each of every batch, so their number changes neither the batches nor their order, and all
make the same number of steps. Each reads the bytes of every row, and assembles its own.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from qin.runtime.seeds import Stream
from qin.shards.files import Arrays, RowReader

# Read at once, and moved as one where an epoch is shuffled: another number is another order, hence other weights.
CHUNK_ROWS = 4096

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Rows of the log as tensors.

    Attributes:
        rows: Row numbers, `(batch,)`.
        categorical: Buckets, `(batch, num_categorical)`.
        numeric: Raw values, NaN where missing, `(batch, num_numeric)`.
        sequences: Buckets per sequence, 0 for padding, `(batch, seq)` each.
        label: Float labels `(batch,)`; None for a file without labels.
        first_row: Number of the first row in the batch that several processes share.
    """

    rows: Rows
    categorical: torch.Tensor
    numeric: torch.Tensor
    sequences: tuple[torch.Tensor, ...]
    label: torch.Tensor | None
    first_row: int = 0

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All tensors, in a fixed order."""
        label = [] if self.label is None else [self.label]
        return [self.categorical, self.numeric, *self.sequences, *label]

    def with_tensors(self, tensors: Sequence[torch.Tensor]) -> "Batch":
        """The same rows with other tensors, in the order of `tensors`."""
        stop = 2 + len(self.sequences)
        label = None if self.label is None else tensors[stop]
        return Batch(self.rows, tensors[0], tensors[1], tuple(tensors[2:stop]), label, self.first_row)

    def take(self, position: torch.Tensor) -> "Batch":
        """The rows at positions `(n,)` in the batch, in their order."""
        taken = self.with_tensors([tensor.index_select(0, position) for tensor in self.tensors])
        return replace(taken, rows=self.rows[position.cpu().numpy()])

    def pieces(self, batch_size: int) -> Iterator["Batch"]:
        """Cut into batches of at most `batch_size` rows."""
        for start in range(0, self.rows.size, batch_size):
            rows = slice(start, start + batch_size)
            pieces = [tensor[rows] for tensor in self.tensors]
            yield replace(self.with_tensors(pieces), rows=self.rows[rows])


class BatchSource(Protocol):
    """What training takes its batches from."""

    @property
    def batch_size(self) -> int:
        """Rows per batch."""
        ...

    def num_batches(self, is_selected: npt.NDArray[np.bool_]) -> int:
        """Batches of an epoch over a selection."""
        ...

    def epoch(self, epoch: int, is_selected: npt.NDArray[np.bool_], *, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from `first_step` on."""
        ...


def iterate_in_order(
    reader: RowReader, *, is_selected: npt.NDArray[np.bool_] | None, batch_size: int
) -> Iterator[Batch]:
    """Yield the selected rows in row order.

    Args:
        reader: Prepared file.
        is_selected: `(num_rows,)`, or None for all rows.
        batch_size: Rows per batch; the last may be smaller.
    """
    for rows, arrays in cut_batches(_chunks_in_order(reader, is_selected), batch_size):
        yield to_batch(rows, {name: torch.from_numpy(array) for name, array in arrays.items()})


def read_batch(reader: RowReader, rows: Rows) -> Batch:
    """The rows of the given ascending numbers as one batch."""
    is_selected = np.zeros(reader.num_rows, dtype=np.bool_)
    is_selected[rows] = True
    return next(iterate_in_order(reader, is_selected=is_selected, batch_size=rows.size))


def _chunks_in_order(
    reader: RowReader, is_selected: npt.NDArray[np.bool_] | None
) -> Iterator[tuple[Rows, Arrays, Rows]]:
    """All rows of a chunk, its arrays, and the positions of the selected ones in it."""
    for start in range(0, reader.num_rows, CHUNK_ROWS):
        rows = np.arange(start, min(start + CHUNK_ROWS, reader.num_rows))
        positions = np.arange(rows.size) if is_selected is None else np.flatnonzero(is_selected[rows])
        if positions.size:
            yield rows, {g.name: reader.read(g.name, start, start + rows.size) for g in reader.groups}, positions


@dataclass(frozen=True)
class ShuffledLoader:
    """Shuffled batches of the selected rows.

    Attributes:
        reader: Prepared train file.
        batch_size: Rows per batch. The rows that do not fill the last batch of an epoch are left out of it; as the
            order differs by epoch, so do they.
        buffer_rows: Selected rows that are shuffled together.
        seed: Seed of the order.
        rank: Number of this process, which takes its part of every batch.
        world: Number of processes.
    """

    reader: RowReader
    batch_size: int
    buffer_rows: int
    seed: int
    rank: int = 0
    world: int = 1

    def num_batches(self, is_selected: npt.NDArray[np.bool_]) -> int:
        """Batches of an epoch over a selection."""
        num_rows = int(is_selected.sum())
        # Fewer rows than a batch make one, or a small log would not be trained on at all.
        return num_rows // self.batch_size or min(num_rows, 1)

    def epoch(self, epoch: int, is_selected: npt.NDArray[np.bool_], *, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from `first_step` on.

        Args:
            epoch: Number of the epoch, which seeds its order.
            is_selected: `(num_rows,)`; unselected rows are never assembled.
            first_step: Batches to leave out at the start; what lies before them is not read.
        """
        memory, first_row = self._memory(int(is_selected.sum())), self.first_row(is_selected)
        for rows, arrays in self._batches(epoch, is_selected, first_step, lambda buffer: self._read(buffer, memory)):
            batch = to_batch(rows, {name: torch.from_numpy(array) for name, array in arrays.items()})
            yield replace(batch, first_row=first_row)

    def first_row(self, is_selected: npt.NDArray[np.bool_]) -> int:
        """Number of this process's first row in every batch of an epoch over a selection."""
        return self._bounds(int(is_selected.sum()))[0]

    def rows(self, epoch: int, is_selected: npt.NDArray[np.bool_], *, first_step: int = 0) -> Iterator[Rows]:
        """Yield the row numbers of the same batches, without reading the rows."""
        for rows, _ in self._batches(epoch, is_selected, first_step, lambda _: {}):
            yield rows

    def _batches(
        self, epoch: int, is_selected: npt.NDArray[np.bool_], first_step: int, read: Callable[["_Buffer"], Arrays]
    ) -> Iterator[tuple[Rows, Arrays]]:
        num_steps = self.num_batches(is_selected) - first_step
        buffers = self._buffers(epoch, is_selected, num_skipped=first_step * self.batch_size)
        first, stop = self._bounds(int(is_selected.sum()))
        if first == stop:  # fewer rows than processes: this one makes every step with the others, which wait for it
            nothing = _Buffer()
            return repeat((nothing.rows, read(nothing)), num_steps)
        if self.world > 1:
            buffers = self._own_parts(buffers, first, stop)
        batches = cut_batches(((buffer.rows, read(buffer), order) for buffer, order in buffers), stop - first)
        return islice(batches, num_steps)

    def _bounds(self, num_selected: int) -> tuple[int, int]:
        """First and last (exclusive) of this process's rows in every batch."""
        num_rows = min(self.batch_size, num_selected)
        return self.rank * num_rows // self.world, (self.rank + 1) * num_rows // self.world

    def _own_parts(
        self, buffers: Iterable[tuple["_Buffer", Rows]], first: int, stop: int
    ) -> Iterator[tuple["_Buffer", Rows]]:
        """Of buffers that begin with a whole batch, the rows that stand from `first` to `stop` in theirs."""
        done = 0
        for buffer, order in buffers:
            place = (done + np.arange(order.size)) % self.batch_size
            own = order[(first <= place) & (place < stop)]
            done += order.size
            positions = np.sort(own)
            yield buffer.part(positions), np.searchsorted(positions, own)

    def _buffers(
        self, epoch: int, is_selected: npt.NDArray[np.bool_], *, num_skipped: int
    ) -> Iterator[tuple["_Buffer", Rows]]:
        """Each buffer with the order of its rows, from the first one that holds a row which is not skipped."""
        for number, buffer in enumerate(self._shuffled_chunks(epoch, is_selected)):
            if buffer.size <= num_skipped:
                num_skipped -= buffer.size
                continue
            # A generator for each buffer, so that a resumed epoch draws nothing of those that it skips.
            order = np.random.default_rng((self.seed, epoch, Stream.ROW_ORDER, number)).permutation(buffer.size)
            yield buffer, order[num_skipped:]
            num_skipped = 0

    def _shuffled_chunks(self, epoch: int, is_selected: npt.NDArray[np.bool_]) -> Iterator["_Buffer"]:
        num_chunks = -(-self.reader.num_rows // CHUNK_ROWS)
        starts = np.random.default_rng((self.seed, epoch, Stream.CHUNK_ORDER)).permutation(num_chunks) * CHUNK_ROWS
        buffer = _Buffer()
        for start in starts.tolist():
            offsets = np.flatnonzero(is_selected[start : start + CHUNK_ROWS])
            if offsets.size:
                buffer.add(start, offsets)
            if buffer.size >= self.buffer_rows:
                yield buffer
                buffer = _Buffer()
        if buffer.size:
            yield buffer

    def _memory(self, num_selected: int) -> Arrays:
        """One buffer's arrays, used again for each: fresh memory would cost as much as the copy into it."""
        # A buffer is full by the chunk that passes `buffer_rows`; of a process's part a begun batch at either end comes
        # on top.
        num_rows = min(num_selected, self.buffer_rows + CHUNK_ROWS)
        if self.world > 1:
            first, stop = self._bounds(num_selected)
            num_rows = (num_rows // self.batch_size + 2) * (stop - first)
        return {group.name: group.empty(num_rows) for group in self.reader.groups}

    def _read(self, buffer: "_Buffer", memory: Arrays) -> Arrays:
        chunk = {group.name: group.empty(CHUNK_ROWS) for group in self.reader.groups}
        position = 0
        for start, offsets in buffer.chunks:
            stop = min(start + CHUNK_ROWS, self.reader.num_rows)
            for name, array in memory.items():
                out = array[position : position + offsets.size]
                # A chunk that is wanted whole is read where it belongs; of another one only the wanted rows are copied
                # there.
                if offsets.size == stop - start:
                    self.reader.read_into(name, start, out)
                else:
                    part = chunk[name][: stop - start]
                    self.reader.read_into(name, start, part)
                    np.take(part, offsets, axis=0, out=out, mode="clip")  # the default mode would copy twice
            position += offsets.size
        return {name: array[:position] for name, array in memory.items()}


class _Buffer:
    """Chunks whose selected rows are shuffled together, kept in the order of the file."""

    def __init__(self) -> None:
        self.chunks: list[tuple[int, Rows]] = []
        self.size = 0

    def part(self, positions: Rows) -> "_Buffer":
        """The rows at ascending positions."""
        out, start = _Buffer(), 0
        for first_row, offsets in self.chunks:
            inside = positions[np.searchsorted(positions, start) : np.searchsorted(positions, start + offsets.size)]
            if inside.size:
                out.add(first_row, offsets[inside - start])
            start += offsets.size
        return out

    def add(self, start: int, offsets: Rows) -> None:
        """Add the selected rows of the chunk that begins at row `start`."""
        # In the order of the file: reads go forward, and `part` finds its rows by bisection.
        insort(self.chunks, (start, offsets), key=lambda chunk: chunk[0])
        self.size += offsets.size

    @property
    def rows(self) -> Rows:
        """Row numbers, ascending."""
        return np.concatenate([np.empty(0, np.int64), *(offsets + start for start, offsets in self.chunks)])


def cut_batches(sources: Iterable[tuple[Rows, Arrays, Rows]], batch_size: int) -> Iterator[tuple[Rows, Arrays]]:
    """Cut a stream of rows into batches; the last may be smaller.

    Args:
        sources: Row numbers `(n,)`, arrays `(n, width)`, and positions in them to take, in order; the arrays may be
            overwritten when the next source is asked for.
        batch_size: Rows per batch.
    """
    parts: list[tuple[Rows, Arrays]] = []
    missing = batch_size
    for rows, arrays, positions in sources:
        done = 0
        while done < positions.size:
            taken = positions[done : done + missing]
            # `take` copies, so the batch outlives the arrays that it is cut from.
            parts.append((rows[taken], {name: array.take(taken, axis=0) for name, array in arrays.items()}))
            done += taken.size
            missing -= taken.size
            if not missing:
                yield _joined(parts)
                parts, missing = [], batch_size
    if parts:
        yield _joined(parts)


def _joined(parts: list[tuple[Rows, Arrays]]) -> tuple[Rows, Arrays]:
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([rows for rows, _ in parts])
    return rows, {name: np.concatenate([arrays[name] for _, arrays in parts]) for name in parts[0][1]}


def to_batch(rows: Rows, arrays: Mapping[str, torch.Tensor]) -> Batch:
    """Name the shard groups' tensors `(batch, width)`."""
    return Batch(
        rows=rows,
        categorical=arrays["categorical"],
        numeric=arrays["numeric"],
        # In the schema's order, which is that of the file's groups.
        sequences=tuple(tensor for name, tensor in arrays.items() if name.startswith("sequence.")),
        label=arrays["label"][:, 0].float() if "label" in arrays else None,
    )
