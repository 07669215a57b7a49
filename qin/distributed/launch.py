"""Start one command as several processes of this machine, and start them again when one of them was killed.

PyTorch's own elastic agent runs in this process, watches over them and lets them meet; on several machines the same
agent does so as `torchrun`.
"""

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from qin.runtime.errors import PeerEndedError
from qin.runtime.host import LOOPBACK
from qin.runtime.progress import log
from qin.runtime.stage import end_in_order

# How soon an end is noticed, which a short training would otherwise wait for.
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Ended:
    """How a group of processes ended before its work was done.

    Attributes:
        rank: The process that explains it.
        status: Its exit status, or the negative number of the signal that ended it.
    """

    rank: int
    status: int

    @property
    def was_killed(self) -> bool:
        """Whether that says nothing about the work, which may so be tried again."""
        return self.status < 0 or self.status in (PeerEndedError.exit_status, 128 + signal.SIGTERM)

    @property
    def exit_status(self) -> int:
        """As a shell has it."""
        return 128 - self.status if self.status < 0 else self.status

    def __str__(self) -> str:
        return signal.Signals(-self.status).name if self.status < 0 else f"exit status {self.status}"


def launch(words: Sequence[str], *, num_processes: int, max_restarts: int) -> None:
    """Run `python <words>` as several processes, to the end.

    What a process reports it reports itself. When one was killed, all are started again, as long as that is allowed;
    whatever state there is to go on from is theirs to find.

    Args:
        words: Arguments of this Python.
        num_processes: How many.
        max_restarts: How often to start them again.

    Raises:
        SystemExit: If they did not end well, with their status, or when this process is told to end.
    """
    restarted(lambda: _run(words, num_processes), num_processes=num_processes, max_restarts=max_restarts)


def restarted(run: Callable[[], Ended | None], *, num_processes: int, max_restarts: int) -> None:
    """Run processes to the end, again after one of them was killed.

    Args:
        run: Runs them once; None if all ended well.
        num_processes: How many they are.
        max_restarts: How often to start them again.

    Raises:
        SystemExit: See `launch`.
    """
    # As exceptions, on whose way out what was started is ended.
    end_in_order()
    for restart in range(max_restarts + 1):
        ended = run()
        if ended is None:
            return
        if not ended.was_killed:
            raise SystemExit(ended.exit_status)
        found = f"process {ended.rank} of {num_processes} was ended by {ended}"
        if restart == max_restarts:
            log.error("error: %s, after %d restarts (train.max_restarts)", found, max_restarts)
            raise SystemExit(ended.exit_status)
        log.warning("%s; all start again from the newest checkpoint (%d of %d)", found, restart + 1, max_restarts)


def _run(words: Sequence[str], num_processes: int) -> Ended | None:
    """Run the processes once; None if all ended well."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say it in one line
    with tempfile.TemporaryDirectory() as logs, _environment({"GLOO_SOCKET_IFNAME": loopback_interface()}):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_processes,
            # Other trainings on this machine must not be met.
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{LOOPBACK}:0",
            local_addr=LOOPBACK,
            max_restarts=0,  # the agent's own would also try again what cannot succeed, such as a bad input
            monitor_interval=_LOOK_SECONDS,
            # A folder that is thrown away: what processes say goes to the terminal.
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)(*words)
        except ChildFailedError as error:
            return explained({rank: failure.exitcode for rank, failure in error.failures.items()})
        except SignalException as error:
            raise SystemExit(128 + int(error.sigval)) from error
    return None


def explained(statuses: Mapping[int, int]) -> Ended:
    """The process whose end explains that of the others: one that gave up, else one that was killed.

    The agent tells those that are left to end, and others notice that a peer is gone.
    """
    # What a process ends with because another one did.
    consequences = (-signal.SIGTERM, 128 + signal.SIGTERM, PeerEndedError.exit_status)

    def weight(rank: int) -> tuple[bool, bool, int]:
        ended = Ended(rank, statuses[rank])
        return not ended.was_killed, ended.status not in consequences, -rank

    rank = max(statuses, key=weight)
    return Ended(rank, statuses[rank])


def loopback_interface() -> str:
    """The network interface that no other machine sees, whatever this machine's name resolves to."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == LOOPBACK for address in addresses):
            return str(name)
    return ""


@contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Variables for processes that are started in the block, where they are not set."""
    added = {name: value for name, value in defaults.items() if value and name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
