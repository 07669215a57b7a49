"""Threads: how many compute, that they compute the same bytes each time, and how they share the work on a batch."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Barrier
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

# Rows computed at a time, so that what stands between two products stays in a core's cache. Products of this height are
# as fast as large ones where the processor multiplies by vectors; a matrix unit (AMX) would rather have 512 or 1,024.
TILE_ROWS = 256

Result = TypeVar("Result")

_outside = threading.local()  # the number of threads outside of `one_thread`


def in_tiles(num_rows: int, work: Callable[[slice], Result], *, tile_rows: int = TILE_ROWS) -> list[Result]:
    """Results of work on each tile of rows, in order; as many at a time as PyTorch has threads here.

    PyTorch computes each tile on one thread, so its bytes do not depend on their number.
    """
    tiles = [slice(start, min(start + tile_rows, num_rows)) for start in range(0, num_rows, tile_rows)]
    if len(tiles) <= 1:
        with one_thread():
            return [work(tile) for tile in tiles]
    num_workers = getattr(_outside, "num_threads", None) or torch.get_num_threads()
    return list(one_thread_workers(num_workers).map(work, tiles))


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes on the calling thread alone, so that no sum of it is divided; tiles keep their workers."""
    # One already, inside of another such block: then that has kept the number outside, which workers are counted by.
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    _outside.num_threads = before
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _outside.num_threads = None


@cache
def one_thread_workers(num_workers: int) -> ThreadPoolExecutor:
    """Threads in each of which PyTorch uses that thread alone; outside of them nothing changes. They stay.

    PyTorch keeps a number for each thread, and the last one set anywhere for threads that are still to ask for theirs.
    """
    os.register_at_fork(after_in_child=one_thread_workers.cache_clear)  # threads do not live on in a forked process
    num_threads = torch.get_num_threads()
    workers = ThreadPoolExecutor(num_workers)
    ready = Barrier(num_workers + 1)
    for _ in range(num_workers):
        workers.submit(_use_one_thread, ready)
    ready.wait()
    torch.set_num_threads(num_threads)
    return workers


def _use_one_thread(ready: Barrier) -> None:
    torch.get_num_threads()  # or the first product would ask, and take the number of the others
    torch.set_num_threads(1)
    ready.wait()


_THREAD_ITEMS = 1 << 15  # below this, starting a second thread costs more than it saves


def in_parallel(work: Callable[[int, int], None], cuts: npt.NDArray[np.int64]) -> None:
    """Call `work(cuts[i], cuts[i + 1])` for every `i`, each in its own thread; kernels must release Python's lock."""
    ranges = list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
    if len(ranges) == 1:
        work(*ranges[0])
        return
    with ThreadPoolExecutor(len(ranges)) as pool:
        for future in [pool.submit(work, *part) for part in ranges]:
            future.result()


def even_cuts(num_items: int) -> npt.NDArray[np.int64]:
    """Bounds of nearly equal parts of a number of items: one part per torch thread, fewer if there is little to do."""
    num_parts = max(1, min(torch.get_num_threads(), num_items // _THREAD_ITEMS))
    return np.arange(num_parts + 1) * num_items // num_parts


def fix_threads(num_threads: int) -> None:
    """Fix the number of threads and demand deterministic kernels, so that equal inputs give equal bytes.

    On a GPU: a workspace of its own for each product, whose sums are float32, and no product in a shorter type that was
    not asked for.
    """
    torch.set_num_threads(num_threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, matrix products on a GPU may vary
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would import the compiler first
    # Filling memory before it is written costs a tenth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
