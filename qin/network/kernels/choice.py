"""Who computes: this project's kernels on a CPU, PyTorch's operations on every other device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_forms = [True]  # the last one holds


def has_kernels(tensor: torch.Tensor) -> bool:
    """Whether kernels of ours take a tensor."""
    return tensor.device.type == "cpu" and _forms[-1]


@contextmanager
def as_other_devices() -> Iterator[None]:
    """Let the CPU compute meanwhile as a GPU does, in all threads: for tests and benchmarks of what a GPU computes."""
    _forms.append(False)
    try:
        yield
    finally:
        _forms.pop()
