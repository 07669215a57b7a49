"""Names under which new content is written until it is whole, each held by the process that writes.

Two processes may write to one place at once, such as two `qin score` to one file. With one name for both, the second
would clear away what the first is writing, and the first would bring the second's half-written file into place. So
whoever writes holds a lock on what it writes: a file that another holds is left alone and has a name of its own, a
folder is refused. The lock goes with its process, however that ends, so that what a killed one left is told from it.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from qin.runtime.errors import ArtifactError
from qin.runtime.replacing import beside, remove


@contextmanager
def held_file(place: Path) -> Iterator[Path]:
    """An empty file beside another that no other process writes to; what is left of it at the end is removed.

    Args:
        place: Where its content will go.
    """
    number, descriptor = 1, _hold_file(beside(place, "tmp"))
    while descriptor is None:
        number += 1
        descriptor = _hold_file(_numbered(place, number))
    staging = _numbered(place, number)
    try:
        _clear_numbered(place, number)
        yield staging
    finally:
        if is_open_at(staging, descriptor):  # or it is in its place by now, and the name may be another's
            staging.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def held_directory(staging: Path, *, path: Path) -> Iterator[None]:
    """An empty folder that no other process writes to; what is left of it at the end is removed.

    Args:
        staging: The folder, which is made, or emptied of what a killed process left.
        path: What is being written, for the message.

    Raises:
        ArtifactError: If another process writes it.
    """
    descriptor = _hold_directory(staging)
    if descriptor is None:
        raise ArtifactError(f"{path}: another process is writing it; wait for it, or end it")
    try:
        for entry in list(staging.iterdir()):
            remove(entry)
        yield
    finally:
        if is_open_at(staging, descriptor):
            remove(staging)
        os.close(descriptor)


def is_open_at(path: Path, descriptor: int) -> bool:
    """Whether what a process has open is what has a name now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _numbered(place: Path, number: int) -> Path:
    """The first name, which a process alone always has, or a further one."""
    return beside(place, "tmp" if number == 1 else f"{number}.tmp")


def _clear_numbered(place: Path, own: int) -> None:
    """Remove what killed processes left under further names."""
    for number in count(2):
        staging = _numbered(place, number)
        if not staging.is_file():
            return
        descriptor = None if number == own else _hold_file(staging)
        if descriptor is not None:
            staging.unlink(missing_ok=True)
            os.close(descriptor)


def _hold_file(staging: Path) -> int | None:
    """Make an empty file and lock it; None where another process holds it."""
    while True:
        if staging.is_dir():  # of what once was a folder
            remove(staging)
        descriptor = os.open(staging, os.O_RDWR | os.O_CREAT, 0o666)
        if not _lock(descriptor):
            return None
        if is_open_at(staging, descriptor):
            os.ftruncate(descriptor, 0)
            return descriptor
        os.close(descriptor)  # who held it has brought it into its place meanwhile


def _hold_directory(staging: Path) -> int | None:
    """Make a folder and lock it; None where another process holds it."""
    while True:
        if staging.is_file() or staging.is_symlink():
            staging.unlink(missing_ok=True)
        staging.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # who held it has brought it into its place meanwhile
            continue
        if not _lock(descriptor):
            return None
        if is_open_at(staging, descriptor):
            return descriptor
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock what is open; False, and it is closed, where another process has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:  # a network file system without locks: nothing to hold, as before there were any
        return True
    return True
