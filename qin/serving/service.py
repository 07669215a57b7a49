"""The deployed model over HTTP: scores of rows and of candidates, health, metrics; a new artifact without a pause.

| path | what it does |
|---|---|
| POST /score | `{"rows": [{column: value}], "prior": ..., "on_missing": ...}`, or an Arrow stream -> probabilities |
| POST /candidates | `{"user": {column: value}, "items": [{column: value}], ...}` -> probabilities |
| POST /reload | read the artifacts again; requests go on with the old model until the new one is ready |
| GET /health | whether the process answers |
| GET /ready | whether a model is loaded, and which |
| GET /metrics | Prometheus: requests by path and status, their seconds, rows scored and waiting, the model's version |

Requests are read and encoded each by itself, so that a bad row is its sender's matter alone; what waits is scored
together. More rows, bytes or waiting rows than the limits allow are refused at once: 413, 503. Artifacts are JSON,
safetensors, NumPy arrays without objects and LightGBM's text: reading them runs no code.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from qin.runtime.errors import QinError
from qin.scored.prior import OutputPrior, check_prior
from qin.serving.batching import BusyError, MicroBatcher
from qin.serving.scorer import PreparedRows, Scorer

ARROW = "application/vnd.apache.arrow.stream"
_PATHS = {"/score", "/candidates", "/reload", "/health", "/ready", "/metrics"}
_SHOWN_PROBLEMS = 100

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """What one request, and all that wait, may take.

    Attributes:
        request_rows: Rows of a request.
        request_bytes: Of its body.
        batch_rows: Rows scored together, beyond which requests wait for the next batch.
        waiting_rows: Rows that may wait.
    """

    request_rows: int = 4096
    request_bytes: int = 32 << 20
    batch_rows: int = 512
    waiting_rows: int = 16384


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prior: Literal["natural", "balanced"] | float = "natural"
    on_missing: Literal["error", "null"] = "error"

    @field_validator("prior")
    @classmethod
    def _is_a_prior(cls, prior: OutputPrior) -> OutputPrior:
        """Refused here, a request costs neither encoding nor scoring."""
        check_prior(prior)
        return prior


class ScoreBody(_Body):
    """Rows to score."""

    rows: list[dict[str, Any]]


class CandidatesBody(_Body):
    """One user and the items to rank."""

    user: dict[str, Any]
    items: list[dict[str, Any]]


class RefusedError(Exception):
    """A request that is not answered: HTTP status, and lines that say why."""

    def __init__(self, status: int, *problems: str) -> None:
        super().__init__(*problems)
        self.status, self.problems = status, list(problems)


@dataclass(frozen=True)
class _Job:
    """An encoded request: what scores it."""

    scorer: Scorer
    prepared: PreparedRows
    prior: OutputPrior


class Service:
    """The model that answers now, and how to change it.

    Args:
        folder: Of artifacts.
        limits: Of requests.
        num_threads: To score with.
        label: Which label's model, where there are several; None for the first.
    """

    def __init__(self, folder: Path, *, limits: Limits, num_threads: int, label: str | None = None) -> None:
        self.folder, self.limits, self._num_threads, self._label = folder, limits, num_threads, label
        self.scorer: Scorer | None = None
        self.metrics = CollectorRegistry()
        self.requests = Counter("qin_requests", "Requests", ["path", "status"], registry=self.metrics)
        self.seconds = Histogram("qin_request_seconds", "Time of a request", ["path"], registry=self.metrics)
        self.rows = Counter("qin_rows", "Rows scored", registry=self.metrics)
        self.waiting = Gauge("qin_waiting_rows", "Rows that wait to be scored", registry=self.metrics)
        self.model = Info("qin_model", "The model that answers", registry=self.metrics)
        self._batcher = MicroBatcher[_Job, Probabilities](
            _score_together, most_rows=limits.batch_rows, most_waiting=limits.waiting_rows
        )
        self.waiting.set_function(lambda: self._batcher.rows_waiting)

    def load(self) -> str:
        """Read the artifacts and answer with them from now on; returns the model's version.

        Raises:
            ArtifactError: If they cannot be used; the model that was there stays.
        """
        scorer = Scorer.load(self.folder, num_threads=self._num_threads, label=self._label)
        scorer.warm_up()
        # Only when it is warm: the first request to it waits for nothing.
        self.scorer = scorer
        self.model.info({"version": scorer.version})
        return scorer.version

    async def answer(
        self, prepare: Callable[[Scorer], PreparedRows], *, num_rows: int, prior: OutputPrior
    ) -> dict[str, Any]:
        """Score a request of so many rows, which `prepare` encodes.

        Raises:
            RefusedError: If it cannot be answered.
        """
        if self.scorer is None:
            raise RefusedError(503, "no model is loaded yet")
        # Before anything is encoded: a request that is too large costs nothing but its reading.
        if num_rows > self.limits.request_rows:
            raise RefusedError(413, f"{num_rows} rows; a request may have {self.limits.request_rows}")
        scorer = self.scorer  # this request's, whatever is loaded meanwhile
        try:
            # In the pool's threads, several requests at a time: compiled code lets go of Python's lock.
            prepared = await asyncio.get_running_loop().run_in_executor(None, prepare, scorer)
            probability = await self._batcher(_Job(scorer, prepared, prior), num_rows=num_rows)
        except QinError as error:
            raise RefusedError(422, *error.lines) from error
        except (TypeError, ValueError) as error:
            raise RefusedError(422, str(error)) from error
        except BusyError as error:
            raise RefusedError(503, f"too many requests: {error}") from error
        self.rows.inc(num_rows)
        return {"model": scorer.version, "probabilities": probability.tolist()}

    async def close(self) -> None:
        """Answer what waits."""
        await self._batcher.close()


def _score_together(jobs: Sequence[_Job]) -> list[Probabilities]:
    """Score jobs of one model together; those of another one, which was loaded meanwhile, by themselves."""
    out: dict[int, Probabilities] = {}
    for scorer in dict.fromkeys(job.scorer for job in jobs):
        numbers = [number for number, job in enumerate(jobs) if job.scorer is scorer]
        logits = scorer.logits_of([jobs[number].prepared for number in numbers])
        for number, logit in zip(numbers, logits, strict=True):
            out[number] = scorer.probabilities_of(jobs[number].prepared, logit, jobs[number].prior)
    return [out[number] for number in range(len(jobs))]


def create_app(service: Service) -> FastAPI:
    """The application; the service's model may be loaded before or after."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(title="qin", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    _add_answers(app, service)
    _add_scoring(app, service)
    _add_state(app, service)
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    """What every request gets: it is counted and timed, and a refusal says why."""

    @app.middleware("http")
    async def measured(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.perf_counter()
        # Anybody may ask for any path, and each name would be a counter that is kept for ever.
        path = request.url.path if request.url.path in _PATHS else "other"
        response = await call_next(request)
        service.requests.labels(path, str(response.status_code)).inc()
        service.seconds.labels(path).observe(time.perf_counter() - started)
        return response

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status == 503 else {}
        return JSONResponse({"problems": error.problems}, status_code=error.status, headers=headers)


def _add_scoring(app: FastAPI, service: Service) -> None:
    @app.post("/score")
    async def score(request: Request) -> JSONResponse:
        content = await _read(request, service.limits.request_bytes)
        if request.headers.get("content-type", "").startswith(ARROW):
            body = _validated(_Body.model_validate, dict(request.query_params))
            rows: Any = _table(content)
        else:
            body = _validated(ScoreBody.model_validate_json, content)
            rows = body.rows

        def prepared(scorer: Scorer) -> PreparedRows:
            return scorer.prepare(rows, on_missing=body.on_missing)

        return JSONResponse(await service.answer(prepared, num_rows=len(rows), prior=body.prior))

    @app.post("/candidates")
    async def candidates(request: Request) -> JSONResponse:
        content = await _read(request, service.limits.request_bytes)
        body = _validated(CandidatesBody.model_validate_json, content)

        def prepared(scorer: Scorer) -> PreparedRows:
            return scorer.prepare_candidates(body.user, body.items, on_missing=body.on_missing)

        return JSONResponse(await service.answer(prepared, num_rows=len(body.items), prior=body.prior))


def _add_state(app: FastAPI, service: Service) -> None:
    @app.post("/reload")
    async def reload() -> dict[str, str]:
        try:
            return {"model": await asyncio.get_running_loop().run_in_executor(None, service.load)}
        except QinError as error:
            raise RefusedError(409, *error.lines) from error

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        if service.scorer is None:
            raise RefusedError(503, "no model is loaded yet")
        return {"model": service.scorer.version}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics), media_type="text/plain; version=0.0.4")


async def _read(request: Request, most_bytes: int) -> bytes:
    """The body; one that is too long is not read to its end."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most_bytes:
            raise RefusedError(413, f"a body may have {most_bytes} bytes")
        parts.append(part)
    return b"".join(parts)


def _validated(validate: Callable[[Any], Any], content: Any) -> Any:
    try:
        return validate(content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, found['loc'])) or 'body'}: {found['msg']}" for found in error.errors()]
        raise RefusedError(422, *problems[:_SHOWN_PROBLEMS]) from error


def _table(content: bytes) -> pa.Table:
    try:
        with pa.ipc.open_stream(content) as stream:
            table = stream.read_all()
            table.validate(full=True)  # offsets of a stranger's arrays may point anywhere
            return table
    except (pa.ArrowException, OSError) as error:
        raise RefusedError(422, f"body: no Arrow stream: {str(error).splitlines()[0]}") from error
