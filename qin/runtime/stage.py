"""What every stage does around its work: log lines, one-line errors, an end in order, peak memory."""

import errno
import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

from threadpoolctl import threadpool_limits

from qin.runtime.chain import Artifact, Settings, check_chain, description_of, read_artifact
from qin.runtime.claim import claimed
from qin.runtime.edits import InputWatch
from qin.runtime.errors import QinError, printable
from qin.runtime.exhausted import exhausted
from qin.runtime.files import write_json
from qin.runtime.host import TreeMemory, largest_resident_bytes, peak_gpu_bytes
from qin.runtime.logs import log, log_to_stderr
from qin.runtime.paths import PARAMS, SCRATCH
from qin.runtime.progress import PASSING
from qin.runtime.replacing import put_back
from qin.runtime.sources import Source

STAGES = ("prepare", "split", "train", "trees", "calibrate", "evaluate", "predict")

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# A disk that is full, cannot be read or written, or holds a file where a folder must be, or none where one must be.
_DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EBUSY, errno.EXDEV, errno.ENOTEMPTY, errno.ESTALE, errno.EMFILE, errno.ENFILE),
}


class Team(Protocol):
    """The processes that work on a stage together, of which this is one; see `qin.distributed.ranks.Ranks`."""

    @property
    def rank(self) -> int:
        """Number of this process; 0 speaks for all."""
        ...

    def is_first_to_report(self) -> bool:
        """Whether no other process has reported what ends them all."""
        ...

    def total(self, number: int) -> int:
        """The sum of a number over all of them."""
        ...


@dataclass
class StageReport:
    """What a stage tells about itself: rows for its closing line, and what it reads.

    Attributes:
        name: One of STAGES.
        num_rows: Rows that it worked on.
        warnings: What it has warned of so far, for its file in `metrics/`; not what is of this machine or moment alone.
        inputs: What is watched for edits while it runs.
    """

    name: str
    num_rows: int = 0
    warnings: list[str] = field(default_factory=list)
    inputs: InputWatch = field(default_factory=InputWatch)

    def reads(
        self, *places: Path, settings: Settings, files: Mapping[str, Source | None] | None = None
    ) -> list[Artifact]:
        """Watch all that the stage reads for edits, and check that it belongs together.

        Args:
            places: Artifacts, in the pipeline's order.
            settings: All of params.yaml, as plain values.
            files: Raw files, by their key in params.yaml; None where that is null.

        Raises:
            ArtifactError: If one is missing, or naming what does not belong to the others; see `check_chain`.
        """
        for place in places:
            put_back(place)
        self.inputs.add(*(description_of(place) for place in places), *(files or {}).values())
        artifacts = [read_artifact(place) for place in places]
        check_chain(artifacts, settings, files=files)
        return artifacts

    def check_inputs(self) -> None:
        """To be called before outputs take their places, and once more when all is written.

        Raises:
            EditedError: If an input, params.yaml or a source has been edited since the stage began.
        """
        self.inputs.check(self.name)


