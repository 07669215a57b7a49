"""What every stage does around its work: log lines, one-line errors, an end in order, peak memory."""

import errno
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from qin.errors import QinError
from qin.paths import SCRATCH
from qin.runtime.files import write_json
from qin.runtime.host import TreeMemory, largest_resident_bytes

STAGES = ("prepare", "split", "train", "calibrate", "evaluate", "predict")

_ENDING = (signal.SIGTERM, signal.SIGINT)

# A disk that is full, cannot be read or written, or holds a file where a folder must be, or none where one must be.
_DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EBUSY, errno.EXDEV, errno.ENOTEMPTY, errno.ESTALE, errno.EMFILE, errno.ENFILE),
}

log = logging.getLogger("qin")


@dataclass
class StageReport:
    """Filled by a stage for its closing line."""

    num_rows: int = 0


@contextmanager
def run_stage(name: str) -> Iterator[StageReport]:
    """Wrap a stage's work.

    Prints `STAGE <name> [i/6]` and a closing line with rows, seconds, rows/s and peak memory of the process tree, which
    are also written to `.qin/stages/<name>.json` for benchmarks. A QinError, or a disk that cannot be read or written,
    becomes one line per problem on standard error and exit status 1. SIGTERM and Ctrl-C end the process in order.

    Args:
        name: One of STAGES.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for number in _ENDING:
        signal.signal(number, _raise_exit)
    log.info("STAGE %s [%d/%d]", name, STAGES.index(name) + 1, len(STAGES))
    started, report, largest = time.monotonic(), StageReport(), largest_resident_bytes()
    try:
        with TreeMemory(os.getpid()) as memory:
            yield report
        _close(name, report, seconds=time.monotonic() - started, peak=_peak_memory_bytes(memory, largest))
    except QinError as error:
        for line in str(error).splitlines():
            log.error("error: %s", line)
        raise SystemExit(1) from error
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        log.error("error: stage %s: %s%s", name, f"{error.filename}: " if error.filename else "", error.strerror)
        raise SystemExit(1) from error


def _close(name: str, report: StageReport, *, seconds: float, peak: int) -> None:
    rate = report.num_rows / max(seconds, 1e-9)
    log.info(
        "STAGE %s done: %d rows, %.1f s, %.0f rows/s, peak memory %.2f GiB",
        name,
        report.num_rows,
        seconds,
        rate,
        peak / 2**30,
    )
    figures = {"num_rows": report.num_rows, "seconds": seconds, "rows_per_second": rate, "peak_memory_bytes": peak}
    write_json(SCRATCH / "stages" / f"{name}.json", figures)


def _peak_memory_bytes(memory: TreeMemory, largest_before: int) -> int:
    """Peak memory of the stage and of the processes that it started.

    What was sampled misses a short peak; of this process alone the system knows the largest, which says nothing where
    it is still what the parent held at the start.
    """
    largest = largest_resident_bytes()
    return max(memory.peak_bytes, largest if largest > largest_before else 0)


def _raise_exit(number: int, _: FrameType | None) -> NoReturn:
    """Turn a signal to end into an exception, so that half-written files are removed; another one ends at once."""
    for again in _ENDING:
        signal.signal(again, signal.SIG_DFL)
    raise SystemExit(128 + number)
