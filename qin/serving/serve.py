"""The server's process: the model is read before it listens, SIGHUP reads it again, SIGTERM answers what waits."""

import asyncio
import logging
import signal
from pathlib import Path

import torch
import uvicorn

from qin.runtime.errors import QinError
from qin.serving.service import Limits, Service, create_app

_SECONDS_TO_END = 30  # for answers that are under way

log = logging.getLogger("qin")


def run(folder: Path, *, host: str, port: int, limits: Limits, num_threads: int, label: str | None = None) -> None:
    """Serve until a signal ends it.

    Raises:
        ArtifactError: If there is no model to begin with.
    """
    torch.set_num_threads(1)  # of each product; tiles of rows run side by side
    service = Service(folder, limits=limits, num_threads=num_threads, label=label)
    log.info("model %s of %s", service.load(), folder)
    config = uvicorn.Config(
        create_app(service), host=host, port=port, log_level="warning", timeout_graceful_shutdown=_SECONDS_TO_END
    )
    asyncio.run(_serve(uvicorn.Server(config), service))


async def _serve(server: uvicorn.Server, service: Service) -> None:
    loop = asyncio.get_running_loop()
    # In a thread, as reading takes seconds, in which the old model goes on answering.
    loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(None, _reload, service))
    await server.serve()


def _reload(service: Service) -> None:
    try:
        log.info("model %s of %s", service.load(), service.folder)
    except QinError as error:  # the old one goes on
        for line in error.lines:
            log.error("error: not reloaded: %s", line)
