"""Batches of tensors from shards: in row order for scoring, shuffled for training; memory is bounded by the buffer.

Training order: the log is cut into chunks of consecutive rows, the chunks are permuted, a buffer takes chunks until
it holds `buffer_rows` selected rows, and the rows of a buffer are permuted. The order depends on the seed, the epoch
and the selection, never on shard sizes, and any step of an epoch can be reached without reading what lies before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qin.data.shards import Arrays, ShardReader

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
    """

    rows: Rows
    categorical: torch.Tensor
    numeric: torch.Tensor
    sequences: tuple[torch.Tensor, ...]
    label: torch.Tensor | None


def read_labels(reader: ShardReader) -> npt.NDArray[np.uint8]:
    """All labels of a prepared train file, `(num_rows,)`."""
    return np.asarray(reader.read("label", 0, reader.num_rows)[:, 0])


def iterate_in_order(
    reader: ShardReader, *, is_selected: npt.NDArray[np.bool_] | None, batch_size: int
) -> Iterator[Batch]:
    """Yield the selected rows in row order.

    Args:
        reader: Prepared file.
        is_selected: `(num_rows,)`, or None for all rows.
        batch_size: Rows per batch; the last may be smaller.
    """
    carried: list[tuple[Rows, Arrays]] = []
    num_carried = 0
    for start in range(0, reader.num_rows, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, reader.num_rows)
        offsets = np.arange(stop - start) if is_selected is None else np.flatnonzero(is_selected[start:stop])
        if not offsets.size:
            continue
        carried.append((offsets + start, _read_rows(reader, start, stop, offsets)))
        num_carried += offsets.size
        if num_carried < batch_size:
            continue
        rows, arrays = _joined(carried)
        whole = num_carried - num_carried % batch_size
        for first in range(0, whole, batch_size):
            yield _to_batch(rows, arrays, slice(first, first + batch_size))
        carried = [(rows[whole:], {name: array[whole:] for name, array in arrays.items()})]
        num_carried -= whole
    if num_carried:
        rows, arrays = _joined(carried)
        yield _to_batch(rows, arrays, slice(0, num_carried))


@dataclass(frozen=True)
class ShuffledLoader:
    """Shuffled batches of the selected rows.

    Attributes:
        reader: Prepared train file.
        batch_size: Rows per batch. The rows that do not fill the last batch of an epoch are left out of it; as the
            order differs by epoch, so do they.
        buffer_rows: Selected rows that are shuffled together.
        seed: Seed of the order.
    """

    reader: ShardReader
    batch_size: int
    buffer_rows: int
    seed: int

    def num_batches(self, is_selected: npt.NDArray[np.bool_]) -> int:
        """Batches of an epoch over a selection."""
        num_rows = int(is_selected.sum())
        return num_rows // self.batch_size or min(num_rows, 1)

    def epoch(self, epoch: int, is_selected: npt.NDArray[np.bool_], *, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from `first_step` on.

        Args:
            epoch: Number of the epoch, which seeds its order.
            is_selected: `(num_rows,)`; unselected rows are never assembled.
            first_step: Batches to leave out at the start; what lies before them is not read.
        """
        num_steps = self.num_batches(is_selected)
        position, wanted = 0, first_step * self.batch_size
        carried: list[tuple[Rows, Arrays]] = []
        num_carried, step = 0, first_step
        for number, buffer in enumerate(self._buffers(epoch, is_selected)):
            size = sum(rows.size for _, rows in buffer)
            if position + size <= wanted:
                position += size
                continue
            order = np.random.default_rng((self.seed, epoch, 1, number)).permutation(size)
            order = order[max(0, wanted - position) :]
            position += size
            rows, arrays = self._read(buffer)
            carried.append((rows[order], {name: array[order] for name, array in arrays.items()}))
            num_carried += order.size
            if num_carried < self.batch_size:
                continue
            rows, arrays = _joined(carried)
            whole = num_carried // self.batch_size
            for k in range(whole):
                yield _to_batch(rows, arrays, slice(k * self.batch_size, (k + 1) * self.batch_size))
            step += whole
            rest = whole * self.batch_size
            carried = [(rows[rest:], {name: array[rest:].copy() for name, array in arrays.items()})]
            num_carried -= rest
        if step < num_steps and num_carried:  # fewer rows than one batch in the whole epoch
            rows, arrays = _joined(carried)
            yield _to_batch(rows, arrays, slice(0, num_carried))

    def _buffers(self, epoch: int, is_selected: npt.NDArray[np.bool_]) -> Iterator[list[tuple[int, Rows]]]:
        """Chunks in shuffled order, grouped: lists of `(chunk start, selected offsets)`."""
        starts = (
            np.random.default_rng((self.seed, epoch, 0)).permutation(-(-self.reader.num_rows // CHUNK_ROWS))
            * CHUNK_ROWS
        )
        buffer: list[tuple[int, Rows]] = []
        size = 0
        for start in starts.tolist():
            offsets = np.flatnonzero(is_selected[start : start + CHUNK_ROWS])
            if offsets.size:
                buffer.append((start, offsets))
                size += offsets.size
            if size >= self.buffer_rows:
                yield buffer
                buffer, size = [], 0
        if buffer:
            yield buffer

    def _read(self, buffer: list[tuple[int, Rows]]) -> tuple[Rows, Arrays]:
        parts = []
        for start, offsets in sorted(buffer, key=lambda item: item[0]):
            stop = min(start + CHUNK_ROWS, self.reader.num_rows)
            parts.append((offsets + start, _read_rows(self.reader, start, stop, offsets)))
        return _joined(parts)


def _read_rows(reader: ShardReader, start: int, stop: int, offsets: Rows) -> Arrays:
    arrays = {group.name: reader.read(group.name, start, stop) for group in reader.groups}
    if offsets.size == stop - start:
        return arrays
    return {name: array[offsets] for name, array in arrays.items()}


def _joined(parts: list[tuple[Rows, Arrays]]) -> tuple[Rows, Arrays]:
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([rows for rows, _ in parts])
    return rows, {name: np.concatenate([arrays[name] for _, arrays in parts]) for name in parts[0][1]}


def _to_batch(rows: Rows, arrays: Arrays, index: slice) -> Batch:
    return Batch(
        rows=rows[index],
        categorical=torch.from_numpy(arrays["categorical"][index]),
        numeric=torch.from_numpy(arrays["numeric"][index]),
        sequences=tuple(torch.from_numpy(a[index]) for name, a in arrays.items() if name.startswith("sequence.")),
        label=torch.from_numpy(arrays["label"][index][:, 0]).float() if "label" in arrays else None,
    )
