"""Threads that share the work on a batch, each computing its part alone."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

# Rows computed at a time: a matrix product of this height is as fast as a large one, and what stands between products
# stays in a core's cache.
TILE_ROWS = 256

Result = TypeVar("Result")


def in_tiles(num_rows: int, work: Callable[[slice], Result]) -> list[Result]:
    """Results of work on each tile of rows, in order; as many at a time as PyTorch has threads here."""
    tiles = [slice(start, min(start + TILE_ROWS, num_rows)) for start in range(0, num_rows, TILE_ROWS)]
    return list(one_thread_workers(torch.get_num_threads()).map(work, tiles))


@cache
def one_thread_workers(num_workers: int) -> ThreadPoolExecutor:
    """Threads in each of which PyTorch uses that thread alone; outside of them nothing changes. They stay.

    PyTorch keeps a number for each thread, and the last one set anywhere for threads that are still to ask for theirs.
    """
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


os.register_at_fork(after_in_child=one_thread_workers.cache_clear)  # threads do not live on in a forked process
