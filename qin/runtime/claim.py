"""One process at a time for a stage or a run: two would write into each other's half-made files."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qin.runtime.errors import ArtifactError
from qin.runtime.paths import SCRATCH
from qin.runtime.progress import PASSING, log
from qin.runtime.staging import is_open_at


@contextmanager
def claimed(stage: str, *, folder: Path = SCRATCH / "locks", waits: bool = False) -> Iterator[None]:
    """Hold a stage of this project until the block ends, or the process does, however it ends.

    Args:
        stage: Its name.
        folder: Where the locks are; they stay there, empty but for the holder's number.
        waits: Wait for another process that holds it.

    Raises:
        ArtifactError: If another process holds it and this one does not wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stage}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            raise ArtifactError(
                f"{path}: another stage {stage} is at work in this folder (process {holder}); wait for it or end it"
            ) from error
        except OSError as error:  # a network file system without locks: nothing to hold, nothing to wait for
            text = "warning: %s: cannot be locked (%s); start stage %s only once"
            log.warning(text, path, error.strerror, stage, extra={PASSING: True})
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


class Turn:
    """Processes that do the same run take turns; who comes later finds what was done.

    Args:
        path: Of the lock, a file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None  # a descriptor: what no one closes is released when the process ends

    def claim(self) -> None:
        """Wait for the turn, and hold it until the process ends or releases it.

        Raises:
            ArtifactError: If the file system cannot lock files.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while self._lock is None:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _lock(descriptor, self._path)
            except OSError as error:
                hint = "set QIN_CHECKPOINTS to a folder on a local disk"
                raise ArtifactError(f"{self._path}: cannot be locked ({error.strerror}); {hint}") from error
            if is_open_at(self._path, descriptor):
                self._lock = descriptor
            else:  # who held it has removed it, and others may hold a new one
                os.close(descriptor)

    def release(self) -> None:
        """Remove the lock and let others claim it."""
        self._path.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(descriptor: int, path: Path) -> None:
    """Lock a file; it is released when the process ends, however that happens."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        log.warning("%s: another process trains the same run; waiting until it ends", path, extra={PASSING: True})
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
