"""Start one command as several processes of a Ray cluster, and start them again when one of them was killed.

An actor on some machine of the cluster starts each process, of which it is the parent: who loses the actor, or is told
to end by it, ends. What the processes tell each other they tell as everywhere, by torch.distributed.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from qin.distributed.launch import Ended, explained, loopback_interface, restarted
from qin.runtime.on_ray import connected

_LOST = -int(signal.SIGKILL)  # an actor or its machine is gone, whatever became of the process


def launch_on_ray(words: Sequence[str], *, num_processes: int, max_restarts: int, cpus: int, gpus: int) -> None:
    """Run `python <words>` as several processes of the cluster that RAY_ADDRESS names, or of this machine without one.

    All machines need this folder under the same path, on a shared disk.

    Args:
        words: Arguments of Python.
        num_processes: How many.
        max_restarts: How often to start them again after one was killed.
        cpus: Cores that each process takes.
        gpus: GPUs that each process takes.

    Raises:
        ConfigError: If Ray is not installed, or its cluster cannot be reached.
        SystemExit: If they did not end well, with their status.
    """
    with connected(setting="train.launcher", num_cpus=num_processes * cpus) as is_cluster:
        restarted(
            lambda: _run(words, num_processes, resources={"num_cpus": cpus, "num_gpus": gpus}, alone=not is_cluster),
            num_processes=num_processes,
            max_restarts=max_restarts,
        )


class _Starter:
    """Starts a process where Ray has placed this actor."""

    def address(self) -> tuple[str, int]:
        """This machine and a port that is free on it."""
        import ray  # noqa: PLC0415 -- an extra

        with socket.socket() as free:
            # Given back before the process takes it: a program that takes it between the two ends the start, not a run.
            free.bind(("", 0))
            port: int = free.getsockname()[1]
        return ray.util.get_node_ip_address(), port

    def run(self, words: Sequence[str], folder: str, environment: Mapping[str, str]) -> int:
        """Run a process to its end; returns its status as `subprocess` has it."""
        return subprocess.run(  # noqa: S603 -- the stage's own words
            [sys.executable, *words], cwd=folder, env={**os.environ, **environment}, check=False
        ).returncode


def _run(words: Sequence[str], num_processes: int, *, resources: Mapping[str, float], alone: bool) -> Ended | None:
    """Run the processes once; None if all ended well."""
    import ray  # noqa: PLC0415 -- an extra

    # Ray's own restarts are off: one process alone cannot rejoin the others, so all start again or none.
    starter = ray.remote(max_restarts=0, **resources)(_Starter)
    actors = [starter.remote() for _ in range(num_processes)]
    try:
        host, port = ray.get(actors[0].address.remote())
        shared = {"WORLD_SIZE": str(num_processes), "MASTER_ADDR": host, "MASTER_PORT": str(port)}
        if alone:
            # Without other machines, the name of this one may resolve to an address that nothing listens at.
            shared["GLOO_SOCKET_IFNAME"] = loopback_interface()
        path = os.environ.get("PYTHONPATH")
        shared |= {} if path is None else {"PYTHONPATH": path}
        running = {
            # LOCAL_RANK is 0, because Ray shows each process its own GPU alone.
            actor.run.remote(list(words), os.getcwd(), {**shared, "RANK": str(rank), "LOCAL_RANK": "0"}): rank
            for rank, actor in enumerate(actors)
        }
        return _first_failure(running)
    finally:
        # Also those whose processes wait for one that is gone.
        for actor in actors:
            ray.kill(actor)


def _first_failure(running: dict[Any, int]) -> Ended | None:
    """Wait for all to end, or for the first that does not end well and those that end with it at once."""
    import ray  # noqa: PLC0415 -- an extra

    statuses = dict[int, int]()
    while running:
        # After a failure others follow within moments, and theirs may be the one that explains it.
        ended, _ = ray.wait(list(running), timeout=None if not any(statuses.values()) else 2.0)
        for reference in ended:
            rank = running.pop(reference)
            try:
                statuses[rank] = ray.get(reference)
            except ray.exceptions.RayError:
                statuses[rank] = _LOST
        if not ended:
            break
    failed = {rank: status for rank, status in statuses.items() if status}
    return explained(failed) if failed else None
