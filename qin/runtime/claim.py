"""One process at a time for a stage: two that write the same outputs would write into each other's half-made files."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qin.errors import ArtifactError
from qin.runtime.paths import SCRATCH
from qin.runtime.progress import PASSING, log


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