class _Collector(logging.Handler):
    """Keeps the text of warnings."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(record.getMessage().removeprefix("warning: "))  # pages show it, and names may hold anything
        if record.levelno == logging.WARNING and not getattr(record, PASSING, False) and text not in self._kept:
            self._kept.append(text)


@contextmanager
def run_stage(name: str, *, team: Team | None = None) -> Iterator[StageReport]:
    """Wrap a stage's work.

    One process, or one team, works on a stage of a folder at a time: its outputs take their places one after the other,
    and those of two runs would be mixed. Who comes second is refused before it has read anything.

    Prints `STAGE <name> [i/7]` and a closing line with rows, seconds, rows/s and peak memory of the process tree, and
    of its GPU where it has used one, which are also written to `.qin/stages/<name>.json` for benchmarks. A QinError, or
    a disk that cannot be read or written, becomes one line per problem on standard error and exit status 1. SIGTERM and
    Ctrl-C end the process in order.

    Args:
        name: One of STAGES.
        team: The processes that run it together, of which the first prints and writes, and any its error; None: one.
    """
    speaks = team is None or team.rank == 0
    log_to_stderr(logging.INFO if speaks else logging.ERROR)
    end_in_order()
    started, report, largest = time.monotonic(), StageReport(name), largest_resident_bytes()
    log.info("STAGE %s [%d/%d]", name, STAGES.index(name) + 1, len(STAGES))
    with errors_in_lines(name, team=team), claimed(name) if speaks else nullcontext(), _kept_warnings(report):
        report.inputs.add(PARAMS)
        # NumPy's products on one thread: with more, a sum's last digit would depend on the number of cores.
        with TreeMemory(os.getpid()) as memory, threadpool_limits(1, user_api="blas"):
            yield report
        peaks = [_peak_memory_bytes(memory, largest), peak_gpu_bytes()]
        if team is not None:
            peaks = [team.total(peak) for peak in peaks]
        if speaks:
            report.check_inputs()
            _close(name, report, seconds=time.monotonic() - started, peaks=peaks)


@contextmanager
def errors_in_lines(name: str, *, team: Team | None = None) -> Iterator[None]:
    """Turn errors that are the user's matter into lines on standard error, of one process for all, and an exit status.

    Args:
        name: One of STAGES.
        team: See `run_stage`.
    """
    try:
        yield
    except QinError as error:
        _report(error.lines, team)
        raise SystemExit(error.exit_status) from error
    except Exception as error:
        found = exhausted(error)
        if found is None and isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            found = f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}"
        if found is None:
            raise
        _report([f"stage {name}: {found}"], team)
        raise SystemExit(1) from error


@contextmanager
def _kept_warnings(report: StageReport) -> Iterator[None]:
    """Keep the text of warnings that are logged meanwhile."""
    collector = _Collector(report.warnings)
    log.addHandler(collector)
    try:
        yield
    finally:
        log.removeHandler(collector)


def _report(lines: list[str], team: Team | None) -> None:
    if team is None or team.is_first_to_report():
        for line in lines:
            log.error("error: %s", line)


def _close(name: str, report: StageReport, *, seconds: float, peaks: Sequence[int]) -> None:
    """Tell rows, time and the peak memory of the machine and, where one was used, of its GPU."""
    rate, (peak, on_gpu) = report.num_rows / max(seconds, 1e-9), peaks
    figures = {"num_rows": report.num_rows, "seconds": seconds, "rows_per_second": rate, "peak_memory_bytes": peak}
    if on_gpu:
        figures["peak_gpu_memory_bytes"] = on_gpu
    log.info(
        "STAGE %s done: %d rows, %.1f s, %.0f rows/s, peak memory %.2f GiB%s",
        *(name, report.num_rows, seconds, rate, peak / 2**30),
        f", of the GPU {on_gpu / 2**30:.2f} GiB" if on_gpu else "",
        extra={"fields": {"stage": name, **figures}},
    )
    write_json(SCRATCH / "stages" / f"{name}.json", figures)


def _peak_memory_bytes(memory: TreeMemory, largest_before: int) -> int:
    """Peak memory of the stage and of the processes that it started.

    What was sampled misses a short peak; of this process alone the system knows the largest, which says nothing where
    it is still what the parent held at the start.
    """
    largest = largest_resident_bytes()
    return max(memory.peak_bytes, largest if largest > largest_before else 0)


def end_in_order() -> None:
    """Let the process end by an exception where it is told to end; `nohup` goes on without its terminal."""
    for number in _ENDING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, raise_exit)


def raise_exit(number: int, _: FrameType | None) -> NoReturn:
    """Turn a signal to end into an exception, so that half-written files are removed; another one ends at once.

    But for a terminal that has gone: with it goes `dvc`, whose end is told by a signal of its own.
    """
    after = signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL
    for again in _ENDING:
        if again == signal.SIGINT or signal.getsignal(again) != signal.SIG_IGN:
            signal.signal(again, signal.SIG_DFL if again == signal.SIGINT else after)
    raise SystemExit(128 + number)
