"""Files of a log encoded by a Ray cluster, one file a task; the results are in the files' order.

All machines need the project's folder under the same path, on a shared disk, and write their shards there.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qin.prepare.part import EncodedPart, PartTask, encode_part
from qin.runtime.errors import DataError
from qin.runtime.on_ray import connected
from qin.runtime.progress import PASSING, log

_RETRIES = 3
_ATTEMPTS = "attempts"


def encode_parts_on_ray(
    tasks: Sequence[PartTask], *, num_processes: int, advance: Callable[[int], object]
) -> Generator[EncodedPart]:
    """Yield each file's result, in order: the bytes of `encode_parts`.

    1. So many files at a time are tasks of the cluster, each with the cores that its threads need.
    2. A task writes into a folder of its own, and moves the shards to their place when all are whole. Where its worker,
       or the machine, is lost in the middle, Ray runs it again from its beginning, and the unfinished folder is left.
    3. Results are handed on in the files' order; unfinished folders are removed and told.

    Args:
        tasks: The files.
        num_processes: Files at a time.
        advance: Told how many rows are done.

    Raises:
        ConfigError: If Ray is not installed, or its cluster cannot be reached.
        DataError: Naming the first bad value of the first file that has one, or that a worker is lost again and again.
    """
    if not tasks:
        return
    num_threads, attempts = tasks[0].knobs.num_threads, tasks[0].folder / _ATTEMPTS
    attempts.mkdir()
    try:
        with connected(setting="prepare.launcher", num_cpus=num_processes * num_threads):
            for task, encoded in zip(tasks, _results(tasks, num_processes, attempts), strict=True):
                if any(attempts.glob(_unfinished(task, "*"))):
                    log.warning("%s: its worker was lost; encoded again", task.part.name, extra={PASSING: True})
                advance(task.part.num_rows)
                yield encoded
    finally:
        shutil.rmtree(attempts, ignore_errors=True)  # after an error others may still be writing there


def _results(tasks: Sequence[PartTask], num_processes: int, attempts: Path) -> Iterator[EncodedPart]:
    """Each task's result, in order, some of them running at a time."""
    import ray  # noqa: PLC0415 -- an extra

    encode = ray.remote(num_cpus=tasks[0].knobs.num_threads, max_retries=_RETRIES)(_encode)
    # A window of our own: of all tasks handed over at once, Ray would keep the results of those that end early in
    # memory.
    waiting, running, finished = iter(enumerate(tasks)), dict[Any, int](), dict[int, Any]()
    folder = str(Path.cwd())
    for number, task in enumerate(tasks):
        while number not in finished:
            while len(running) < num_processes and (following := next(waiting, None)) is not None:
                running[encode.remote(following[1], folder, str(attempts))] = following[0]
            (reference,), _ = ray.wait(list(running), num_returns=1)
            finished[running.pop(reference)] = reference
        try:
            yield ray.get(finished.pop(number))
        except ray.exceptions.RayTaskError as error:
            # Ours, with file and row; Ray's own would be a page of a traceback.
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise DataError(
                f"{task.part.name}: the worker that encoded it was lost {_RETRIES + 1} times, perhaps for want of "
                "memory (prepare.launcher: ray)"
            ) from error


def _encode(task: PartTask, folder: str, attempts: str) -> EncodedPart:
    """One task, where Ray has placed it."""
    os.chdir(folder)  # paths of the log are relative to the project's
    staging = Path(tempfile.mkdtemp(prefix=_unfinished(task, ""), dir=attempts))
    encoded = encode_part(replace(task, folder=staging), advance=lambda _: None)
    for shard in encoded.shards:
        (staging / shard["file"]).replace(task.folder / shard["file"])
    staging.rmdir()
    return encoded


def _unfinished(task: PartTask, rest: str) -> str:
    """Name of an attempt's folder, or a pattern of them."""
    return f"{task.part.first_row}-{rest}"
