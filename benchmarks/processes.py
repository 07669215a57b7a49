"""A step of one to four processes on this machine, and what a model of it says of an epoch on N GPUs.

    python -m benchmarks.processes --out benchmarks/results/processes.json

Each process trains the network of params.yaml on its part of a batch of 40 fields and a history of 100 items. Measured
are the CPU seconds of forward and backward pass, the CPU seconds and bytes of the sum of gradients, and the update,
medians over the steps; CPU seconds, because more processes than cores share the cores here. The model is a step of

    max(batch / N x seconds per row + seconds per step + sum of gradients, batch / rows per second of the loader)

with a ring's sum, 2 (N - 1) / N x bytes / bandwidth + 2 (N - 1) x latency. That seconds per row and per step are
constants is what is measured here (`fit_error`); rates of a GPU and of its links are options, not measured here.
"""

import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.machine import describe, report
from benchmarks.profile import ROOT
from qin.config import load_params
from qin.distributed.launch import launch
from qin.distributed.ranks import ONE, Ranks, joined
from qin.model.build import network_sizes
from qin.network.numeric import NumericNormalizer
from qin.network.qin import QIN, FittedInputs, QINInputs
from qin.runtime.paths import PARAMS
from qin.train.exchange import GradientSum

NUM_FIELDS, NUM_ITEMS, NUM_BUCKETS = 40, 100, 5000
BATCH_SIZE = 1024
WORLDS = (1, 2, 3, 4)
GPUS = (1, 2, 4, 8, 16, 32, 64)
_OUT = "QIN_BENCHMARK_OUT"
_GPUS_PER_MACHINE = 8


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Rates that are taken as given.

    Attributes:
        rows_per_second: Of forward and backward pass on one GPU.
        step_seconds: Of a step besides, such as launches and the update.
        loader_rows_per_second: Rows of whole batches that a process reads its part of.
        inside: Bytes per second between two GPUs of a machine.
        between: Bytes per second between two machines.
        latency: Seconds of a message.
    """

    rows_per_second: float
    step_seconds: float
    loader_rows_per_second: float
    inside: float
    between: float
    latency: float


def main(
    rows: Annotated[float, typer.Option(help="Rows of the epoch that is modelled.")] = 1e9,
    batch_size: Annotated[int, typer.Option(help="Rows of a batch of all GPUs.")] = 65536,
    gpu_rows: Annotated[float, typer.Option(help="Rows per second of one GPU.")] = 1.5e6,
    steps: Annotated[int, typer.Option(help="Timed steps of each case; the figure is their median.")] = 12,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Print the figures as JSON."""
    if _OUT in os.environ:
        with joined() as ranks:
            _measure(ranks, steps, Path(os.environ[_OUT]))
        return
    measured = [_measured(world, steps) for world in WORLDS]
    per_row, per_step = fitted(measured)
    cluster = Cluster(gpu_rows, 3e-4, 3.3e6, inside=2e11, between=2.5e10, latency=5e-6)
    num_bytes = measured[0]["gradient_bytes"]
    epochs = [epoch(cluster, num_gpus, rows=rows, batch_size=batch_size, num_bytes=num_bytes) for num_gpus in GPUS]
    result = {
        "machine": describe(),
        "batch_size": BATCH_SIZE,
        "measured": measured,
        "cpu_seconds_per_row": per_row,
        "cpu_seconds_per_step": per_step,
        "fit_error": fit_error(measured, per_row, per_step),
        "cluster": dataclasses.asdict(cluster),
        "epoch": {"rows": rows, "batch_size": batch_size, "gpus": epochs},
    }
    report(result, out)


