"""Requests that wait together are scored together, and what would wait too long is turned away at once."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Work = TypeVar("Work")
Answer = TypeVar("Answer")


class BusyError(Exception):
    """As many rows wait as may; the client may try again."""


@dataclass
class _Waiting(Generic[Work, Answer]):
    work: Work
    num_rows: int
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class MicroBatcher(Generic[Work, Answer]):
    """Hands work to a thread, all that came while the last was done at once; it waits for nobody.

    A lone request is scored at once; under load, batches grow by themselves up to the limit.

    Args:
        score: Answers several works, in order; runs in the thread. What it raises, all of them hear.
        most_rows: Of a batch, and a single work may have more.
        most_waiting: Rows that may wait; beyond, `BusyError`.
    """

    def __init__(
        self,
        score: Callable[[Sequence[Work]], Sequence[Answer]],
        *,
        most_rows: int,
        most_waiting: int,
    ) -> None:
        self._score, self._most_rows, self._most_waiting = score, most_rows, most_waiting
        # One thread: batches grow because there is nobody else to take what waits.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._waiting: list[_Waiting[Work, Answer]] = []
        self._rows_waiting, self._arrived = 0, asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    @property
    def rows_waiting(self) -> int:
        """Rows that wait for the thread."""
        return self._rows_waiting

    async def __call__(self, work: Work, *, num_rows: int) -> Answer:
        """Answer a work.

        Raises:
            BusyError: If too many rows wait.
        """
        # A lone request is always taken: its size has a limit of its own.
        if self._rows_waiting and self._rows_waiting + num_rows > self._most_waiting:
            raise BusyError(f"{self._rows_waiting} rows wait")
        # With the first request and not at once: only then is there a loop that runs.
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        waiting = _Waiting[Work, Answer](work, num_rows)
        self._waiting.append(waiting)
        self._rows_waiting += num_rows
        self._arrived.set()
        return await waiting.answer

    async def close(self) -> None:
        """Answer all that waits, and end."""
        self._is_closing = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        self._pool.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            if not self._waiting:  # closing, and all is answered
                return
            batch = self._taken()
            try:
                answers = await loop.run_in_executor(self._pool, self._score, [waiting.work for waiting in batch])
            except Exception as error:
                for waiting in batch:
                    if not waiting.answer.cancelled():  # its client has gone
                        waiting.answer.set_exception(error)
                continue
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.cancelled():
                    waiting.answer.set_result(answer)

    def _taken(self) -> list[_Waiting[Work, Answer]]:
        batch: list[_Waiting[Work, Answer]] = []
        num_rows = 0
        while self._waiting and (not batch or num_rows + self._waiting[0].num_rows <= self._most_rows):
            batch.append(self._waiting.pop(0))
            num_rows += batch[-1].num_rows
        self._rows_waiting -= num_rows
        # Left set while closing, so that the loop comes round once more and sees that nothing waits.
        if not self._waiting and not self._is_closing:
            self._arrived.clear()
        return batch
