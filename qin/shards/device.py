"""Batches on the device that computes: gathered there from a resident copy of the log, or copied while it works."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from qin.shards.loader import CHUNK_ROWS, Batch, Rows, ShuffledLoader, to_batch

# A resident log leaves this share of the free memory to the model, its gradients and activations.
_RESIDENT_SHARE = 0.6


@dataclass(frozen=True)
class PrefetchingLoader:
    """A loader's batches, each copied to the device while the one before it is used.

    Attributes:
        loader: Source of the batches.
        device: Where to.
    """

    loader: ShuffledLoader
    device: torch.device

    @property
    def batch_size(self) -> int:
        """Rows per batch."""
        return self.loader.batch_size

    def num_batches(self, is_selected: npt.NDArray[np.bool_]) -> int:
        """See `ShuffledLoader.num_batches`."""
        return self.loader.num_batches(is_selected)

    def epoch(self, epoch: int, is_selected: npt.NDArray[np.bool_], *, first_step: int = 0) -> Iterator[Batch]:
        """See `ShuffledLoader.epoch`."""
        return prefetched(self.loader.epoch(epoch, is_selected, first_step=first_step), self.device)


class ResidentLoader:
    """A loader's batches, gathered on the device from a copy of the whole log; nothing is read after it is made.

    Args:
        loader: Decides the order.
        device: Where the copy lives.
    """

    def __init__(self, loader: ShuffledLoader, device: torch.device) -> None:
        self.batch_size = loader.batch_size
        self._loader, self._device = loader, device
        self._arrays = {group.name: self._copy(group.name) for group in loader.reader.groups}

    def num_batches(self, is_selected: npt.NDArray[np.bool_]) -> int:
        """See `ShuffledLoader.num_batches`."""
        return self._loader.num_batches(is_selected)

    def epoch(self, epoch: int, is_selected: npt.NDArray[np.bool_], *, first_step: int = 0) -> Iterator[Batch]:
        """See `ShuffledLoader.epoch`."""
        first_row = self._loader.first_row(is_selected)
        for rows in self._loader.rows(epoch, is_selected, first_step=first_step):
            yield replace(self._gather(rows), first_row=first_row)

    def _copy(self, group: str) -> torch.Tensor:
        reader = self._loader.reader
        # One row tells type and width. The rest comes chunk by chunk, so the log is never whole in the machine's own
        # memory.
        first = torch.from_numpy(reader.read(group, 0, 1))
        whole = torch.empty((reader.num_rows, first.shape[1]), dtype=first.dtype, device=self._device)
        for start in range(0, reader.num_rows, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, reader.num_rows)
            whole[start:stop] = torch.from_numpy(reader.read(group, start, stop)).to(self._device)
        return whole

    def _gather(self, rows: Rows) -> Batch:
        index = torch.from_numpy(rows)
        if self._device.type == "cuda":  # a copy of other memory would wait for what the device does
            index = index.pin_memory()
        index = index.to(self._device, non_blocking=True)
        return to_batch(rows, {name: array.index_select(0, index) for name, array in self._arrays.items()})


def fits(loader: ShuffledLoader, device: torch.device) -> bool:
    """Whether the whole log can live in a GPU's memory beside a model."""
    free, _ = torch.cuda.mem_get_info(device)
    num_bytes = loader.reader.num_rows * sum(group.row_bytes for group in loader.reader.groups)
    return num_bytes < _RESIDENT_SHARE * free


def prefetched(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the batches on a device; reading and copying the next one overlap with the use of this one.

    Args:
        batches: On the CPU.
        device: On the CPU itself, nothing is done.
    """
    if device.type == "cpu":
        yield from batches
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    # One thread: an iterator gives one batch at a time, and one ahead of the one in use is all that overlaps.
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(_next_on, batches, device, stream)
        while (batch := pending.result()) is not None:
            pending = reader.submit(_next_on, batches, device, stream)
            torch.cuda.current_stream(device).wait_stream(stream)
            for tensor in batch.tensors:  # or the allocator may give their memory to the next copy too early
                tensor.record_stream(torch.cuda.current_stream(device))
            yield batch


def _next_on(batches: Iterator[Batch], device: torch.device, stream: torch.cuda.Stream) -> Batch | None:
    batch = next(batches, None)
    if batch is None:
        return None
    with torch.cuda.stream(stream):
        copied = [tensor.pin_memory().to(device, non_blocking=True) for tensor in batch.tensors]
    stream.synchronize()  # pinned memory must live until it is copied; this waits in the reading thread alone
    return batch.with_tensors(copied)
