"""Files of a log encoded one after the other, or several at a time, by processes here or on a cluster, and in order.

Each file's shards depend on that file alone, so neither the number of processes nor which of them took a file shows.
"""

import multiprocessing
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event

from qin.prepare.part import EncodedPart, PartTask, encode_part
from qin.prepare.ray_tasks import encode_parts_on_ray
from qin.runtime.errors import DataError, QinError
from qin.runtime.parent import end_with_parent


class _StoppedError(QinError):
    """Another file has ended the stage."""


_stop: list[Event] = []  # of a worker process


def encode_parts(
    tasks: Sequence[PartTask], *, num_processes: int, advance: Callable[[int], object], launcher: str = "local"
) -> Generator[EncodedPart]:
    """Yield each file's result, in order.

    Args:
        tasks: The files.
        num_processes: Files at a time; with 1, they are encoded in this process.
        advance: Told how many rows are done.
        launcher: local (processes of this machine) or ray (see `encode_parts_on_ray`).

    Raises:
        ConfigError: If Ray is not there.
        DataError: Naming the first bad value of the first file that has one, or that a process was killed.
    """
    if min(num_processes, len(tasks)) <= 1:
        for task in tasks:
            yield encode_part(task, advance=advance)
        return
    if launcher == "ray":
        yield from encode_parts_on_ray(tasks, num_processes=num_processes, advance=advance)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads of Arrow hold
    stop = context.Event()
    pool = ProcessPoolExecutor(min(num_processes, len(tasks)), context, initializer=_begin, initargs=(stop,))
    try:
        # All are handed over at once, but asked in the files' order: of several bad files the first one is named.
        for task, future in [(task, pool.submit(_encode, task)) for task in tasks]:
            try:
                yield future.result()
            except BrokenProcessPool as error:
                raise DataError(
                    f"{task.part.name}: a process that encoded files was killed, perhaps for want of memory; "
                    f"prepare.num_processes is {num_processes}"
                ) from error
            advance(task.part.num_rows)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _begin(stop: Event) -> None:
    """Let a worker leave Ctrl-C and a closed terminal to the stage, which tells it to stop, and end with it."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    _stop[:] = [stop]


def _encode(task: PartTask) -> EncodedPart:
    def advance(_: int) -> None:
        if _stop[0].is_set():
            raise _StoppedError("stopped")

    return encode_part(task, advance=advance)