def epoch(cluster: Cluster, num_gpus: int, *, rows: float, batch_size: int, num_bytes: float) -> dict[str, float]:
    """What the model says of an epoch.

    Args:
        cluster: Its rates.
        num_gpus: How many compute.
        rows: Of the epoch.
        batch_size: Rows of a step of all GPUs.
        num_bytes: Of all gradients.
    """
    bandwidth = cluster.inside if num_gpus <= _GPUS_PER_MACHINE else cluster.between
    exchange = 2 * (num_gpus - 1) / num_gpus * num_bytes / bandwidth + 2 * (num_gpus - 1) * cluster.latency
    compute = batch_size / num_gpus / cluster.rows_per_second + cluster.step_seconds
    step = max(compute + exchange, batch_size / cluster.loader_rows_per_second)
    alone = batch_size / cluster.rows_per_second + cluster.step_seconds
    alone = max(alone, batch_size / cluster.loader_rows_per_second)
    return {
        "gpus": num_gpus,
        "epoch_seconds": rows / batch_size * step,
        "exchange_share": exchange / (compute + exchange),
        "speedup": alone / step,
        "is_bound_by_the_loader": float(step > compute + exchange),
    }


def fitted(measured: list[dict[str, Any]]) -> tuple[float, float]:
    """CPU seconds per row of a process and per step, by least squares over the numbers of processes."""
    rows = np.array([one["rows_per_process"] for one in measured])
    seconds = np.array([one["compute_cpu_seconds"] for one in measured])
    per_row, per_step = np.polyfit(rows, seconds, 1)
    return float(per_row), float(per_step)


def fit_error(measured: list[dict[str, Any]], per_row: float, per_step: float) -> float:
    """The largest relative difference of a measured step from the fitted one."""
    rows = np.array([one["rows_per_process"] for one in measured])
    seconds = np.array([one["compute_cpu_seconds"] for one in measured])
    return float(np.max(np.abs(per_row * rows + per_step - seconds) / seconds))


def _measured(world: int, steps: int) -> dict[str, Any]:
    """The first process's figures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        if world == 1:
            _measure(ONE, steps, path)
        else:
            os.environ[_OUT] = str(path)
            launch(["-m", "benchmarks.processes", "--steps", str(steps)], num_processes=world, max_restarts=0)
            del os.environ[_OUT]
        found: dict[str, Any] = json.loads(path.read_text())
    return found


def _measure(ranks: Ranks, steps: int, out: Path) -> None:
    torch.set_num_threads(1)
    network, (first, stop) = _network(), ranks.bounds(BATCH_SIZE)
    generator = torch.Generator().manual_seed(0)
    fields = torch.randint(1, NUM_BUCKETS, (BATCH_SIZE, NUM_FIELDS), generator=generator)[first:stop]
    items = torch.randint(1, NUM_BUCKETS, (BATCH_SIZE, NUM_ITEMS), generator=generator)[first:stop]
    add_up, optimizer = GradientSum(network, ranks), torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    parts: list[list[float]] = [[], [], []]
    for _ in range(steps + 3):  # three to warm up
        ranks.wait()
        started = time.process_time()
        optimizer.zero_grad()
        loss = network(fields, torch.empty(stop - first, 0), [items], first_row=first).sum() / BATCH_SIZE
        loss.backward()
        computed = time.process_time()
        add_up(loss.reshape(1))
        summed = time.process_time()
        optimizer.step()
        for part, seconds in zip(
            parts, (computed - started, summed - computed, time.process_time() - summed), strict=True
        ):
            part.append(seconds)
    if ranks.rank > 0:
        return
    compute, exchange, update = (median(part[3:]) for part in parts)
    figures = {
        "processes": ranks.world,
        "rows_per_process": stop - first,
        "compute_cpu_seconds": compute,
        "exchange_cpu_seconds": exchange,
        "update_cpu_seconds": update,
        "gradient_bytes": 4 * sum(parameter.numel() for parameter in network.parameters()),
    }
    out.write_text(json.dumps(figures))


def _network() -> QIN:
    params = load_params(ROOT / PARAMS).model.network
    inputs = QINInputs(
        num_buckets=(NUM_BUCKETS,) * NUM_FIELDS,
        num_fields=NUM_FIELDS,
        sequence_vocabulary=(0,),
        target_fields=(0,),
    )
    fitted_inputs = FittedInputs(normalizer=NumericNormalizer(torch.empty(0), torch.empty(0)))
    sizes = network_sizes(params, is_sparse=False)
    return QIN(inputs=inputs, sizes=sizes, fitted=fitted_inputs, generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    typer.run(main)
