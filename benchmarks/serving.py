"""How long a request takes: parts of the scorer by number of rows, and the service on loopback under load.

python -m benchmarks.serving --artifacts artifacts --rows data/test.parquet

Times of the scorer are of one thread: the processor's beside the clock's, which other programs on a shared machine
lengthen; they take the cores' caches too, so the fastest of many calls is what the code needs. The service runs in a
process of its own; its clients share the machine with it.
"""

import argparse
import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import describe, report
from qin.members import arrays_of
from qin.serving.scorer import Scorer
from qin.serving.service import ARROW

SIZES = (1, 8, 32, 128, 512)
RESULT = Path("benchmarks/results/serving.json")
_TIMES = 200
_SHOWN: dict[str, Callable[[Any], Any]] = {"median": np.median, "best": np.min}


def timed(work: Callable[[], Any], *, times: int) -> dict[str, float]:
    """Milliseconds of a call: processor time and clock time, median and fastest."""
    cpu, wall = [], []
    for _ in range(times):
        begun, started = time.thread_time(), time.perf_counter()
        work()
        cpu.append(time.thread_time() - begun)
        wall.append(time.perf_counter() - started)
    measured = {"cpu": 1e3 * np.array(cpu), "wall": 1e3 * np.array(wall)}
    return {f"{clock}_{name}": float(of(times)) for clock, times in measured.items() for name, of in _SHOWN.items()}


def latencies(scorer: Scorer, rows: pa.Table) -> dict[str, Any]:
    """Of each number of rows: the whole call, encoding, the network alone, the trees alone."""
    out: dict[str, Any] = {}
    members = scorer._deployed.folds[0].members
    for size in SIZES:
        part = rows.slice(0, size).combine_chunks()
        [batch] = scorer.prepare(part).batches
        arrays = arrays_of(batch, members.schema)
        figures = {"score": timed(partial(scorer.score, part), times=_TIMES)}
        figures["encode"] = timed(partial(scorer.prepare, part), times=_TIMES)
        trees = members.trees
        for network in members.networks[:1]:
            tensors = batch.categorical, batch.numeric, batch.sequences
            figures["network"] = timed(partial(network, *tensors), times=_TIMES)
        if trees is not None:
            figures["trees"] = timed(partial(trees.logit_of, members.schema, arrays), times=_TIMES)
        out[str(size)] = figures
    return out


@contextmanager
def service(artifacts: Path) -> Iterator[str]:
    """The address of a service in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = "import sys; from qin.cli import app; app(sys.argv[1:])"
    command = [sys.executable, "-c", program, "serve", "--artifacts", artifacts, "--port", port, "--threads", 1]
    process = subprocess.Popen([*map(str, command)])
    try:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/ready")
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def load(address: str, content: bytes, *, clients: int, seconds: float) -> dict[str, Any]:
    """So many clients, each sending a request after the other: milliseconds and requests per second."""
    took: list[float] = []
    statuses: dict[int, int] = {}
    stop = time.perf_counter() + seconds

    async def send(client: httpx.AsyncClient) -> None:
        while time.perf_counter() < stop:
            started = time.perf_counter()
            answer = await client.post("/score", content=content, headers={"content-type": ARROW})
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            if answer.status_code == 200:
                took.append(time.perf_counter() - started)

    started = time.perf_counter()
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as client:
        await asyncio.gather(*(send(client) for _ in range(clients)))
    return {
        "clients": clients,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "requests_per_second": len(took) / (time.perf_counter() - started),
        "p50": 1e3 * float(np.median(took)) if took else None,
        "p99": 1e3 * float(np.quantile(took, 0.99)) if took else None,
    }


def arrow(rows: pa.Table) -> bytes:
    """A table as the body of a request."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--rows", default="data/test.parquet")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    scorer, rows = Scorer.load(options.artifacts, num_threads=1), pq.read_table(options.rows)
    scorer.warm_up(*SIZES)
    result: dict[str, Any] = {"machine": describe(), "milliseconds": latencies(scorer, rows), "service": {}}
    with service(options.artifacts) as address:
        for size in (1, 32, 512):
            content = arrow(rows.slice(0, size))
            result["service"][str(size)] = [
                asyncio.run(load(address, content, clients=clients, seconds=options.seconds)) for clients in (1, 8)
            ]
        flood = arrow(rows.slice(0, 512))
        result["flood"] = asyncio.run(load(address, flood, clients=100, seconds=options.seconds))
        result["alive_after_flood"] = httpx.get(f"{address}/health").status_code == 200
    report(result, options.out)


if __name__ == "__main__":
    main()
