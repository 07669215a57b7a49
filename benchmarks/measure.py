"""Seconds, CPU seconds and peak memory of a command, counted over its whole process tree."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.profile import ROOT
from qin.runtime.host import TreeMemory, largest_resident_bytes, maxrss_bytes

_INTERVAL_SECONDS = 0.1


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

    Resident memory is sampled for the tree. The system knows the largest peak of a single process, so that a short one
    is not missed, but counts what this process held when it started the command: it says something where it is more.

    Raises:
        CalledProcessError: If it fails.
    """
    started, at_start = time.monotonic(), largest_resident_bytes()
    process = subprocess.Popen(command, cwd=cwd, env=dict(env), stdout=sys.stderr)
    with TreeMemory(process.pid, interval_seconds=_INTERVAL_SECONDS) as memory:
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    largest = maxrss_bytes(usage)
    peak = max(memory.peak_bytes, largest if largest > at_start else 0)
    return Cost(seconds, usage.ru_utime + usage.ru_stime, peak)


def measure_module(module: str, *arguments: str, cwd: Path) -> Cost:
    """Run `python -m module` with this checkout's code in a folder; see `measure`."""
    return measure([sys.executable, "-m", module, *arguments], cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)})


def measure_sample(folder: Path, *, rows: int, row_group_rows: int) -> Cost:
    """Generate a sample log into a new folder; see `measure`."""
    options = {"rows": rows, "row-group-rows": row_group_rows, "out": folder}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return measure_module("qin.sample", *words, cwd=folder.parent)
