"""What the operating system says of this machine and of processes: every question in one place, for any system."""

import os
import resource
import sys
import threading

import psutil

LOOPBACK = "127.0.0.1"  # the address that no other machine sees

_SAMPLE_SECONDS = 1.0
_RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of `ru_maxrss`; kilobytes on all others


def num_cores() -> int:
    """Cores that this process may use; all of them where the system does not restrict processes."""
    if hasattr(psutil.Process, "cpu_affinity"):
        return len(psutil.Process().cpu_affinity())
    return psutil.cpu_count() or 1


def total_memory_bytes() -> int:
    """Memory of the machine."""
    return int(psutil.virtual_memory().total)


def process_tree(root: int) -> list[psutil.Process]:
    """A process and all that descend from it; empty if it has ended."""
    try:
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def ancestors() -> list[psutil.Process]:
    """The processes above this one, nearest first."""
    return list(psutil.Process().parents())


def command_line(process: psutil.Process) -> list[str]:
    """The words that a process was started with; none if it has ended or may not be read."""
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended and waits to be noticed by its parent does not."""
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def resident_bytes(process: psutil.Process) -> int:
    """Resident memory of a process; 0 if it has ended or may not be read."""
    try:
        return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


class TreeMemory(threading.Thread):
    """Samples the resident memory of a process and of all that descend from it; a context manager.

    Args:
        root: The process.
        interval_seconds: Between two samples.
    """

    def __init__(self, root: int, *, interval_seconds: float = _SAMPLE_SECONDS) -> None:
        super().__init__(daemon=True, name="tree memory")
        self.peak_bytes = 0
        self._root, self._interval = root, interval_seconds
        self._ended = threading.Event()

    def sample(self) -> None:
        """Look once more."""
        self.peak_bytes = max(self.peak_bytes, sum(map(resident_bytes, process_tree(self._root))))

    def run(self) -> None:
        """Sample until the end."""
        while not self._ended.wait(self._interval):
            self.sample()

    def __enter__(self) -> "TreeMemory":
        self.sample()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def largest_resident_bytes() -> int:
    """Resident memory that this process had at most, or what its parent held when it started it, if that is more."""
    return maxrss_bytes(resource.getrusage(resource.RUSAGE_SELF))


def maxrss_bytes(usage: resource.struct_rusage) -> int:
    """`ru_maxrss`, whose unit is the system's, in bytes."""
    return usage.ru_maxrss * _RUSAGE_UNIT


def set_waiting_of_threads() -> None:
    """Let PyTorch's OpenMP threads wait for work without spinning for long, unless the user has set how.

    They spin for milliseconds after each operation, on cores that the threads of `qin.network.threads` wait for
    (scoring took 1.2 times as long), and other processes too. OpenMP reads this when PyTorch is imported.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def peak_gpu_bytes() -> int:
    """Most memory that this process's tensors have held on its GPU; 0 where it has used none.

    A process that has not imported PyTorch, or has not touched a GPU, is not made to.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return int(cuda.max_memory_allocated()) if cuda is not None and cuda.is_initialized() else 0
