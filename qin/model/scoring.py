"""Batched logits from a trained network in its frozen form: weights folded and converted once."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt
import torch

from qin.network.frozen import FrozenQIN
from qin.network.kernels.choice import has_kernels
from qin.network.plain import PlainNetwork
from qin.network.qin import QIN
from qin.network.threads import one_thread, one_thread_workers
from qin.shards.device import prefetched
from qin.shards.loader import Batch

Scorable = QIN | FrozenQIN | PlainNetwork

_BATCHES_AHEAD = 2  # read and handed out before the oldest is waited for


def for_scoring(network: QIN) -> FrozenQIN | PlainNetwork:
    """A frozen copy of the network, which is left in evaluation mode; for `score`, which would make it at every call.

    The copy's tables are the network's.
    """
    network.eval()
    if has_kernels(next(network.parameters())):
        return FrozenQIN(network)
    return PlainNetwork(network, dtype=torch.bfloat16 if network.use_bf16 else torch.float32)


def score(
    network: Scorable, batches: Iterator[Batch], *, num_threads: int | None = None
) -> Iterator[tuple[Batch, npt.NDArray[np.float32]]]:
    """Yield each batch with its logits `(batch,)`, computed on the network's device.

    On the CPU the bytes of a logit depend neither on the other rows of its batch nor on the number of threads.

    Args:
        network: From `for_scoring`, which is called on any other.
        batches: The rows.
        num_threads: On the CPU; None for as many as PyTorch has. One is the calling thread itself.
    """
    if isinstance(network, QIN):
        network = for_scoring(network)
    if isinstance(network, FrozenQIN) and num_threads == 1:
        yield from _score_here(network, batches)
        return
    if isinstance(network, FrozenQIN):
        yield from _score_on_cpu(network, batches, num_threads=num_threads or torch.get_num_threads())
        return
    yield from _score_on_device(network, batches)


def _score_on_device(
    network: PlainNetwork, batches: Iterator[Batch]
) -> Iterator[tuple[Batch, npt.NDArray[np.float32]]]:
    """The logits of a batch are fetched when the next one has been handed over, so that the device goes on."""
    device, pending = next(network.parameters()).device, deque[tuple[Batch, torch.Tensor]]()
    for batch in prefetched(batches, device):
        # The plain form checks nothing, because it is exported as well, and a graph raises no error.
        network.source.check_inputs(batch.categorical, batch.numeric, batch.sequences)
        with torch.inference_mode():
            buckets, histories = batch.categorical.long(), [history.long() for history in batch.sequences]
            pending.append((batch, network(buckets, batch.numeric, histories)))
        if len(pending) > 1:
            yield _fetched(*pending.popleft())
    while pending:
        yield _fetched(*pending.popleft())


def _fetched(batch: Batch, logit: torch.Tensor) -> tuple[Batch, npt.NDArray[np.float32]]:
    return batch, logit.cpu().numpy()


def _score_here(network: FrozenQIN, batches: Iterator[Batch]) -> Iterator[tuple[Batch, npt.NDArray[np.float32]]]:
    """On the calling thread, which is the quickest for a few rows."""
    for batch in batches:
        with one_thread():
            logit = network(batch.categorical, batch.numeric, batch.sequences)
        yield batch, logit.numpy()


def _score_on_cpu(
    network: FrozenQIN, batches: Iterator[Batch], *, num_threads: int
) -> Iterator[tuple[Batch, npt.NDArray[np.float32]]]:
    """Tiles of rows in parallel, each on one thread from end to end; the next batch is read meanwhile."""
    workers = one_thread_workers(num_threads)
    pending: deque[tuple[Batch, list[Future[torch.Tensor]]]] = deque()
    for batch in batches:
        tiles = network.tiles(batch.categorical, batch.numeric, batch.sequences)
        pending.append((batch, [workers.submit(tile) for tile in tiles]))
        if len(pending) > _BATCHES_AHEAD:
            yield _collected(*pending.popleft())
    while pending:
        yield _collected(*pending.popleft())


def _collected(batch: Batch, tiles: list[Future[torch.Tensor]]) -> tuple[Batch, npt.NDArray[np.float32]]:
    return batch, torch.cat([tile.result() for tile in tiles]).numpy()


def score_all(
    network: Scorable, batches: Iterator[Batch], *, num_rows: int, num_threads: int | None = None
) -> npt.NDArray[np.float32]:
    """Logits of all batches in order, `(num_rows,)`."""
    out, position = np.empty(num_rows, np.float32), 0
    for batch, logit in score(network, batches, num_threads=num_threads):
        out[position : position + batch.rows.size] = logit
        position += batch.rows.size
    assert position == num_rows, "batches hold as many rows as were selected"
    return out


def mean_logit(logits: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """The mean of several networks' logits, `(n,)` each; those of a single one as they are."""
    if len(logits) == 1:
        return logits[0]
    # Rounded once, at the end, so that more seeds cost no digits.
    total = logits[0].astype(np.float64)
    for logit in logits[1:]:
        total += logit
    return (total / len(logits)).astype(np.float32)


def score_batch(
    network: Scorable, batch: Batch, *, batch_size: int, num_threads: int | None = None
) -> npt.NDArray[np.float32]:
    """Logits of rows that are in memory, `(n,)`."""
    return score_all(network, batch.pieces(batch_size), num_rows=batch.rows.size, num_threads=num_threads)
