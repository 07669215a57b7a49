"""Workers that compute alone: PyTorch's settings outside of them stay, and results keep their order."""

import os
import signal

import pytest
import torch

from qin.network.threads import TILE_ROWS, in_tiles, one_thread_workers


def test_workers_have_one_thread_each_and_new_threads_the_old_number(num_threads: None) -> None:
    torch.set_num_threads(3)
    for num_workers in (2, 1, 2):
        workers = one_thread_workers(num_workers)
        assert [workers.submit(torch.get_num_threads).result() for _ in range(4)] == [1] * 4
        assert torch.get_num_threads() == 3


@pytest.mark.parametrize("num_rows", [0, 1, TILE_ROWS, 2 * TILE_ROWS + 3])
def test_tiles_cover_all_rows_in_order(num_rows: int) -> None:
    parts = in_tiles(num_rows, lambda rows: list(range(num_rows))[rows])
    assert [row for part in parts for row in part] == list(range(num_rows))
    assert all(len(part) == TILE_ROWS for part in parts[:-1])


def test_an_error_in_a_tile_reaches_the_caller() -> None:
    def work(rows: slice) -> None:
        if rows.start:
            raise ValueError(f"row {rows.start}")

    with pytest.raises(ValueError, match=f"row {TILE_ROWS}"):
        in_tiles(2 * TILE_ROWS, work)


def test_a_forked_process_makes_workers_of_its_own() -> None:
    """Those of its parent do not live there, and work handed to them would wait for ever."""
    in_tiles(2 * TILE_ROWS, lambda rows: rows.start)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        status = 1
        try:
            status = int(in_tiles(2 * TILE_ROWS, lambda rows: rows.start) != [0, TILE_ROWS])
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
