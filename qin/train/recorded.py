"""A training step whose kernels a GPU launches as one graph, with new batches and dropout keys each time."""

from collections.abc import Callable, Iterator

import torch

from qin.network.dropout import draw_key, keys_given
from qin.shards.loader import Batch

_WARM_UP_STEPS = 3  # made eagerly: libraries choose their kernels and allocate their workspaces
_MAX_KEYS = 256

Step = Callable[[Batch], None]
Recorder = Callable[[Callable[[], None]], Callable[[], None]]


class RecordedStep:
    """Makes a step as it is a few times, records it, and from then on replays it.

    All that differs from step to step is read from tensors that keep their place: the batch and the keys of the masks,
    which are filled here, and the learning rate. Python runs while the step is recorded and never again, so what it
    counts must be counted elsewhere. A batch of another shape is made as it is.

    Args:
        step: One step, from a batch to moved weights; nothing in it may wait for the device or have a shape that
            depends on what is in a tensor.
        device: Where the batches are.
        record: Makes what is called with nothing into what replays it, such as `record_on_gpu`; None: every step is
            made as it is, with keys in tensors, which a compiled part needs: it is made for each number anew.
    """

    def __init__(self, step: Step, device: torch.device, *, record: Recorder | None) -> None:
        self._step, self._record = step, record
        self._keys, self._num_keys = torch.zeros(_MAX_KEYS, dtype=torch.int64, device=device), 0
        self._num_steps = 0
        self._place: Batch | None = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, batch: Batch) -> None:
        """Make one step; the global CPU generator gives the same keys whatever its form."""
        if self._record is None or self._num_steps < _WARM_UP_STEPS or not self._fits(batch):
            self._make_as_it_is(batch)
            self._num_steps += 1
            return
        if self._place is None:
            # Memory of its own, whose addresses the graph has for good.
            self._place = batch.with_tensors([tensor.clone() for tensor in batch.tensors])
        for place, tensor in zip(self._place.tensors, batch.tensors, strict=True):
            place.copy_(tensor, non_blocking=True)
        self._fill_keys()
        if self._replay is None:
            self._replay = self._record(self._make_in_place)
        self._replay()

    def _make_as_it_is(self, batch: Batch) -> None:
        drawn = 0

        def keys() -> Iterator[torch.Tensor]:
            nonlocal drawn
            while True:
                key = torch.tensor(draw_key())
                drawn += 1
                yield key.to(self._keys.device, non_blocking=True)

        with keys_given(keys()):
            self._step(batch)
        self._num_keys = drawn
        assert drawn <= _MAX_KEYS, "a step draws one key for each mask"

    def _make_in_place(self) -> None:
        assert self._place is not None
        with keys_given(iter(self._keys[: self._num_keys].unbind())):
            self._step(self._place)

    def _fits(self, batch: Batch) -> bool:
        if self._place is None:
            return True
        if batch.first_row != self._place.first_row:
            return False
        return all(a.shape == b.shape for a, b in zip(self._place.tensors, batch.tensors, strict=True))

    def _fill_keys(self) -> None:
        # As many as the recorded step has masks, drawn in the order in which they ask: the keys that plain steps would
        # draw.
        drawn = torch.tensor([draw_key() for _ in range(self._num_keys)], dtype=torch.int64)
        if self._keys.device.type == "cuda":
            drawn = drawn.pin_memory()
        self._keys[: self._num_keys].copy_(drawn, non_blocking=True)


def record_on_gpu(make: Callable[[], None]) -> Callable[[], None]:
    """Record what is launched on the current device; recording launches nothing."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        make()
    return graph.replay
