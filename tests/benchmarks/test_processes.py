"""The model of an epoch by hand, and that it finds the constants that made its steps."""

from dataclasses import replace

import pytest

from benchmarks.processes import Cluster, epoch, fit_error, fitted

CLUSTER = Cluster(
    rows_per_second=1000.0, step_seconds=0.5, loader_rows_per_second=1e9, inside=100.0, between=10.0, latency=0.25
)


def test_a_step_is_its_rows_its_overhead_and_its_sum() -> None:
    one, four, sixteen = (epoch(CLUSTER, n, rows=4000, batch_size=2000, num_bytes=200.0) for n in (1, 4, 16))
    assert (one["epoch_seconds"], one["exchange_share"], one["speedup"]) == (2 * 2.5, 0.0, 1.0)
    exchange = 2 * 3 / 4 * 200 / 100 + 2 * 3 * 0.25
    assert four["epoch_seconds"] == pytest.approx(2 * (0.5 + 0.5 + exchange))
    assert four["exchange_share"] == pytest.approx(exchange / (1.0 + exchange))
    between = 2 * 15 / 16 * 200 / 10 + 2 * 15 * 0.25
    assert sixteen["epoch_seconds"] == pytest.approx(2 * (2000 / 16 / 1000 + 0.5 + between))


def test_no_step_is_faster_than_its_rows_are_read() -> None:
    slow = replace(CLUSTER, loader_rows_per_second=500.0)
    found = epoch(slow, 2, rows=4000, batch_size=2000, num_bytes=0.0)
    assert (found["epoch_seconds"], found["is_bound_by_the_loader"]) == (8.0, 1.0)


def test_the_constants_are_found() -> None:
    measured = [{"rows_per_process": rows, "compute_cpu_seconds": 0.01 * rows + 2.0} for rows in (1024, 512, 256)]
    per_row, per_step = fitted(measured)
    assert per_row == pytest.approx(0.01)
    assert per_step == pytest.approx(2.0)
    assert fit_error(measured, per_row, per_step) < 1e-9
    assert fit_error(measured, per_row, 0.0) > 0.1
