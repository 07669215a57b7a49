"""Batch size by the rows of an epoch, and the rate by the batch size."""

from typing import Any

import pytest

from qin.train.pace import Pace, choose_num_networks, choose_pace
from tests.train.runs import plain_params


@pytest.mark.parametrize(
    ("num_rows", "expected"),
    [
        (1, 128),
        (19_200, 128),  # a 150th is 128
        (27_000, 128),  # 180, nearer to 128 by factor
        (28_000, 256),  # 187
        (38_400.0, 256),
        (76_800, 512),
        (108_000, 512),  # 720
        (109_000, 1024),  # 727
        (10**9, 1024),
    ],
)
def test_the_batch_is_the_power_of_two_nearest_to_a_150th_of_the_rows(num_rows: float, expected: int) -> None:
    assert choose_pace(plain_params(batch_size="auto"), num_rows=num_rows) == Pace(expected, 1.0)


def test_a_batch_size_that_is_set_stays() -> None:
    for num_rows in (1, 10**9):
        assert choose_pace(plain_params(batch_size=77), num_rows=num_rows).batch_size == 77


@pytest.mark.parametrize(("scaling", "expected"), [("none", 0.001), ("sqrt", 0.002), ("linear", 0.004)])
def test_the_learning_rate_follows_the_batch(scaling: str, expected: float) -> None:
    def rate(batch_size: Any, num_rows: int = 1) -> float:
        return choose_pace(plain_params(batch_size=batch_size, lr=0.001, lr_scaling=scaling), num_rows=num_rows).lr

    assert rate(4096) == pytest.approx(expected, rel=1e-15)
    assert rate(1024) == 0.001
    assert rate("auto", 10**9) == 0.001
    assert rate("auto", 38_400) == rate(256), "the batch that was chosen counts"


@pytest.mark.parametrize(
    ("num_rows", "expected"),
    [(0, 4), (1, 4), (30_000, 4), (30_001, 3), (40_000, 3), (40_001, 2), (60_000, 2), (60_001, 1), (10**9, 1)],
)
def test_a_small_log_has_several_networks(num_rows: int, expected: int) -> None:
    assert choose_num_networks("auto", num_rows=num_rows) == expected


def test_a_number_of_networks_that_is_set_stays() -> None:
    assert [choose_num_networks(7, num_rows=num_rows) for num_rows in (1, 10**9)] == [7, 7]
