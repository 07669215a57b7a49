"""Functions run in several processes that meet as a launcher's do; a server that has imported everything forks them."""

import multiprocessing
import os
import queue
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch._C._distributed_c10d import TCPStore

from qin.distributed.launch import loopback_interface
from qin.distributed.ranks import joined
from qin.runtime.host import LOOPBACK

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.together", "qin.train.fit"])
_PATIENCE_SECONDS = 300.0


def together(world: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Results of `work(ranks, *arguments)` in each of several processes, in their order; None where one has died.

    Raises:
        AssertionError: With the traceback of a process in which it has failed, or if they do not end.
    """
    store = TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)
    results = _CONTEXT.Queue()
    processes = [
        _CONTEXT.Process(target=_run, args=(results, rank, world, store.port, work, arguments)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    try:
        found = _collected(results, processes)
    finally:
        for process in processes:
            process.kill()
            process.join()
    failed = [text for is_good, text in found.values() if not is_good]
    assert not failed, "\n".join(failed)
    return [found[rank][1] if rank in found else None for rank in range(world)]


def _collected(results: Any, processes: list[Any]) -> dict[int, tuple[bool, Any]]:
    found = dict[int, tuple[bool, Any]]()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while len(found) < len(processes):
        is_over = all(process.exitcode is not None for process in processes)
        try:
            rank, *result = results.get(timeout=0.2)
        except queue.Empty:
            if is_over:
                return found
            assert time.monotonic() < deadline, f"processes {set(range(len(processes))) - set(found)} do not end"
            continue
        found[rank] = (result[0], result[1])
    return found


def _run(results: Any, rank: int, world: int, port: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    os.environ["GLOO_SOCKET_IFNAME"] = loopback_interface()
    torch.set_num_threads(1)
    try:
        with joined() as ranks:
            results.put((rank, True, work(ranks, *arguments)))
    except BaseException:
        results.put((rank, False, f"process {rank}:\n{traceback.format_exc()}"))
