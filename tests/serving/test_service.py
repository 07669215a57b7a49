"""The service against the scorer: answers, refusals, reloads and floods, in this process and in one of its own."""

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin.runtime.files import read_exact_json, write_exact_json
from qin.serving.batching import BusyError, MicroBatcher
from qin.serving.scorer import Scorer
from qin.serving.service import ARROW, Limits, Service, create_app


@pytest.fixture(scope="module")
def service(rich: Path) -> Service:
    made = Service(rich / "artifacts", limits=Limits(request_rows=300, request_bytes=1 << 20), num_threads=1)
    made.load()
    return made


@pytest.fixture(scope="module")
def rows(rich: Path) -> pa.Table:
    return pq.read_table(rich / "data/test.parquet").slice(0, 40)


def plain(rows: pa.Table) -> list[dict[str, Any]]:
    """As JSON has them."""
    kept = (int, float, list, type(None))
    return [{k: v if isinstance(v, kept) else str(v) for k, v in row.items()} for row in rows.to_pylist()]


def client_of(service: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://test")


def call(service: Service, method: str, path: str, **arguments: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with client_of(service) as client:
            return await client.request(method, path, **arguments)

    return asyncio.run(run())


def fresh(service: Service) -> Service:
    """The same model in a service of its own: a batcher lives in one event loop."""
    made = Service(service.folder, limits=service.limits, num_threads=1)
    made.scorer = service.scorer
    return made


def test_answers_are_the_scorer_s(service: Service, rows: pa.Table) -> None:
    assert service.scorer is not None
    expected = service.scorer.score(rows).tolist()
    answer = call(fresh(service), "POST", "/score", json={"rows": plain(rows)})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"model": service.scorer.version, "probabilities": expected}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    answer = call(
        fresh(service),
        "POST",
        "/score",
        params={"prior": "balanced"},
        content=sink.getvalue().to_pybytes(),
        headers={"content-type": ARROW},
    )
    assert answer.json()["probabilities"] == service.scorer.score(rows, prior="balanced").tolist()


def test_candidates_are_ranked(service: Service, rows: pa.Table) -> None:
    assert service.scorer is not None
    of_item = ["item", "shop", "price"]
    user, items = plain(rows.drop_columns([*of_item, "ID"]).slice(0, 1))[0], plain(rows.select(of_item))
    answer = call(fresh(service), "POST", "/candidates", json={"user": user, "items": items})
    assert answer.json()["probabilities"] == service.scorer.score_candidates(user, items).tolist()


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({"rows": [{"item": 1}]}, 422, "rows: column shop: missing"),
        ({"rows": "x"}, 422, "rows: Input should be a valid array"),
        ({"rows": [{"item": 1}], "prior": 1.0}, 422, "prior: Value error, prior must be natural, balanced or a number"),
        ({"rows": [], "prio": 1}, 422, "prio: Extra inputs are not permitted"),
        ({"rows": [{}] * 301}, 413, "301 rows; a request may have 300"),
        ({"rows": [{"a": "x" * (1 << 20)}]}, 413, "a body may have 1048576 bytes"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_its_reason(
    service: Service, body: Any, status: int, problem: str
) -> None:
    answer = call(fresh(service), "POST", "/score", json=body)
    assert answer.status_code == status
    assert answer.json()["problems"][0].startswith(problem)


def test_a_bad_value_or_prior_is_its_request_s_alone(service: Service, rows: pa.Table) -> None:
    """Sent at once with good requests, which are answered."""
    assert service.scorer is not None
    bad = plain(rows.slice(0, 2))
    bad[1]["place"] = "far"
    bodies = [{"rows": bad}, {"rows": plain(rows.slice(0, 2)), "prior": 2}, {"rows": plain(rows.slice(0, 2))}]

    async def run() -> list[httpx.Response]:
        async with client_of(fresh(service)) as client:
            return await asyncio.gather(*(client.post("/score", json=body) for body in bodies * 5))

    answers = asyncio.run(run())
    assert [answer.status_code for answer in answers] == [422, 422, 200] * 5
    [problem] = answers[0].json()["problems"]
    assert problem.startswith("rows: column place, row 1: not a number: 'far'")
    assert answers[1].json()["problems"][0].startswith("prior: Value error, prior must be natural")
    assert answers[2].json()["probabilities"] == service.scorer.score(rows.slice(0, 2)).tolist()


def test_requests_that_come_at_once_are_scored_together_and_alike(service: Service, rows: pa.Table) -> None:
    assert service.scorer is not None
    made, sizes = fresh(service), []
    score = made._batcher._score

    def counted(jobs: Any) -> Any:
        sizes.append(len(jobs))
        return score(jobs)

    made._batcher._score = counted
    parts = [rows.slice(start, 3) for start in range(30)]

    async def run() -> list[httpx.Response]:
        async with client_of(made) as client:
            return await asyncio.gather(*(client.post("/score", json={"rows": plain(part)}) for part in parts))

    for answer, part in zip(asyncio.run(run()), parts, strict=True):
        assert answer.json()["probabilities"] == service.scorer.score(part).tolist()
    assert sum(sizes) == 30
    assert max(sizes) > 1


def test_health_readiness_and_metrics(rich: Path, service: Service, rows: pa.Table) -> None:
    empty = Service(rich / "artifacts", limits=Limits(), num_threads=1)
    assert call(empty, "GET", "/health").status_code == 200
    assert call(empty, "GET", "/ready").status_code == 503
    assert call(empty, "POST", "/score", json={"rows": []}).status_code == 503
    made = fresh(service)
    call(made, "POST", "/score", json={"rows": plain(rows)})
    call(made, "GET", "/nowhere")
    text = call(made, "GET", "/metrics").text
    assert 'qin_requests_total{path="/score",status="200"} 1.0' in text
    assert 'qin_requests_total{path="other",status="404"} 1.0' in text
    assert "qin_rows_total 40.0" in text


def test_a_flood_is_turned_away_and_what_waits_is_answered() -> None:
    """While a thread is busy, as many rows wait as may; the others hear so at once."""

    async def run() -> list[Any]:
        def slow(works: Any) -> list[int]:
            time.sleep(0.05)
            return list(works)

        batcher = MicroBatcher[int, int](slow, most_rows=10, most_waiting=20)
        found = await asyncio.gather(*(batcher(n, num_rows=5) for n in range(50)), return_exceptions=True)
        assert batcher.rows_waiting == 0
        await batcher.close()
        return found

    found = asyncio.run(run())
    answered = [n for n in found if isinstance(n, int)]
    assert answered == list(range(len(answered)))
    assert 4 <= len(answered) < 50
    assert all(isinstance(error, BusyError) for error in found[len(answered) :])


def test_a_fault_in_scoring_is_told_to_all_who_wait() -> None:
    async def run() -> list[Any]:
        def broken(_: Any) -> list[int]:
            raise RuntimeError("broken")

        batcher = MicroBatcher[int, int](broken, most_rows=10, most_waiting=20)
        found = await asyncio.gather(batcher(1, num_rows=1), batcher(2, num_rows=1), return_exceptions=True)
        await batcher.close()
        return list(found)

    assert [str(error) for error in asyncio.run(run())] == ["broken", "broken"]


def test_a_process_reloads_without_losing_a_request(rich: Path, rows: pa.Table, tmp_path: Path) -> None:
    """A new calibration takes the place of the old one while requests come; a damaged one does not."""
    artifacts = shutil.copytree(rich / "artifacts", tmp_path / "artifacts")
    program = "import sys; from qin.cli import app; app(sys.argv[1:])"
    command = [sys.executable, "-c", program, "serve", "--artifacts", str(artifacts), "--port", "0", "--threads", "1"]
    port = _free_port()
    command[command.index("--port") + 1] = str(port)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        first = _ready(client, process)
        body = {"rows": plain(rows.slice(0, 4))}
        before = client.post("/score", json=body).json()
        report = read_exact_json(artifacts / "temperature.json")
        report["offset"] += 0.25
        write_exact_json(artifacts / "temperature.json", report)
        process.send_signal(signal.SIGHUP)
        answers: list[dict[str, Any]] = []
        while not answers or (answers[-1]["model"] == first and len(answers) < 20_000):
            answer = client.post("/score", json=body)
            assert answer.status_code == 200
            answers.append(answer.json())
        after = answers[-1]
        assert after["model"] != first
        assert after["probabilities"] == Scorer.load(artifacts).score(rows.slice(0, 4)).tolist()
        assert all(answer in (before, after) for answer in answers)
        (artifacts / "blend.json").write_text("{}")
        refused = client.post("/reload")
        assert (refused.status_code, "blend.json" in refused.json()["problems"][0]) == (409, True)
        assert client.post("/score", json=body).json() == after
    finally:
        client.close()
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM), stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ready(client: httpx.Client, process: subprocess.Popen[str]) -> str:
    while process.poll() is None:
        try:
            return str(client.get("/ready").json()["model"])
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(process.stderr.read() if process.stderr else "")
