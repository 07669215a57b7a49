"""A stage ends when the `dvc` that started it does, or the launcher that started it as one of several processes."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import PurePath

import psutil

from qin.runtime.host import ancestors, command_line, is_alive

# In the environment of a stage that a trial runs: no dvc is above it, so that it ends with who started it.
ENDS_WITH_PARENT = "QIN_ENDS_WITH_PARENT"

_PR_SET_PDEATHSIG = 1
_WATCH_SECONDS = 0.5


def end_with_dvc() -> None:
    """End this process by SIGTERM when the nearest `dvc` above it is gone; without one, nothing is bound.

    A shell may stand between the two, and may live on when `dvc` is killed. Where `dvc` is the parent itself and the
    system can send a signal at its death, that is asked for; otherwise a thread looks for it.
    """
    dvc = next((process for process in ancestors() if is_dvc(command_line(process))), None)
    if dvc is not None:
        _end_with(dvc)


def end_with_launcher() -> None:
    """End this process by SIGTERM when its parent is gone, if that has started it as one of several, or for a trial."""
    if "RANK" in os.environ or ENDS_WITH_PARENT in os.environ:
        _end_with(ancestors()[0])


def _end_with(process: psutil.Process) -> None:
    parent = os.getppid()
    if process.pid == parent and _signal_at_parents_death():
        if os.getppid() != parent:  # it died before the request
            raise SystemExit(1)
        return
    threading.Thread(target=_watch, args=(process,), daemon=True, name=f"watch {process.pid}").start()


def end_with_parent() -> None:
    """End this process by SIGTERM when the one that started it is gone: for the workers of a stage."""
    _end_with(psutil.Process(os.getppid()))


def is_dvc(command: list[str]) -> bool:
    """Whether a command line is that of `dvc`: the program, a script of that name under Python, or `-m dvc`."""
    words = [word for word in command if word == "-m" or not word.startswith("-")]  # without an interpreter's options
    names = [PurePath(word).stem for word in words[:2]]
    return "dvc" in names or words[1:3] == ["-m", "dvc"]


def _signal_at_parents_death() -> bool:
    """Ask for SIGTERM when the parent dies; False where the system has no such signal."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) == 0)


def _watch(process: psutil.Process) -> None:
    while is_alive(process):
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
