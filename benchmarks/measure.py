"""Seconds, CPU seconds and peak memory of a command, counted over its whole process tree."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_INTERVAL_SECONDS = 0.02


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
        seconds: Wall-clock time.
        cpu_seconds: User and system time of the command and of all that it waited for.
        peak_memory_bytes: Largest sum of the resident memory of its processes, or the largest of any one process.
    """

    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int


def measure(command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> Cost:
    """Run a command to its end; what it prints goes to standard error.

    Resident memory is sampled for the tree; the exact peak of each process is read as well, so that a short peak of
    a command with a single process is not missed.

    Raises:
        CalledProcessError: If it fails.
    """
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=cwd, env=dict(env), stdout=sys.stderr)
    sampler = _Sampler(process.pid)
    sampler.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    sampler.stop()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(seconds, usage.ru_utime + usage.ru_stime, sampler.peak_bytes)


def measure_module(module: str, *arguments: str, cwd: Path) -> Cost:
    """Run `python -m module` with this checkout's code in a folder; see `measure`."""
    return measure([sys.executable, "-m", module, *arguments], cwd=cwd, env={**os.environ, "PYTHONPATH": str(_ROOT)})


def measure_sample(folder: Path, *, rows: int, row_group_rows: int) -> Cost:
    """Generate a sample log into a new folder; see `measure`."""
    options = {"rows": rows, "row-group-rows": row_group_rows, "out": folder}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return measure_module("qin.sample", *words, cwd=folder.parent)


class _Sampler(threading.Thread):
    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._root = root
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(_INTERVAL_SECONDS):
            status = [_memory(process) for process in process_tree(self._root)]
            now, peak = sum(now for now, _ in status), max((peak for _, peak in status), default=0)
            self.peak_bytes = max(self.peak_bytes, now, peak)

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def process_tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    found, queue = [], [root]
    while queue:
        process = queue.pop()
        found.append(process)
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                queue += map(int, children.read_text().split())
            except OSError:  # it ended meanwhile
                continue
    return found


def _memory(process: int) -> tuple[int, int]:
    """Resident bytes now and at most; zeros for a process that has ended."""
    values = {"VmRSS": 0, "VmHWM": 0}
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    for line in lines:
        name, _, rest = line.partition(":")
        if name in values:
            values[name] = int(rest.split()[0]) * 1024
    return values["VmRSS"], values["VmHWM"]
