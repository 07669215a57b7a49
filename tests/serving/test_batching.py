"""Requests that wait together: what is taken is answered, also when the service closes."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from qin.serving.batching import MicroBatcher


@pytest.mark.parametrize("num_waiting", [0, 2])
def test_closing_answers_what_was_taken_and_what_waits(num_waiting: int) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def score(works: Sequence[int]) -> list[int]:
        begun.set()
        may_end.wait(60)
        return [10 * work for work in works]

    async def run() -> list[int]:
        batcher: MicroBatcher[int, int] = MicroBatcher(score, most_rows=1, most_waiting=10)
        taken = asyncio.create_task(batcher(1, num_rows=1))
        await asyncio.to_thread(begun.wait, 60)
        waiting = [asyncio.create_task(batcher(2 + number, num_rows=1)) for number in range(num_waiting)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        may_end.set()
        await asyncio.wait_for(closing, 60)
        return list(await asyncio.wait_for(asyncio.gather(taken, *waiting), 60))

    assert asyncio.run(run()) == [10, 20, 30][: 1 + num_waiting]


def test_closing_what_was_never_asked_ends() -> None:
    batcher: MicroBatcher[int, int] = MicroBatcher(list, most_rows=1, most_waiting=1)
    asyncio.run(asyncio.wait_for(batcher.close(), 60))
